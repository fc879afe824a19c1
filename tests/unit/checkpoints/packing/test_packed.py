"""Packed weights as numbers: bit for bit those of the libraries that pack them, or refused."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoints import load
from engine.checkpoints.formats.table import TensorInfo
from engine.checkpoints.known import expected
from engine.checkpoints.known.recognise import Recognition, recognise
from engine.checkpoints.layout import Entry, lay_out
from engine.checkpoints.load import Weights
from engine.checkpoints.locate import locate
from engine.checkpoints.names import from_original
from engine.checkpoints.packing.quantised import read_quantised, without_quanto
from engine.checkpoints.packing.unpacking import of_exponents, untiled
from engine.checkpoints.source import Source, open_source
from engine.models.quantised.pairs import of_pairs
from tests.oracles.later import comfy_floats, comfy_layouts
from tests.weights import packed, packed_by_others
from tests.weights.packed import E4M3, E5M2, Packer, note

CPU = torch.device("cpu")
MICRO = locate("denoiser", "builtin:micro")
NAMES = [
    name for name, tensor in load_file(MICRO).items() if "blocks.0." in name and tensor.ndim == 2
]
UMT5 = expected.UMT5Shape(vocab=8, dim=128, ffn=256, layers=1, heads=2, buckets=4, inner=4)
LAYERS = ["blocks.0.ffn.gate.0", "blocks.0.ffn.fc1"]
SCALES = (".scale_weight", ".weight_scale", ".weight._scale", ".weight_scale_2")


def random(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / 7


def loaded(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of any layers in fp32."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    source = open_source(path)
    names = {without_quanto(name): info for name, info in source.tensors.items()}
    found = read_quantised(source, names, "")
    assert (found.faults, found.foreign) == ({}, "")
    entries = {
        name: Entry((info,), info.shape, (found.packings.get(name),))
        for name, info in found.weights.items()
    }
    with Weights(entries) as weights:
        return {
            name.removesuffix(".weight"): weights.tensor(name, device=CPU, dtype=torch.float32)
            for name in entries
        }


def of_comfyui(
    name: str, said: dict[str, object], weight: Tensor, **how: object
) -> dict[str, Tensor]:
    """A layer as ComfyUI saves it, with the numbers that it reads."""
    layout = getattr(comfy_layouts, name)
    numbers, params = layout.quantize(weight, **how)
    tensors = {
        f"l.weight{end}": tensor
        for end, tensor in layout.state_dict_tensors(numbers, params).items()
    }
    return tensors | {"l.comfy_quant": note(**said), "": layout.dequantize(numbers, params)}


COMFYUI = {
    "float8_e4m3fn": partial(of_comfyui, "TensorCoreFP8Layout", dtype=E4M3),
    "float8_e5m2": partial(of_comfyui, "TensorCoreFP8Layout", dtype=E5M2),
    "int8_tensorwise": partial(of_comfyui, "TensorWiseINT8Layout"),
    "int8_tensorwise by row": partial(of_comfyui, "TensorWiseINT8Layout", per_channel=True),
    "mxfp8": partial(of_comfyui, "TensorCoreMXFP8Layout"),
    "nvfp4": partial(of_comfyui, "TensorCoreNVFP4Layout"),
}


@pytest.mark.parametrize(
    "slice_bytes", [load.SLICE_BYTES, 3 * 16 * 4 * 160], ids=["whole", "sliced"]
)
@pytest.mark.parametrize("shape", [(96, 160), (128, 64), (288, 544)])
@pytest.mark.parametrize("kind", COMFYUI)
def test_what_comfyui_packs_is_read_bit_for_bit(
    tmp_path: Path, monkeypatch, kind: str, shape: tuple[int, int], slice_bytes: int
) -> None:
    monkeypatch.setattr(load, "SLICE_BYTES", slice_bytes)
    tensors = COMFYUI[kind]({"format": kind.split()[0]}, random(*shape))
    theirs = tensors.pop("")
    assert torch.equal(loaded(tmp_path / "l.safetensors", tensors)["l"], theirs)


@pytest.mark.parametrize("kind", ["mxfp8", "nvfp4"])
def test_scales_of_blocks_may_be_stored_as_bytes(tmp_path: Path, kind: str) -> None:
    tensors = COMFYUI[kind]({"format": kind}, random(96, 160))
    theirs = tensors.pop("")
    tensors["l.weight_scale"] = tensors["l.weight_scale"].view(torch.uint8)
    assert torch.equal(loaded(tmp_path / "l.safetensors", tensors)["l"], theirs)


@pytest.mark.parametrize(
    "slice_bytes", [load.SLICE_BYTES, 5 * 16 * 4 * 128], ids=["whole", "sliced"]
)
def test_what_quanto_and_musubi_pack_is_read_bit_for_bit(
    tmp_path: Path, monkeypatch, slice_bytes: int
) -> None:
    monkeypatch.setattr(load, "SLICE_BYTES", slice_bytes)
    tensors = load_file(packed_by_others.FILE)
    theirs = {
        name.removeprefix(packed_by_others.NUMBERS): tensors.pop(name)
        for name in [*tensors]
        if name.startswith(packed_by_others.NUMBERS)
    }
    ours = loaded(tmp_path / "l.safetensors", tensors)
    assert ours.keys() == theirs.keys()
    for name, numbers in theirs.items():  # those in bf16 were rounded by them
        assert torch.equal(ours[name].to(numbers.dtype), numbers), name


@pytest.mark.parametrize("dtype", [E4M3, torch.int8])
def test_scales_of_squares_multiply_these(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = packed.in_squares(32, dtype)(random(96, 160), "l")
    whole = tensors["l.weight_scale"].repeat_interleave(32, 0).repeat_interleave(32, 1)
    wanted = tensors["l.weight"].float() * whole
    assert torch.equal(loaded(tmp_path / "l.safetensors", tensors)["l"], wanted)


def test_every_byte_is_two_numbers_and_one_power_of_two() -> None:
    every = torch.arange(256, dtype=torch.uint8)[None]
    assert torch.equal(of_pairs(every), comfy_floats.fp4_x2_to_f32(every))
    theirs = every.view(torch.float8_e8m0fnu).float()
    torch.testing.assert_close(of_exponents(every), theirs, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 300), columns=st.integers(1, 12))
def test_tiles_are_put_into_the_order_of_the_matrix(rows: int, columns: int) -> None:
    numbers = torch.arange(rows * columns).reshape(rows, columns)
    for tiles in (
        comfy_floats.to_blocked(numbers, flatten=True),
        comfy_floats.to_blocked(numbers, flatten=False),
    ):
        assert torch.equal(untiled(tiles, rows, columns), numbers)


def test_our_tiles_are_those_of_comfyui() -> None:
    numbers = random(200, 9).to(E4M3).view(torch.uint8)
    assert torch.equal(packed.in_tiles(numbers), comfy_floats.to_blocked(numbers, flatten=False))


# the packer, what its files are called, how large the error may be
PACKED: dict[str, tuple[Packer, str, float]] = {
    "scale_weight": (packed.fp8(E4M3, ".scale_weight"), "fp8_e4m3fn scaled", 0.04),
    "weight_scale": (packed.fp8(E5M2, ".weight_scale", shape=(1,)), "fp8_e5m2 scaled", 0.08),
    "float8": (packed.fp8(E4M3, ".weight_scale", format="float8_e4m3fn"), "fp8_e4m3fn scaled", 0.04),
    "lightx2v": (packed.by_row, "int8 scaled by row", 0.01),
    "quanto": (packed.quanto, "int8 (quanto)", 0.01),
    "musubi": (packed.musubi, "fp8_e4m3fn scaled in blocks of 64", 0.04),
    "squares": (
        packed.in_squares(64, E4M3, format="float8_e4m3fn_blockwise", group_size=64),
        "fp8_e4m3fn scaled in blocks of 64 by 64", 0.04,
    ),
    "int8 squares": (
        packed.in_squares(32, torch.int8, format="int8_blockwise", group_size=32),
        "int8 scaled in blocks of 32 by 32", 0.02,
    ),
    "mxfp8": (packed.mxfp8, "mxfp8", 0.04),
    "mxfp8 typed": (partial(packed.mxfp8, as_bytes=False), "mxfp8", 0.04),
    "nvfp4": (packed.nvfp4, "nvfp4", 0.12),
    "nvfp4 typed": (partial(packed.nvfp4, as_bytes=False), "nvfp4", 0.12),
}  # fmt: skip


def written(folder: Path, pack: Packer) -> Path:
    """The micro transformer with the matrices of its first block packed."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(MICRO).items():
        layer = name.removesuffix(".weight")
        tensors |= pack(tensor.float(), layer) if name in NAMES else {name: tensor}
    path = folder / "file.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    (folder / "config.json").write_bytes(MICRO.with_name("config.json").read_bytes())
    return path


def told(path: Path) -> Recognition:
    return recognise(open_source(path))


@pytest.mark.parametrize("name", PACKED)
def test_every_published_layout_is_known_by_its_name_and_read(tmp_path: Path, name: str) -> None:
    pack, words, most = PACKED[name]
    path = written(tmp_path, pack)
    found = told(path)
    assert (found.supported, found.note, found.quantisation) == (True, "", words)
    shipped, difference, total = load_file(MICRO), 0.0, 0.0
    with Weights(lay_out(open_source(path)).entries) as weights:
        for each in NAMES:
            wanted = shipped[each].float()
            got = weights.tensor(each, device=CPU)
            assert got.shape == wanted.shape
            difference += float((got - wanted).square().sum())
            total += float(wanted.square().sum())
    assert (difference / total) ** 0.5 < most


def test_several_formats_in_one_file_are_read_layer_by_layer(tmp_path: Path) -> None:
    packers = [packed.nvfp4, packed.mxfp8, PACKED["float8"][0]]
    path = written(tmp_path, lambda weight, layer: packers[len(layer) % 3](weight, layer))
    found = told(path)
    assert (found.supported, found.note) == (True, "")
    assert {"BF16", "F4_E2M1", "F8_E4M3"} <= found.dtypes.keys()
    shipped = load_file(MICRO)
    with Weights(lay_out(open_source(path)).entries) as weights:
        for each in NAMES:
            wanted = shipped[each].float()
            difference = weights.tensor(each, device=CPU) - wanted
            most = 0.12 if len(each.removesuffix(".weight")) % 3 == 0 else 0.04
            assert difference.norm() < most * wanted.norm()


def test_a_model_is_known_where_all_its_weights_have_the_names_of_quanto(tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for name, shape in expected.umt5(UMT5).items():
        (theirs,) = from_original("text_encoder", "huggingface", name)
        layer = theirs.removesuffix(".weight")
        tensors |= (
            packed.quanto(torch.ones(shape), layer)
            if len(shape) == 2
            else {theirs: torch.ones(shape)}
        )
    save_file(tensors, tmp_path / "umt5.safetensors")
    found = told(tmp_path / "umt5.safetensors")
    assert (found.component, found.supported, found.quantisation) == (
        "text_encoder", True, "int8 (quanto)",
    )  # fmt: skip


WEIGHTS = [(256, 128), (256, 64), (256, 72), (128, 128), (1, 128), (2, 2), (256,), (2, 3, 1, 1), ()]
SCALE_SHAPES = [
    (), (1,), (1, 1), (256,), (256, 1), (1, 256), (256, 2), (256, 2, 1), (256, 1, 2), (4, 2), (2, 1), (1, 2), (2,),
    (128,), (256, 4), (256, 8), (256, 12), (128, 4), (128, 8), (1024,), (2048,), (0,), (2, 0), (2, 2, 2, 2),
    (256, 128), (128, 256),
]  # fmt: skip
KINDS = {
    "": ("F8_E4M3", "F32"), "float8_e5m2": ("F8_E5M2", "F32"), "int8_tensorwise": ("I8", "BF16"),
    "int8_blockwise": ("I8", "F32"), "mxfp8": ("F8_E4M3", "U8"), "nvfp4": ("U8", "F8_E4M3"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_shapes_there_is_a_number_for_each_block_or_a_reason(kind: str) -> None:
    dtype, of_scale = KINDS[kind]
    notes = {"_quantization_metadata": json.dumps({"layers": {"l": {"format": kind}}})}
    accepted = 0
    for shape, scale in itertools.product(WEIGHTS, SCALE_SHAPES):
        tensors = {
            "l.weight": TensorInfo(dtype, shape, 0, 0, Path("x")),
            "l.weight_scale": TensorInfo(of_scale, scale, 0, 0, Path("x")),
        }
        if kind == "nvfp4":
            tensors["l.weight_scale_2"] = TensorInfo("F32", (), 0, 0, Path("x"))
        source = Source(Path("x"), (), "", 0, tensors, notes if kind else {}, None)
        found = read_quantised(source, tensors, "")
        packing = found.packings.get("l.weight")
        assert bool(packing) != bool(found.faults), (shape, scale)
        if packing is None or found.faults:
            continue
        accepted += 1
        rows, columns = packing.block
        height, width = (*found.weights["l.weight"].shape, 1, 1)[:2]
        down = height // rows if rows else 1
        across = width // columns if columns else 1
        assert (down * (rows or height), across * (columns or width)) == (height, width)
        if packing.is_tiled:
            down, across = -(-down // 128) * 128, -(-across // 4) * 4
        assert math.prod(packing.scale.shape) == down * across, (shape, scale)
    assert accepted >= 5


# what may be wrong with a scale
CHANGES: dict[str, Callable[[Tensor], Tensor | None]] = {
    "lost": lambda scale: None,
    "none": lambda scale: scale.reshape(-1)[:0],
    "too many": lambda scale: scale.reshape(-1)[:1].repeat(7),
    "turned": lambda scale: torch.stack([scale.reshape(-1)] * 3).T if scale.ndim < 2 else scale.mT,
    "integers": lambda scale: torch.zeros(scale.shape, dtype=torch.int32),
    "of wider numbers": lambda scale: torch.zeros(scale.shape, dtype=torch.float64),
}


def encoder(path: Path, pack: Packer) -> Recognition:
    """A small encoder with two of its matrices, [256, 128], packed."""
    tensors = {name: torch.ones(shape) for name, shape in expected.umt5(UMT5).items()}
    for layer in LAYERS:
        tensors |= pack(tensors.pop(f"{layer}.weight"), layer)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return told(path)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", PACKED)
def test_a_layer_whose_scale_is_lost_or_another_is_refused_in_one_line(
    tmp_path: Path, name: str, change: str
) -> None:
    pack = PACKED[name][0]
    scales = [key for key in pack(torch.ones(256, 128), "") if key.endswith(SCALES)]
    assert scales
    for scale in scales:

        def changed(weight: Tensor, layer: str, scale: str = scale) -> dict[str, Tensor]:
            tensors = pack(weight, layer)
            if layer == LAYERS[0]:
                other = CHANGES[change](tensors.pop(layer + scale))
                tensors |= {} if other is None else {layer + scale: other}
            return tensors

        found = encoder(tmp_path / "file.safetensors", changed)
        assert not found.supported
        told_of = [line for line in found.unexpected if line.startswith(LAYERS[0])]
        assert (told_of, found.unexpected) == ([*found.unexpected], (*told_of,))
        assert len(told_of) == 1 or found.note.startswith("stored as"), found
        assert (found.missing, found.misshapen) == ((), ())
