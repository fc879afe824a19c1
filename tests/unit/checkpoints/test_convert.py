"""Converting: what other programs can open, what is refused, and nothing half-written."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
from pathlib import Path

import gguf
import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from engine.checkpoints.convert import convert as module
from engine.checkpoints.convert import writers
from engine.checkpoints.convert.convert import DTYPES, LAYOUTS, QUANTISED, convert
from engine.checkpoints.known import expected
from engine.checkpoints.known.recognise import recognise
from engine.checkpoints.layout import Entry, lay_out
from engine.checkpoints.load import Weights
from engine.checkpoints.locate import locate
from engine.checkpoints.source import Source, open_source
from engine.checkpoints.vocabulary.held import holds_vocabulary
from engine.checkpoints.vocabulary.pieces import MAX_PIECES
from engine.checkpoints.vocabulary.sentencepiece_model import of_sentencepiece
from engine.checkpoints.vocabulary.sentencepiece_model import sentencepiece as spiece
from engine.checkpoints.vocabulary.unigram import of_tokenizer_json
from engine.errors import CheckpointError
from tests.oracles.later import comfy_layouts, diffusers, transformers
from tests.oracles.naming import dit_name, vae_name
from tui.cli.commands.models import convert as models_convert

CPU = torch.device("cpu")


def micro(kind: str) -> Source:
    return open_source(locate(kind, "builtin:micro"))


def shipped(kind: str) -> dict[str, torch.Tensor]:
    return load_file(locate(kind, "builtin:micro"))


def test_diffusers_opens_the_transformer_and_the_vae(tmp_path: Path) -> None:
    for kind, model, rename in (
        ("denoiser", diffusers.WanTransformer3DModel, dit_name),
        ("vae", diffusers.AutoencoderKLWan, vae_name),
    ):
        folder = convert(micro(kind), tmp_path / kind, layout="diffusers", shard_bytes=1 << 20)
        opened = model.from_pretrained(folder, torch_dtype=torch.bfloat16).state_dict()
        expected = {rename(name): tensor for name, tensor in shipped(kind).items()}
        assert opened.keys() == expected.keys()
        assert all(
            torch.equal(opened[name].bfloat16(), tensor) for name, tensor in expected.items()
        )


@pytest.mark.parametrize("quantise", ["", "q8_0"])
def test_diffusers_opens_a_gguf_and_reads_the_same_numbers(tmp_path: Path, quantise: str) -> None:
    path = convert(micro("denoiser"), tmp_path / "dit.gguf", layout="gguf", quantise=quantise)
    folder = convert(open_source(path), tmp_path / "dit", layout="diffusers", dtype="fp32")
    as_blocks = diffusers.WanTransformer3DModel.from_single_file(
        str(path),
        config=str(folder),
        quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=torch.float32),
        torch_dtype=torch.float32,
    )
    plain = diffusers.WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, plain.config.in_channels, 2, 8, 8, generator=generator)
    text = torch.randn(1, 7, plain.config.text_dim, generator=generator)
    with torch.no_grad():
        given = {"timestep": torch.tensor([500.0]), "encoder_hidden_states": text}
        theirs, ours = (m(latents, **given).sample for m in (as_blocks, plain))
    # which multiplies q8_0 in fp16
    tolerance = 1e-3 if quantise else 1e-5
    assert (theirs - ours).abs().max() < tolerance * ours.abs().max()


def test_transformers_opens_the_text_encoder(tmp_path: Path) -> None:
    folder = convert(micro("text_encoder"), tmp_path / "umt5", layout="diffusers")
    model = transformers.UMT5EncoderModel.from_pretrained(folder, dtype=torch.bfloat16)
    tokens = shipped("text_encoder")["token_embedding.weight"]
    assert torch.equal(model.shared.weight, tokens)
    assert sum(p.numel() for p in model.parameters()) == sum(
        t.numel() for t in shipped("text_encoder").values()
    )


def test_torch_opens_a_pth(tmp_path: Path) -> None:
    path = convert(micro("vae"), tmp_path / "vae.pth", layout="original")
    opened = torch.load(path, weights_only=True)
    assert opened.keys() == shipped("vae").keys()
    assert all(torch.equal(opened[name], tensor) for name, tensor in shipped("vae").items())


def test_clip_is_joined_and_cut_again(tmp_path: Path) -> None:
    """Queries, keys and values are one matrix in the original and three in transformers."""
    config = transformers.CLIPVisionConfig(
        hidden_size=160, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28,
        patch_size=14, hidden_act="gelu",
    )  # fmt: skip
    model = transformers.CLIPVisionModel(config)
    model.save_pretrained(tmp_path / "hf")
    source = open_source(tmp_path / "hf")
    found = recognise(source)
    assert (found.component, found.variant, found.missing) == ("image_encoder", "clip (custom)", ())
    original = convert(source, tmp_path / "clip.pth", layout="original")
    joined = torch.load(original, weights_only=True)
    layer = model.state_dict()
    prefix = next(name for name in layer if name.endswith("layers.1.self_attn.q_proj.weight"))[
        : -len("q_proj.weight")
    ]
    expected = torch.cat([layer[f"{prefix}{part}_proj.weight"] for part in "qkv"])
    assert torch.equal(joined["visual.transformer.1.attn.to_qkv.weight"], expected)
    assert joined["visual.cls_embedding"].shape == (1, 1, 160)
    again = convert(open_source(original), tmp_path / "again", layout="diffusers")
    reopened = transformers.CLIPVisionModel.from_pretrained(again).state_dict()
    assert reopened.keys() == layer.keys()
    assert all(torch.equal(reopened[name], tensor) for name, tensor in layer.items())


@pytest.mark.parametrize(
    ("layout", "quantise", "worst"),
    [
        ("comfyui", "fp8", 0.07),
        ("comfyui", "int8", 0.011),
        ("gguf", "q8_0", 0.01),
        ("gguf", "q5_0", 0.08),
        ("gguf", "q4_1", 0.12),
    ],
)
@pytest.mark.parametrize("kind", ["denoiser", "text_encoder"])
def test_quantised_weights_come_back_near_what_they_were(
    tmp_path, kind, layout, quantise, worst
) -> None:
    """Relative L2 error of the matrices, which is told; the rest of the tensors is kept bit for bit."""
    errors: dict[str, float] = {}
    path = convert(
        micro(kind),
        tmp_path / f"file.{layout}",
        layout=layout,
        quantise=quantise,
        on_error=errors.__setitem__,
    )
    entries = lay_out(open_source(path)).entries
    assert quantise.split("_")[0] in recognise(open_source(path)).quantisation.lower()
    with Weights(entries) as weights:
        for name, tensor in shipped(kind).items():
            actual = weights.tensor(name, device=CPU, dtype=torch.float32)
            error = (actual - tensor.float()).norm() / tensor.float().norm().clamp(min=1e-9)
            if name in errors:
                assert 0 < error < worst
                assert float(error) == pytest.approx(errors[name])
            else:
                assert error == 0, name
    in_blocks = {name for name, t in shipped(kind).items() if "blocks." in name and t.ndim == 2}
    assert errors.keys() == {name for name in in_blocks if "pos_embedding" not in name}
    if (layout, kind) == ("comfyui", "denoiser"):
        assert load_file(path)["head.modulation"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("quantise", "layout"), [("int8", "TensorWiseINT8Layout"), ("fp8", "TensorCoreFP8Layout")]
)
def test_comfyui_reads_the_same_numbers(tmp_path: Path, quantise: str, layout: str) -> None:
    """By its own code, from what it looks for beside a weight."""
    theirs = getattr(comfy_layouts, layout)
    path = convert(
        micro("denoiser"), tmp_path / "x.safetensors", layout="comfyui", quantise=quantise
    )
    stored = load_file(path)
    with Weights(lay_out(open_source(path)).entries) as weights:
        for layer in ("blocks.0.self_attn.q", "blocks.5.ffn.2"):
            said = json.loads(stored[f"{layer}.comfy_quant"].numpy().tobytes())
            assert said["format"] == {"int8": "int8_tensorwise", "fp8": "float8_e4m3fn"}[quantise]
            params = theirs.Params(
                scale=stored[f"{layer}.weight_scale"],
                orig_dtype=torch.float32,
                orig_shape=tuple(stored[f"{layer}.weight"].shape),
            )
            numbers = theirs.dequantize(stored[f"{layer}.weight"], params)
            assert torch.equal(numbers, weights.tensor(f"{layer}.weight", device=CPU))


def test_what_is_not_rounded_is_stored_in_the_dtype_that_is_asked_for(tmp_path: Path) -> None:
    path = convert(
        micro("denoiser"),
        tmp_path / "x.safetensors",
        layout="comfyui",
        quantise="int8",
        dtype="fp16",
    )
    dtypes = {tensor.dtype for name, tensor in load_file(path).items() if "comfy_quant" not in name}
    assert dtypes == {torch.int8, torch.float16, torch.float32}  # of the last the scales are


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("vae", {"layout": "gguf"}, "cannot be written as gguf"),
        ("vae", {"layout": "comfyui", "quantise": "fp8"}, "a vae is not quantised"),
        ("denoiser", {"layout": "comfyui", "quantise": "q8_0"}, "stored in the layout gguf only"),
        ("denoiser", {"layout": "diffusers", "quantise": "fp8"}, "in the layout comfyui only"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, kind, options, words) -> None:
    with pytest.raises(CheckpointError, match=words):
        convert(micro(kind), tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_quantised_source_needs_a_dtype(tmp_path: Path) -> None:
    path = convert(micro("denoiser"), tmp_path / "q.gguf", layout="gguf", quantise="q8_0")
    with pytest.raises(CheckpointError, match="is quantised; say what to store instead"):
        convert(open_source(path), tmp_path / "out", layout="diffusers")
    convert(open_source(path), tmp_path / "out", layout="diffusers", dtype="bf16")


@pytest.mark.parametrize("layout", ["original", "diffusers", "gguf"])
def test_plain_fp8_needs_a_dtype_where_it_has_no_place(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "fp8.safetensors"
    tensors = shipped("denoiser")
    tensors[MATRIX] = tensors[MATRIX].to(torch.float8_e4m3fn)
    config = micro("denoiser").path.with_name("config.json").read_text()
    save_file(tensors, path, {"config": config})
    with pytest.raises(CheckpointError, match=r"holds fp8, .* comfyui only; .* --dtype bf16"):
        convert(open_source(path), tmp_path / "out", layout=layout)
    assert sorted(tmp_path.iterdir()) == [path]
    kept = convert(open_source(path), tmp_path / "again.safetensors", layout="comfyui")
    assert load_file(kept)[MATRIX].dtype == torch.float8_e4m3fn
    convert(open_source(path), tmp_path / "out", layout=layout, dtype="bf16")


def changed(folder: Path, kind: str, name: str, number: float, dtype=torch.float32) -> Source:
    """The micro component in fp32 with one number of one tensor replaced."""
    tensors = {each: tensor.float() for each, tensor in shipped(kind).items()}
    tensors[name] = tensors[name].to(dtype)
    tensors[name].view(-1)[1] = number
    config = locate(kind, "builtin:micro").with_name("config.json").read_text()
    save_file(tensors, folder / "source.safetensors", metadata={"config": config})
    return open_source(folder / "source.safetensors")


MATRIX = "blocks.0.ffn.0.weight"


@pytest.mark.parametrize(
    ("number", "dtype", "advice"),
    [
        (70_000.0, "fp16", "holds numbers up to 7e\\+04, but F16 ends at 6.55e\\+04; choose --dtype bf16"),
        (-70_000.0, "fp16", "choose --dtype bf16"),
        (3.4e38, "bf16", "but BF16 ends at .*; choose --dtype fp32"),
        (math.inf, "fp8", "holds numbers up to inf"),
        (math.nan, "fp8", "holds numbers up to nan"),
        (math.nan, "int8", "holds numbers up to nan"),
        (1e6, "q8_0", "but Q8_0 ends at .*; choose --dtype bf16"),
        (math.nan, "q4_0", "holds numbers up to nan"),
    ],
)  # fmt: skip
def test_numbers_that_a_dtype_cannot_hold_are_refused(tmp_path, number, dtype, advice) -> None:
    source = changed(tmp_path, "denoiser", MATRIX, number)
    how = {"quantise": dtype} if dtype in QUANTISED else {"dtype": dtype}
    layout = QUANTISED.get(dtype, "comfyui")
    with pytest.raises(CheckpointError, match=f"{MATRIX} .*{advice}"):
        convert(source, tmp_path / "out", layout=layout, **how)
    assert list(tmp_path.iterdir()) == [source.path]


@pytest.mark.parametrize(
    ("number", "dtype", "stored"),
    [(1e6, "fp8", 448.0), (1e6, "int8", 127.0), (65_504.0, "fp16", 65_504.0),
     (math.inf, "fp16", math.inf), (math.inf, "bf16", math.inf)],
)  # fmt: skip
def test_the_largest_number_of_a_dtype_is_held(tmp_path, number, dtype, stored) -> None:
    """And one that was infinite before stays so; a scale makes the largest number 448 in fp8 and 127 in int8."""
    source = changed(tmp_path, "denoiser", MATRIX, number)
    how = {"quantise": dtype} if dtype in QUANTISED else {"dtype": dtype}
    path = convert(source, tmp_path / "out", layout="comfyui", **how)
    assert load_file(path)[MATRIX].float().abs().max() == stored


def test_every_scale_uses_all_of_fp8(tmp_path: Path) -> None:
    path = convert(micro("denoiser"), tmp_path / "out", layout="comfyui", quantise="fp8")
    stored = load_file(path)
    squeezed = {name: t for name, t in stored.items() if t.dtype == torch.float8_e4m3fn}
    assert {float(t.float().abs().max()) for t in squeezed.values()} == {448.0}
    assert stored["blocks.0.ffn.0.weight_scale"].shape == ()
    said = json.loads(stored["blocks.0.ffn.0.comfy_quant"].numpy().tobytes())
    assert said["full_precision_matrix_mult"]  # no products in fp8 unless somebody asks for them


@pytest.mark.parametrize("dtype", ["keep", "bf16", "q8_0", "q4_0"])
@pytest.mark.parametrize("kind", ["denoiser", "text_encoder"])
def test_gguf_has_bf16_in_matrices_only(tmp_path: Path, kind: str, dtype: str) -> None:
    """ComfyUI-GGUF and diffusers know it there; elsewhere they take its bytes for numbers."""
    source = open_source(
        convert(micro(kind), tmp_path / "bf16.safetensors", layout="comfyui", dtype="bf16")
    )
    how = {"quantise": dtype} if dtype in QUANTISED else {"dtype": dtype}
    path = convert(source, tmp_path / "out.gguf", layout="gguf", **how)
    tensors = gguf.GGUFReader(path).tensors
    kinds = {(len(t.shape) == 2, t.tensor_type.name) for t in tensors}
    assert {name for is_matrix, name in kinds if not is_matrix} == {"F32"}
    assert "BF16" in {t.tensor_type.name for t in tensors} or dtype != "bf16"


def heard(source: Source, target: Path, **options) -> list[str]:
    said: list[str] = []
    convert(source, target, **options, warn=said.append)
    return said


def encoder_in(folder: Path, **changes: object) -> Source:
    """The micro model's encoder, its tokenizer.json beside it with changes."""
    folder.mkdir()
    path = folder / "encoder.safetensors"
    path.write_bytes(locate("text_encoder", "builtin:micro").read_bytes())
    table = json.loads(locate("tokenizer", "builtin:micro").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(table | changes))
    return open_source(path)


@pytest.mark.parametrize("layout", ["comfyui", "gguf"])
@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({}, "NFKC, Lowercase"),
        ({"normalizer": None, "pre_tokenizer": {"type": "Whitespace"}}, "Whitespace, no Metaspace"),
    ],
)
def test_a_vocabulary_that_would_read_prompts_otherwise_is_left_out_and_told(
    tmp_path: Path, layout: str, changes: dict, lost: str
) -> None:
    source = encoder_in(tmp_path / "in", **changes)
    (said,) = heard(source, tmp_path / "out", layout=layout)
    assert f"cannot say how tokenizer.json reads text ({lost})" in said
    assert not holds_vocabulary(open_source(tmp_path / "out"))


def test_a_vocabulary_goes_into_an_encoder_as_its_readers_want_it(tmp_path: Path) -> None:
    source = encoder_in(tmp_path / "in", normalizer=None)
    assert heard(source, tmp_path / "t5.safetensors", layout="comfyui", dtype="bf16") == []
    stored = load_file(tmp_path / "t5.safetensors")["spiece_model"]
    assert stored.dtype == torch.uint8
    theirs = sentencepiece.SentencePieceProcessor(model_proto=stored.numpy().tobytes())
    ours = Tokenizer.from_file(str(locate("tokenizer", "builtin:micro")))
    for prompt in ("a large red circle moves left", "a blue star", "zebra"):
        assert [*theirs.encode(prompt), theirs.eos_id()] == ours.encode(prompt).ids
    assert (theirs.pad_id(), theirs.eos_id(), theirs.unk_id()) == (0, 1, 2)

    # from there on it is carried along, into ComfyUI's layout bit for bit and into GGUF's fields
    again = open_source(tmp_path / "t5.safetensors")
    assert heard(again, tmp_path / "fp16.safetensors", layout="comfyui", dtype="fp16") == []
    assert torch.equal(load_file(tmp_path / "fp16.safetensors")["spiece_model"], stored)
    assert heard(again, tmp_path / "t5.gguf", layout="gguf", quantise="q8_0") == []
    fields = gguf.GGUFReader(tmp_path / "t5.gguf").fields
    assert fields["tokenizer.ggml.model"].contents() == "t5"
    pieces = fields["tokenizer.ggml.tokens"].contents()
    assert pieces == [theirs.id_to_piece(index) for index in range(theirs.vocab_size())]
    assert fields["tokenizer.ggml.token_type"].contents()[:4] == [3, 3, 2, 1]
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 1

    # and out of GGUF's fields
    there = open_source(tmp_path / "t5.gguf")
    assert heard(there, tmp_path / "back.safetensors", layout="comfyui", dtype="bf16") == []
    assert torch.equal(load_file(tmp_path / "back.safetensors")["spiece_model"], stored)


def test_an_encoder_without_a_tokenizer_beside_it_says_so(tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "t5.safetensors"
    alone.parent.mkdir()
    alone.write_bytes(locate("text_encoder", "builtin:micro").read_bytes())
    (said,) = heard(open_source(alone), tmp_path / "out.safetensors", layout="comfyui")
    assert "put spiece.model of google/umt5-xxl beside t5.safetensors" in said
    pieces = of_tokenizer_json(locate("tokenizer", "builtin:micro"))
    model = spiece(pieces)
    (alone.parent / "spiece.model").write_bytes(model)
    assert heard(open_source(alone), tmp_path / "two.safetensors", layout="comfyui") == []
    assert load_file(tmp_path / "two.safetensors")["spiece_model"].numpy().tobytes() == model


def test_what_is_no_part_of_the_component_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t5.safetensors"
    tensors = load_file(locate("text_encoder", "builtin:micro"))
    save_file(tensors | {"logit_scale": torch.ones(())}, path)
    assert recognise(open_source(path)).supported
    said = heard(open_source(path), tmp_path / "out.pth", layout="original")
    assert said == ["left out, as no part of the text encoder: logit_scale"]


REST = {
    "original": ("textual.token_embedding.weight", "visual.head", "log_scale"),
    "huggingface": ("text_model.embeddings.token_embedding.weight", "visual_projection.weight", "logit_scale"),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "clip_vision."])
@pytest.mark.parametrize("naming", list(REST))
@pytest.mark.parametrize("layout", ["original", "comfyui", "diffusers"])
def test_the_rest_of_clip_goes_along_or_is_told(
    tmp_path: Path, naming: str, layout: str, prefix: str
) -> None:
    config = transformers.CLIPVisionConfig(
        hidden_size=160, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=28,
        patch_size=14, hidden_act="gelu",
    )  # fmt: skip
    transformers.CLIPVisionModel(config).save_pretrained(tmp_path / "hf")
    tower = open_source(tmp_path / "hf")
    if naming == "original":
        tower = open_source(convert(tower, tmp_path / "tower.pth", layout="original"))
    entries = {name: Entry((info,), info.shape) for name, info in tower.tensors.items()}
    with Weights(entries) as weights:
        tensors = {name: weights.tensor(name, device=CPU).clone() for name in tower.tensors}
    rest = dict(
        zip(REST[naming], (torch.randn(9, 8), torch.randn(8, 8), torch.ones(())), strict=True)
    )
    given = {f"{prefix}{name}": tensor for name, tensor in (tensors | rest).items()}
    save_file(given, tmp_path / "whole.safetensors")
    said = heard(open_source(tmp_path / "whole.safetensors"), tmp_path / "out.x", layout=layout)
    if (naming, layout) in (("original", "original"), ("huggingface", "comfyui")):
        assert said == []
        load = torch.load if layout == "original" else load_file
        written = load(tmp_path / "out.x")
        assert len(written) == len(given)
        assert all(torch.equal(written[name], tensor) for name, tensor in rest.items())
        return
    (line,) = said
    assert line.startswith("left out, as no part of the image encoder: ")
    assert all(name in line for name in rest)


def test_scales_do_not_go_along_without_what_they_scale(tmp_path: Path) -> None:
    shape = expected.CLIPShape(width=160, layers=1, mlp=64, patch=14, tokens=5)
    tensors = {name: torch.ones(size) for name, size in expected.clip(shape).items()}
    for layer in ("visual.transformer.0.mlp.0", "textual.proj"):
        tensors[f"{layer}.weight"] = torch.ones(64, 160).to(torch.float8_e4m3fn)
        tensors[f"{layer}.scale_weight"] = torch.tensor(3.0)
    save_file(tensors | {"log_scale": torch.ones(())}, tmp_path / "whole.safetensors")
    source = open_source(tmp_path / "whole.safetensors")
    written = torch.load(convert(source, tmp_path / "clip.pth", layout="original", dtype="fp32"))
    assert written.keys() == {*expected.clip(shape), "log_scale"}
    assert torch.equal(written["visual.transformer.0.mlp.0.weight"], torch.full((64, 160), 3.0))


def test_parts_of_two_dtypes_are_kept_in_one_that_holds_both(tmp_path: Path) -> None:
    config = transformers.CLIPVisionConfig(
        hidden_size=160, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=28,
        patch_size=14, hidden_act="gelu",
    )  # fmt: skip
    tensors = {
        name: t.clone() for name, t in transformers.CLIPVisionModel(config).state_dict().items()
    }
    query = next(name for name in tensors if name.endswith("q_proj.weight"))
    dtypes = {"q": torch.bfloat16, "k": torch.float16, "v": torch.float16}
    for part, dtype in dtypes.items():
        name = query.replace("q_proj", f"{part}_proj")
        tensors[name] = tensors[name].to(dtype)
    save_file(tensors, tmp_path / "hf.safetensors")
    path = convert(open_source(tmp_path / "hf.safetensors"), tmp_path / "o.pth", layout="original")
    joined = torch.load(path, weights_only=True)["visual.transformer.0.attn.to_qkv.weight"]
    parts = [tensors[query.replace("q_proj", f"{part}_proj")].float() for part in "qkv"]
    assert torch.equal(joined, torch.cat(parts))


def test_a_source_that_changes_meanwhile_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    source = changed(tmp_path, "vae", "conv2.bias", 1.0)

    def verify(*arguments) -> None:
        os.utime(source.path, (1, 1))

    monkeypatch.setattr(module, "_verify", verify)
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        convert(source, tmp_path / "out.pth", layout="original")
    assert list(tmp_path.iterdir()) == [source.path]


@pytest.mark.parametrize("layout", ["original", "comfyui"])
def test_no_room_for_the_numbers_is_one_line(tmp_path: Path, layout: str) -> None:
    """Made for real: torch wraps what the system says in an assertion of its own."""
    target = tmp_path / "vae.pth"
    _, most = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))  # Python ignores the signal
    try:
        with pytest.raises(CheckpointError) as told:
            convert(micro("vae"), target, layout=layout)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(told.value) == f"{target}: cannot be written (File too large)"
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_source_is_refused(tmp_path: Path) -> None:
    tensors = shipped("vae")
    del tensors["conv2.bias"]
    save_file(tensors, tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match=r"not whole: 1 missing tensor \(conv2\.bias\)"):
        convert(open_source(tmp_path / "vae.safetensors"), tmp_path / "out", layout="diffusers")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "vae.pth"
    target.write_text("precious")
    with pytest.raises(CheckpointError, match="is there already"):
        convert(micro("vae"), target, layout="original")
    assert target.read_text() == "precious"


@pytest.mark.parametrize("layout", ["original", "diffusers", "comfyui", "gguf"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch, layout: str) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writers.os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot be written .*No space left"):
        convert(micro("denoiser"), tmp_path / "out", layout=layout)
    assert list(tmp_path.iterdir()) == []


def test_a_byte_that_turned_on_the_disk_is_noticed(tmp_path: Path, monkeypatch) -> None:
    def write(draft, *arguments, **options) -> None:
        writers.write_safetensors(draft, *arguments, **options)
        with draft.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))

    monkeypatch.setattr(module, "write_safetensors", write)
    with pytest.raises(CheckpointError, match="does not read back as written"):
        convert(micro("vae"), tmp_path / "vae.safetensors", layout="comfyui")
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_too_many_is_noticed(tmp_path: Path, monkeypatch) -> None:
    """Every tensor that was planned reads back, and still it is not what was to be written."""

    def write(draft, tensors, read, **options) -> None:
        extra = writers.Planned("extra", "F32", (1,))
        both = [*tensors, extra]
        writers.write_safetensors(
            draft, both, lambda name: torch.ones(1) if name == "extra" else read(name), **options
        )

    monkeypatch.setattr(module, "write_safetensors", write)
    with pytest.raises(CheckpointError, match="does not read back as what it was made of"):
        convert(micro("vae"), tmp_path / "vae.safetensors", layout="comfyui")
    assert list(tmp_path.iterdir()) == []


def test_the_heads_of_an_unpublished_size_travel_with_the_weights(tmp_path: Path) -> None:
    path = convert(micro("denoiser"), tmp_path / "dit.safetensors", layout="comfyui")
    assert json.loads(open_source(path).metadata["config"])["num_heads"] == 4


def test_the_command_offers_what_the_converter_knows() -> None:
    offered = models_convert.LAYOUTS, models_convert.DTYPES, models_convert.QUANTISED
    assert (tuple(LAYOUTS), DTYPES, QUANTISED) == offered


@pytest.mark.parametrize("layout", ["comfyui", "gguf"])
def test_a_vocabulary_that_is_none_is_refused_before_anything_is_written(
    tmp_path: Path, layout: str
) -> None:
    source = tmp_path / "in" / "t5.safetensors"
    source.parent.mkdir()
    source.write_bytes(locate("text_encoder", "builtin:micro").read_bytes())
    (source.parent / "spiece.model").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=r"no SentencePiece model.*get spiece\.model"):
        convert(open_source(source), tmp_path / "out", layout=layout)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "Unigram", "vocab": []}},
        {"model": {"type": "BPE", "vocab": {}}},
        {"model": 3},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": None}},
        {"added_tokens": [3]},
    ],
)
def test_a_tokenizer_that_has_no_such_pieces_is_refused(tmp_path: Path, change) -> None:
    table = json.loads(locate("tokenizer", "builtin:micro").read_text())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(table | change))
    with pytest.raises(CheckpointError, match="not a Unigram tokenizer"):
        of_tokenizer_json(path)


def test_a_tokenizer_as_large_as_the_published_one_is_read(tmp_path: Path) -> None:
    """It has 256,384 pieces: fewer are made here, each longer."""
    table = json.loads(locate("tokenizer", "builtin:micro").read_text())
    table["model"]["vocab"] += [
        [f"▁a very long piece of text, number {n}, {'x' * 350}", -9.0] for n in range(20_000)
    ]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(table))
    assert path.stat().st_size > 8_000_000
    found = of_tokenizer_json(path)
    assert of_sentencepiece(spiece(found)).pieces == found.pieces
    assert MAX_PIECES > 256_384
