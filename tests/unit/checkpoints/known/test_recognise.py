"""What files are, from their headers alone: every published variant and layout, whatever the file is called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest

from engine.checkpoints.known import expected
from engine.checkpoints.known.expected import PUBLISHED, DiTShape
from engine.checkpoints.known.recognise import Recognition, recognise
from engine.checkpoints.library import look, whole
from engine.checkpoints.names import from_original
from engine.checkpoints.source import open_source
from tests.weights.model_files import write_safetensors, write_sharded

Shapes = Mapping[str, tuple[int, ...]]

TINY = DiTShape(dim=1536, ffn_dim=64, num_layers=2)
CLIP = expected.CLIPShape()
MATRIX_ENDS = ("q.weight", "k.weight", "v.weight", "o.weight", "ffn.0.weight", "ffn.2.weight")


def typed(shapes: Shapes, dtype: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (dtype, shape) for name, shape in shapes.items()}


def told(path: Path) -> Recognition:
    return recognise(open_source(path))


def renamed(component: str, naming: str, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Under another naming; what is several tensors there is cut into as many."""
    table = {}
    for name, shape in shapes.items():
        names = from_original(component, naming, name)
        part = (shape[0] // len(names), *shape[1:]) if len(names) > 1 else shape
        table |= dict.fromkeys(names, part)
    return table


@pytest.mark.parametrize("variant", [name for name in PUBLISHED if not name.endswith("t2v-a14b")])
def test_every_published_transformer(tmp_path: Path, variant: str) -> None:
    path = write_safetensors(
        tmp_path / "x.safetensors", typed(expected.dit(PUBLISHED[variant]), "BF16")
    )
    found = told(path)
    assert (found.component, found.variant) == ("denoiser", variant)
    assert (found.missing, found.unexpected, found.misshapen) == ((), (), ())
    loads = variant.startswith("wan2.1") and "vace" not in variant
    assert found.supported == loads
    assert ("not supported yet" in found.note) == (not loads)


@pytest.mark.parametrize(
    ("place", "variant"),
    [
        ("model.safetensors", "wan2.1-t2v-14b"),
        ("Wan2.1-T2V-14B/model.safetensors", "wan2.1-t2v-14b"),
        ("wan2.2_t2v_high_noise_14B_fp16.safetensors", "wan2.2-t2v-a14b"),
        ("Wan2_2-T2V-A14B-LOW_fp8.safetensors", "wan2.2-t2v-a14b"),
        ("low_noise_model/model.safetensors", "wan2.2-t2v-a14b"),
        ("models--Wan-AI--Wan2.2-T2V-A14B/snapshots/1/x/model.safetensors", "wan2.2-t2v-a14b"),
        ("wan2.2 tests/wan2.1/model.safetensors", "wan2.1-t2v-14b"),
    ],
)
def test_the_twins_of_two_generations_are_told_by_their_surroundings(
    tmp_path, place, variant
) -> None:
    path = write_safetensors(
        tmp_path / place, typed(expected.dit(PUBLISHED["wan2.1-t2v-14b"]), "BF16")
    )
    found = told(path)
    assert (found.variant, found.supported) == (variant, variant.startswith("wan2.1"))
    assert "Wan 2.2" in found.note


@pytest.mark.parametrize(
    "place", ["Wan2.2-T2V-A14B/x.safetensors", "low_noise_model/x.safetensors"]
)
def test_a_relative_path_has_surroundings_too(tmp_path: Path, monkeypatch, place: str) -> None:
    path = write_safetensors(
        tmp_path / place, typed(expected.dit(PUBLISHED["wan2.1-t2v-14b"]), "BF16")
    )
    monkeypatch.chdir(path.parent)
    assert told(Path("x.safetensors")).variant == "wan2.2-t2v-a14b"


def test_an_expert_in_a_diffusers_folder_is_told_by_its_pipeline(
    tmp_path: Path, monkeypatch
) -> None:
    shapes = renamed("denoiser", "diffusers", expected.dit(PUBLISHED["wan2.1-t2v-14b"]))
    index = write_sharded(tmp_path / "transformer", typed(shapes, "BF16"), num_shards=6)
    assert (told(index).variant, told(index).layout, told(index).shards) == (
        "wan2.1-t2v-14b",
        "diffusers",
        6,
    )
    (tmp_path / "model_index.json").write_text(json.dumps({"boundary_ratio": 0.875}))
    assert told(index).variant == "wan2.2-t2v-a14b"
    monkeypatch.chdir(index.parent)
    assert told(Path(index.name)).variant == "wan2.2-t2v-a14b"


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("a.safetensors", "wan2.1-i2v-14b"),
        ("wan2.1_i2v_480p_14B_fp16.safetensors", "wan2.1-i2v-14b-480p"),
        ("Wan2_1-I2V-14B-720P_fp8.safetensors", "wan2.1-i2v-14b-720p"),
    ],
)
def test_image_to_video_of_two_sizes(tmp_path: Path, name: str, variant: str) -> None:
    path = write_safetensors(
        tmp_path / name, typed(expected.dit(PUBLISHED["wan2.1-i2v-14b"]), "F16")
    )
    assert told(path).variant == variant


@pytest.mark.parametrize(
    ("component", "naming", "shapes", "variant", "layout"),
    [
        ("denoiser", "diffusers", expected.dit(PUBLISHED["wan2.1-t2v-1.3b"]), "wan2.1-t2v-1.3b", "diffusers"),
        ("denoiser", "diffusers", expected.dit(PUBLISHED["wan2.1-flf2v-14b"]), "wan2.1-flf2v-14b", "diffusers"),
        ("vae", "original", expected.vae(), "wan2.1-vae", "comfyui"),
        ("vae", "diffusers", expected.vae(), "wan2.1-vae", "diffusers"),
        ("vae", "original", expected.vae22(), "wan2.2-vae", "comfyui"),
        ("vae", "diffusers-2.2", expected.vae22(), "wan2.2-vae", "diffusers"),
        ("text_encoder", "original", expected.umt5(expected.UMT5Shape()), "umt5-xxl", "comfyui"),
        ("text_encoder", "huggingface", expected.umt5(expected.UMT5Shape()), "umt5-xxl", "huggingface"),
        ("text_encoder", "llama.cpp", expected.umt5(expected.UMT5Shape()), "umt5-xxl", "llama.cpp"),
        ("image_encoder", "original", expected.clip(CLIP), "clip-vit-h-14", "comfyui"),
        ("image_encoder", "huggingface", expected.clip(CLIP), "clip-vit-h-14", "huggingface"),
    ],
)  # fmt: skip
def test_every_component_under_every_naming(
    tmp_path, component, naming, shapes, variant, layout
) -> None:
    path = write_safetensors(
        tmp_path / "x.safetensors", typed(renamed(component, naming, shapes), "F16")
    )
    found = told(path)
    assert (found.component, found.variant, found.layout) == (component, variant, layout)
    assert (found.missing, found.unexpected, found.misshapen) == ((), (), ())
    assert found.parameters == sum(_count(shape) for shape in shapes.values())


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def test_repackaged_files_have_a_prefix_and_more_than_one_dtype(tmp_path: Path) -> None:
    tensors = typed(expected.dit(PUBLISHED["wan2.1-i2v-14b"]), "F16")
    tensors["patch_embedding.weight"] = ("F32", tensors["patch_embedding.weight"][1])
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()}
    found = told(write_safetensors(tmp_path / "x.safetensors", prefixed))
    assert (found.prefix, found.layout) == ("model.diffusion_model.", "comfyui")
    assert found.dtypes == {"F16": 16_394_878_784 - 5120 * 36 * 4, "F32": 5120 * 36 * 4}
    assert (
        found.file_bytes - 2 * found.parameters - 1_474_560 < 300_000
    )  # as published: wan-facts of the fp16 files


def fp8(shapes: Shapes, scale: str | None, scale_shape) -> dict[str, tuple[str, tuple[int, ...]]]:
    tensors = typed(shapes, "BF16")
    for name, shape in shapes.items():
        if name.startswith("blocks.") and name.endswith(MATRIX_ENDS):
            tensors[name] = ("F8_E4M3", shape)
            if scale is not None:
                tensors[f"{name.removesuffix('weight')}{scale}"] = ("F32", scale_shape(shape))
    return tensors


@pytest.mark.parametrize(
    ("scale", "scale_shape", "marker", "words"),
    [
        (None, None, None, "fp8_e4m3fn"),
        ("scale_weight", lambda shape: (), (0,), "fp8_e4m3fn scaled"),
        ("scale_weight", lambda shape: (1,), (2,), "fp8_e4m3fn scaled"),
        ("weight_scale", lambda shape: (shape[0], 1), None, "fp8_e4m3fn scaled by row"),
    ],
)
def test_fp8_with_and_without_scales(tmp_path: Path, scale, scale_shape, marker, words) -> None:
    tensors = fp8(expected.dit(PUBLISHED["wan2.1-t2v-1.3b"]), scale, scale_shape)
    if marker is not None:
        tensors["scaled_fp8"] = ("F8_E4M3", marker)
        tensors["blocks.0.self_attn.q.scale_input"] = ("F32", ())
    found = told(write_safetensors(tmp_path / "x.safetensors", tensors))
    assert (found.variant, found.quantisation, found.layout) == (
        "wan2.1-t2v-1.3b",
        words,
        "comfyui",
    )
    assert found.supported
    assert found.parameters == 1_418_996_800


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            {"blocks.0.self_attn.q.scale_weight": ("F32", (3,))},
            "expected one number, one for each row",
        ),
        ({"blocks.0.self_attn.q.scale_weight": ("I8", ())}, "has a scale of I8"),
        ({"nobody.scale_weight": ("F32", ())}, "scales nobody.weight, which is not in the file"),
        ({"spare.weight": ("F32", (2,))}, "spare.weight"),
    ],
)
def test_what_makes_no_sense_is_named(tmp_path: Path, extra, words) -> None:
    tensors = typed(expected.dit(TINY), "BF16") | extra
    found = told(write_safetensors(tmp_path / "x.safetensors", tensors))
    assert any(words in name for name in found.unexpected)
    assert not found.supported


def test_unexpected_tensors_alone_are_told_as_the_reason(tmp_path: Path) -> None:
    tensors = typed(expected.dit(TINY), "BF16") | {"control.weight": ("F32", (2,))}
    found = told(write_safetensors(tmp_path / "x.safetensors", tensors))
    assert not found.supported
    assert found.note == "cannot be loaded for its unexpected tensors, which would be left out"
    del tensors["blocks.1.ffn.2.bias"]
    assert told(write_safetensors(tmp_path / "x.safetensors", tensors)).note == ""


def test_what_is_missing_or_misshapen_is_named(tmp_path: Path) -> None:
    tensors = typed(expected.dit(TINY), "BF16")
    del tensors["blocks.1.ffn.2.bias"]
    tensors["blocks.0.norm3.weight"] = ("BF16", (7,))
    found = told(write_safetensors(tmp_path / "x.safetensors", tensors))
    assert found.missing == ("blocks.1.ffn.2.bias",)
    assert found.misshapen == ("blocks.0.norm3.weight is [7] instead of [1536]",)
    assert not found.supported


def test_a_gguf_whose_conversion_was_not_finished(tmp_path: Path) -> None:
    """ComfyUI-GGUF takes tensors of five axes out before it quantises, and puts them back in a step of its own."""
    writer = gguf.GGUFWriter(tmp_path / "wan.gguf", "wan")
    for name, shape in expected.dit(DiTShape(dim=16, ffn_dim=32, num_layers=1, text_dim=8)).items():
        if name != "patch_embedding.weight":
            writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = told(tmp_path / "wan.gguf")
    assert (found.component, found.supported) == ("denoiser", False)
    assert "patch_embedding.weight, which has five axes, was never put back" in found.note
    assert "get another GGUF" in found.note


def test_a_tied_table_may_have_either_name(tmp_path: Path) -> None:
    shape = expected.UMT5Shape(vocab=8, dim=4, ffn=8, layers=1, heads=2, buckets=4, inner=4)
    tensors = typed(renamed("text_encoder", "huggingface", expected.umt5(shape)), "F32")
    both = tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"]}
    other = {name: tensor for name, tensor in both.items() if name != "shared.weight"}
    for table in (tensors, both, other):
        found = told(write_safetensors(tmp_path / "x.safetensors", table))
        assert (found.variant, found.missing, found.unexpected) == ("umt5 (custom)", (), ())


def test_other_halves_of_clip_are_left_out(tmp_path: Path) -> None:
    tensors = typed(expected.clip(CLIP), "F16")
    tensors |= {
        "visual.head": ("F16", (1280, 1024)),
        "log_scale": ("F32", ()),
        "textual.x.weight": ("F16", (9,)),
    }
    found = told(write_safetensors(tmp_path / "x.safetensors", tensors))
    assert (found.variant, found.unexpected, found.parameters) == ("clip-vit-h-14", (), 630_766_080)


@pytest.mark.parametrize(
    ("tensors", "component", "words"),
    [
        ({"model.layers.0.q.weight": ("F32", (2, 2))}, "unknown", "not a component of Wan"),
        ({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": ("F16", (4, 8))}, "lora", "LoRA in the original names"),
        ({"lora_unet_blocks_0_self_attn_q.lora_down.weight": ("F16", (4, 8))}, "lora", "kohya"),
        ({"transformer.blocks.0.attn1.to_q.lora_A.weight": ("F16", (4, 8))}, "lora", "LoRA in diffusers names"),
        ({"diffusion_model.blocks.0.norm3.diff": ("F16", (8,))}, "lora", "original names"),
        (typed({"vace_patch_embedding.weight": (1536, 96, 1, 2, 2)}, "F16"), "denoiser", "VACE module"),
        (typed(expected.dit(DiTShape(dim=1536, ffn_dim=8960, num_layers=30, in_dim=48)), "F16"),
         "denoiser", "Wan-Fun"),
    ],
)  # fmt: skip
def test_what_is_not_loaded_is_named_all_the_same(
    tmp_path: Path, tensors, component, words
) -> None:
    found = told(write_safetensors(tmp_path / "x.safetensors", tensors))
    assert (found.component, found.supported) == (component, False)
    assert words in found.note


def t5(*, is_umt5: bool) -> dict[str, tuple[int, ...]]:
    names = {
        "shared.weight": (32_128, 64),
        "encoder.final_layer_norm.weight": (64,),
    }
    for number in range(2):
        block = f"encoder.block.{number}.layer."
        names |= {f"{block}0.SelfAttention.{x}.weight": (64, 64) for x in "qkvo"}
        names |= {f"{block}{n}.layer_norm.weight": (64,) for n in "01"}
        names |= {f"{block}1.DenseReluDense.wi_{n}.weight": (160, 64) for n in "01"}
        names[f"{block}1.DenseReluDense.wo.weight"] = (64, 160)
        if is_umt5 or not number:
            names[f"{block}0.SelfAttention.relative_attention_bias.weight"] = (32, 8)
    return names


def test_t5_is_not_taken_for_a_damaged_umt5(tmp_path: Path) -> None:
    found = told(write_safetensors(tmp_path / "t5.safetensors", typed(t5(is_umt5=False), "F16")))
    assert (found.component, found.supported, found.missing) == ("text_encoder", False, ())
    assert found.note.startswith("T5 v1.1, the encoder of Flux")
    assert "umt5-xxl" in found.note
    # what it is matters more than that it was not written whole
    assert whole(look(tmp_path / "t5.safetensors")).recognition == found
    assert told(
        write_safetensors(tmp_path / "u.safetensors", typed(t5(is_umt5=True), "F16"))
    ).supported


@pytest.mark.parametrize(
    ("shape", "more", "variant"),
    [
        ({"in_dim": 36}, "control_adapter.conv.weight", "wan2.2-fun-control-camera"),
        ({"in_dim": 52}, "ref_conv.weight", "wan2.2-fun-control"),
        ({"in_dim": 32, "image_branch": True}, "control_adapter.conv.weight", "wan2.1-fun-control-camera"),
        ({"in_dim": 48, "image_branch": True}, "patch_embedding.weight", "wan2.1-fun-control"),
    ],
)  # fmt: skip
def test_control_models_of_fun_are_told_whatever_their_size(
    tmp_path: Path, shape, more: str, variant: str
) -> None:
    for dim, layers in ((5120, 40), (1536, 2)):
        wanted = expected.dit(DiTShape(dim=dim, ffn_dim=dim, num_layers=layers, **shape))
        tensors = {more: (4, 4, 2, 2)} | wanted
        found = told(write_safetensors(tmp_path / f"{dim}.safetensors", typed(tensors, "BF16")))
        assert (found.variant, found.supported) == (variant, False)
        assert "Wan-Fun control model, not supported yet" in found.note


@pytest.mark.parametrize(
    ("in_dim", "emb_pos", "variant", "note"),
    [
        (36, False, "wan2.1-i2v (custom)", ""),
        (36, True, "wan2.1-flf2v (custom)", ""),
        (20, False, "wan2.1-i2v (custom)", "takes 4 channels of given frames, not supported yet"),
        (16, False, "wan2.1-i2v (custom)", "takes 0 channels of given frames, not supported yet"),
    ],
)
def test_a_model_of_another_size_with_an_image_branch(
    tmp_path: Path, in_dim: int, emb_pos: bool, variant: str, note: str
) -> None:
    shape = DiTShape(
        dim=1536, ffn_dim=64, num_layers=2, in_dim=in_dim, image_branch=True, emb_pos=emb_pos
    )
    found = told(
        write_safetensors(tmp_path / "inp.safetensors", typed(expected.dit(shape), "BF16"))
    )
    assert (found.variant, found.note, found.supported) == (variant, note, not note)


def test_everything_in_one_file_is_called_that(tmp_path: Path) -> None:
    names = {f"model.diffusion_model.{n}": s for n, s in expected.dit(TINY).items()}
    names |= {f"text_encoders.umt5xxl.transformer.{n}": s for n, s in t5(is_umt5=True).items()}
    names |= {f"vae.{n}": s for n, s in expected.vae(8).items()}
    found = told(write_safetensors(tmp_path / "aio.safetensors", typed(names, "F16")))
    assert (found.component, found.supported) == ("unknown", False)
    assert found.note.startswith("several components in one file (denoiser, vae, text encoder)")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "Flux or HunyuanVideo"),
        ("transformer_blocks.0.attn1.to_q.weight", "LTX-Video"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "a CLIP text encoder"),
        ("model.layers.0.self_attn.q_proj.weight", "a language model"),
        ("first_stage_model.decoder.up.0.block.0.conv1.weight", "the VAE of images"),
    ],
)
def test_models_that_lie_beside_those_of_wan_have_a_name(tmp_path: Path, name, words) -> None:
    found = told(write_safetensors(tmp_path / "x.safetensors", {name: ("F16", (4, 4))}))
    assert (found.component, found.supported) == ("unknown", False)
    assert words in found.note


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_buffer_is_left_out_and_told_and_a_stray_is_named(tmp_path: Path, prefix: str) -> None:
    tensors = {f"{prefix}{name}": shape for name, shape in expected.dit(TINY).items()}
    buffers = {"model_sampling.sigmas": (1000,), f"{prefix}freqs": (1024, 64)}
    path = write_safetensors(tmp_path / "x.safetensors", typed(tensors | buffers, "F32"))
    found = told(path)
    assert found.supported
    assert found.note == "model_sampling.sigmas, freqs: not part of it, left out"
    path = write_safetensors(tmp_path / "y.safetensors", typed(tensors | {"odd": (4,)}, "F32"))
    found = told(path)
    assert (found.component, found.supported) == ("denoiser", False)
    assert found.unexpected == ("odd",)
