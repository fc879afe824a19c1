"""The test material itself, by other programs' readers: what it writes is what was published."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import gguf
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer

from engine.checkpoints.known.recognise import Recognition, recognise
from engine.checkpoints.library import look
from engine.checkpoints.source import open_source
from tests.oracles.later import transformers
from tests.weights import layouts, synthetic
from tests.weights.synthetic import DITS, FILES, REPOSITORIES, typed

SMALL = {"a.weight": ("F32", (3, 2)), "b": ("BF16", (4,)), "c": ("F16", ()), "d": ("F32", (2, 2))}
A = torch.arange(6.0).view(3, 2)
DATA = {"a.weight": A.numpy().tobytes()}


def recognised(path: Path) -> Recognition:
    found = recognise(open_source(path))
    assert (found.missing, found.unexpected, found.misshapen) == ((), (), ())
    return found


def held(path: Path) -> int:
    """Bytes that a file takes on the disk."""
    return path.stat().st_blocks * 512


def check_small(tensors: dict[str, torch.Tensor]) -> None:
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        name: shape for name, (_, shape) in SMALL.items()
    }
    assert [tensors[name].dtype for name in "bcd"] == [torch.bfloat16, torch.float16, torch.float32]
    assert torch.equal(tensors["a.weight"], A)
    assert not any(tensors[name].any() for name in "bcd")


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    path = synthetic.write_safetensors(tmp_path / "x", SMALL, metadata={"k": "v"}, data=DATA)
    check_small(load_file(path))
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"k": "v"}


@pytest.mark.parametrize(
    ("how", "files"), [({"num_shards": 2}, 2), ({"shard_bytes": 24}, 3), ({"shard_bytes": 99}, 1)]
)
def test_shards_and_their_index(tmp_path: Path, how: dict[str, int], files: int) -> None:
    path = synthetic.write_sharded(tmp_path, SMALL, data=DATA, **how)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) == files
    check_small({name: tensor for shard in shards for name, tensor in load_file(shard).items()})
    if files == 1:
        assert path == tmp_path / "diffusion_pytorch_model.safetensors"
        return
    index = json.loads(path.read_text())
    assert index["metadata"] == {"total_size": 24 + 8 + 2 + 16}
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    for shard in shards:
        inside = {name for name, file in index["weight_map"].items() if file == shard.name}
        assert load_file(shard).keys() == inside


@pytest.mark.parametrize("mmap", [True, False])
def test_torch_opens_a_pth(tmp_path: Path, mmap: bool) -> None:
    path = synthetic.write_pth(tmp_path / "x.pth", SMALL, data=DATA)
    check_small(torch.load(path, weights_only=True, mmap=mmap))


def test_torch_opens_a_pth_of_eleven_gigabytes(tmp_path: Path) -> None:
    last = "norm.weight"
    ones = torch.ones(4096, dtype=torch.bfloat16)
    data = {last: ones.view(torch.int16).numpy().tobytes()}
    path = synthetic.write_pth(tmp_path / "x.pth", typed(synthetic.umt5(), "BF16"), data=data)
    tensors = torch.load(path, weights_only=True, mmap=True)
    assert tensors["token_embedding.weight"].shape == (256_384, 4096)
    assert torch.equal(tensors[last], ones)
    assert sum(tensor.numel() for tensor in tensors.values()) == 5_680_910_336
    assert held(path) < 4 << 20


def test_gguf_reads_what_is_written(tmp_path: Path) -> None:
    tensors = {"five": ("F16", (8, 4, 1, 2, 2)), "k": ("Q4_K", (2, 512)), "f": ("F32", (3, 2))}
    metadata = {"n": 7, "yes": True, "x": 0.5, "comfy.gguf.orig_shape.k": [2, 512]}
    path = synthetic.write_gguf(
        tmp_path / "x.gguf", tensors, metadata=metadata, vocabulary=50, data={"f": A.numpy().tobytes()}
    )  # fmt: skip
    read = gguf.GGUFReader(path)
    found = {tensor.name: tensor for tensor in read.tensors}
    assert {
        name: (t.tensor_type.name, tuple(t.shape[::-1])) for name, t in found.items()
    } == tensors
    assert torch.equal(torch.tensor(found["f"].data), A)
    assert read.fields["general.architecture"].contents() == "wan"
    assert {key: read.fields[key].contents() for key in metadata} == metadata
    pieces = read.fields["tokenizer.ggml.tokens"].contents()
    assert (
        len(pieces)
        == len(set(pieces))
        == len(read.fields["tokenizer.ggml.scores"].contents())
        == 50
    )


@pytest.mark.parametrize(
    ("variant", "tensors", "parameters"),
    [
        ("wan2.1-t2v-1.3b", 825, 1_418_996_800),
        ("wan2.1-t2v-14b", 1095, 14_288_491_584),
        ("wan2.1-i2v-14b-480p", 1303, 16_394_878_784),
        ("wan2.1-flf2v-14b", 1304, 16_395_536_704),
        ("wan2.1-vace-1.3b", 1264, 2_153_972_032),
        ("wan2.1-vace-14b", 1331, 17_337_592_896),
        ("wan2.2-i2v-a14b", 1095, 14_288_901_184),
        ("wan2.2-ti2v-5b", 825, 4_999_787_712),
    ],
)
def test_published_transformers_in_both_namings(
    variant: str, tensors: int, parameters: int
) -> None:
    shapes = synthetic.dit(DITS[variant])
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (tensors, parameters)
    theirs, _ = synthetic.peer_dit(DITS[variant])
    assert Counter(theirs.values()) == Counter(shapes.values())


@pytest.mark.parametrize(
    ("shapes", "theirs", "tensors", "parameters"),
    [
        (synthetic.vae(), lambda: synthetic.peer_vae(second=False), 194, 126_892_531),
        (synthetic.vae22(), lambda: synthetic.peer_vae(second=True), 196, 704_688_668),
        (synthetic.umt5(), synthetic.peer_umt5, 242, 5_680_910_336),
    ],
)
def test_other_published_components_in_both_namings(shapes, theirs, tensors, parameters) -> None:
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (tensors, parameters)
    assert Counter(theirs()[0].values()) == Counter(shapes.values())


def test_clip_in_both_namings() -> None:
    theirs, _ = synthetic.peer_clip()
    count = sum(map(math.prod, theirs.values()))
    assert (
        count == sum(map(math.prod, synthetic.clip_visual().values())) == 630_766_080 + 1280 * 1024
    )


def test_names_are_those_that_transformers_saves(tmp_path: Path) -> None:
    sizes = {"vocab_size": 8, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    transformers.UMT5EncoderModel(transformers.UMT5Config(**sizes)).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    named, config = synthetic.peer_module("UMT5EncoderModel", **sizes)
    assert {name: tuple(tensor.shape) for name, tensor in saved.items()} == named
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert transformers.UMT5EncoderModel.from_pretrained(tmp_path).shared.num_embeddings == 8


PTH = {"text_encoder": 11_361_920_418, "vae": 507_609_880, "image_encoder": 4_772_359_047}


@pytest.mark.parametrize(
    ("name", "shards", "index", "pth"),
    [
        ("Wan2.1-T2V-1.3B", [5_676_070_424], 0, PTH),
        (
            "Wan2.1-T2V-14B",
            [9_887_603_256, 9_839_059_648, *[9_839_059_744] * 3, 7_910_235_256],
            96_805,
            PTH,
        ),
        (
            "Wan2.1-I2V-14B-480P",
            [9_847_223_624, 9_797_021_016, 9_797_041_744, *[9_692_142_864] * 3, 7_061_933_536],
            0,
            PTH,
        ),
        (
            "Wan2.2-TI2V-5B",
            [9_825_014_472, 9_995_661_736, 178_558_176],
            72_865,
            PTH | {"vae": 2_818_839_170},
        ),
    ],
)
def test_repositories_have_the_published_sizes(
    tmp_path: Path, name: str, shards: list[int], index: int, pth: dict[str, int]
) -> None:
    """The transformers' to the byte; an archive of torch has paddings that its version decides."""
    paths = synthetic.repository(name, tmp_path)
    folder = tmp_path / name
    assert [file.stat().st_size for file in sorted(folder.glob("*.safetensors"))] == shards
    assert not index or paths["denoiser"].stat().st_size == index
    for component, size in pth.items():
        if component in paths:
            assert abs(paths[component].stat().st_size - size) < 50_000
    assert sum(map(held, folder.iterdir())) < 8 << 20


@pytest.mark.parametrize(
    ("name", "size", "rest"),
    [
        ("wan2.1_t2v_1.3B_fp16.safetensors", 2_838_303_560, 31_000),
        ("wan2.1_i2v_480p_14B_fp16.safetensors", 32_791_377_504, 11_000),
        ("wan2.1_flf2v_720p_14B_fp16.safetensors", 32_792_693_440, 11_000),
        ("wan2.1_vace_14B_fp16.safetensors", 34_675_323_640, 0),
        ("wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", 14_294_742_832, 0),
        ("wan2.2_ti2v_5B_fp16.safetensors", 9_999_658_848, 0),
        ("umt5_xxl_fp16.safetensors", 11_366_399_385, 0),
        ("umt5_xxl_fp8_e4m3fn_scaled.safetensors", 6_735_906_897, 0),
        ("wan_2.1_vae.safetensors", 253_815_318, 10_000),
        ("wan2.2_vae.safetensors", 1_409_400_960, 0),
        ("clip_vision_h.safetensors", 1_264_219_396, 100),
        ("Wan2_1_VAE_bf16.safetensors", 253_806_278, 0),
        ("umt5-xxl-encoder-Q8_0.gguf", 6_043_068_256, 500_000),
    ],
)
def test_single_files_have_the_published_sizes(tmp_path: Path, name, size, rest) -> None:
    """rest: bytes of other metadata, or of the pieces of a vocabulary."""
    path = synthetic.single_file(name, tmp_path)
    assert abs(path.stat().st_size - size) <= rest
    assert held(path) < 8 << 20


@pytest.mark.parametrize("name", FILES)
def test_every_published_file_is_recognised(tmp_path: Path, name: str) -> None:
    found = recognised(synthetic.single_file(name, tmp_path))
    assert (found.component, found.variant) == (FILES[name].component, FILES[name].variant)


@pytest.mark.parametrize("suffix", ["", "-Diffusers"])
@pytest.mark.parametrize("name", REPOSITORIES)
def test_every_published_repository_is_recognised(tmp_path: Path, name: str, suffix: str) -> None:
    paths = synthetic.repository(name + suffix, tmp_path)
    variants = {
        "denoiser": REPOSITORIES[name],
        "vae": "wan2.2-vae" if "TI2V" in name else "wan2.1-vae",
        "text_encoder": "umt5-xxl",
        "image_encoder": "clip-vit-h-14",
    }
    tokenizer = paths.pop("tokenizer")
    assert Tokenizer.from_file(str(tokenizer)).get_vocab_size() == 3
    assert look(tokenizer).recognition is not None
    assert ("denoiser_2" in paths) == ("A14B" in name)
    for component, path in paths.items():
        found = recognised(path)
        kind = component.removesuffix("_2")
        assert (found.component, found.variant) == (kind, variants[kind])


@pytest.mark.parametrize(
    "write",
    [
        layouts.diffusers_folder, layouts.huggingface_umt5_folder, layouts.original_folder,
        layouts.comfyui_folder, layouts.kijai_folder, layouts.gguf_folder,
    ],
)  # fmt: skip
def test_layouts_hold_the_shipped_numbers(tmp_path: Path, write) -> None:
    """Whatever the names: the same tensors, bit for bit in fp32."""
    paths = write(tmp_path / "files")
    for component, path in paths.items():
        if component == "tokenizer":
            continue
        shipped = layouts.weights("dit" if component == "denoiser" else component)
        assert numbers(opened(path)) == numbers(shipped)


def test_a_tiny_image_encoder(tmp_path: Path) -> None:
    folder = layouts.tiny_clip_folder(tmp_path / "clip")["image_encoder"]
    found = recognised(folder)
    assert (found.component, found.variant) == ("image_encoder", "clip (custom)")
    model = transformers.CLIPVisionModel.from_pretrained(folder)
    assert isinstance(model.config, transformers.CLIPVisionConfig)
    assert found.parameters == sum(tensor.numel() for tensor in model.state_dict().values())


def opened(path: Path) -> dict[str, torch.Tensor]:
    """By the format's own reader."""
    if path.suffix == ".gguf":
        return {
            tensor.name: torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
            for tensor in gguf.GGUFReader(path).tensors
        }
    if path.suffix == ".pth":
        return torch.load(path, weights_only=True)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    tensors.pop("spiece_model", None)
    return tensors


def numbers(tensors: dict[str, torch.Tensor]) -> Counter[tuple[tuple[int, ...], bytes]]:
    return Counter(
        (tuple(tensor.shape), tensor.float().numpy().tobytes()) for tensor in tensors.values()
    )
