"""Weights that stay packed give, bit for bit, what they give unpacked; so do those that are rounded as they load."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoints.formats.table import BLOCKS
from engine.checkpoints.held.holding import Holding, packed_matrices
from engine.checkpoints.held.packed import filling
from engine.checkpoints.known.configure import dit_config
from engine.checkpoints.load import Weights
from engine.checkpoints.locate import locate
from engine.checkpoints.opened import layout_at
from engine.components.providers import umt5, wan_dit
from engine.errors import CheckpointError, ComponentError
from engine.models.diffusion.config import WanDiTConfig
from engine.models.diffusion.wandit import WanDiT
from engine.models.quantised.linear import QuantLinear
from presets.spec.components import DenoiserSpec, TextEncoderSpec
from store.index.index import open_index
from store.paths import prepare
from tests.oracles.later import comfy_layouts
from tests.oracles.parity import randomise
from tests.weights import packed

MICRO = locate("denoiser", "builtin:micro")
# of widths that blocks of 256 fit
WIDE = WanDiTConfig(dim=256, ffn_dim=512, num_heads=2, num_layers=1, text_dim=32, freq_dim=32)


def is_large(name: str, tensor: Tensor) -> bool:
    return "blocks." in name and tensor.ndim == 2


WAYS: dict[str, packed.Packer] = {
    "fp8": lambda weight, layer: {f"{layer}.weight": weight.to(packed.E4M3)},
    "fp8_e5m2": lambda weight, layer: {f"{layer}.weight": weight.to(packed.E5M2)},
    "fp8_scaled": packed.fp8(packed.E4M3, ".scale_weight"),
    "int8": packed.by_row,
    "rotated": lambda weight, layer: rotated(weight, layer, 16),
    "quanto": packed.quanto,
    "squares": packed.in_squares(16, torch.int8),
}
# of widths that their blocks fit
WIDE_WAYS = {"musubi": packed.musubi, "mxfp8": packed.mxfp8, "nvfp4": packed.nvfp4}


def rotated(weight: Tensor, layer: str, group: int) -> dict[str, Tensor]:
    codes, stored = comfy_layouts.TensorWiseINT8Layout.quantize(
        weight, per_channel=True, convrot=True, convrot_groupsize=group
    )
    said = packed.note(format="int8_tensorwise", convrot=True, convrot_groupsize=group)
    return {
        f"{layer}.weight": codes,
        f"{layer}.weight_scale": stored.scale,
        f"{layer}.comfy_quant": said,
    }


def written(folder: Path, way: str) -> Path:
    """The first two blocks of the micro transformer, their matrices stored in one of WAYS."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(MICRO).items():
        if name.startswith(tuple(f"blocks.{number}." for number in range(2, 6))):
            continue
        layer = name.removesuffix(".weight")
        tensors |= WAYS[way](tensor.float(), layer) if is_large(name, tensor) else {name: tensor}
    path = folder / "file.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    config = json.loads(MICRO.with_name("config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_layers": 2}))
    return path


def written_as_gguf(folder: Path, kind: str) -> Path:
    """A random transformer, the matrices of its blocks of random bytes with finite scales."""
    model = WanDiT(WIDE)
    randomise(model, 3)
    path = folder / "file.gguf"
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_string("config", json.dumps(asdict(WIDE)))
    num_bytes, num_weights = BLOCKS[kind]
    random = np.random.default_rng(0)
    for name, tensor in model.state_dict().items():
        if is_large(name, tensor):
            size = (tensor.shape[0], tensor.shape[1] // num_weights * num_bytes)
            data = random.integers(0, 40, size, np.uint8)
            writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
        else:
            numbers = tensor.flatten(0, 1) if tensor.ndim == 5 else tensor
            writer.add_tensor(name, numbers.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def spec(path: Path | str, **settings: str) -> DenoiserSpec:
    return DenoiserSpec(checkpoint=str(path), device="cpu", **settings)


def velocity(model: WanDiT) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    config = model.config
    text = torch.randn(1, 7, config.text_dim, generator=generator)
    latents = torch.randn(1, config.out_dim, 2, 4, 4, generator=generator)
    with torch.no_grad():
        return model(latents, torch.tensor([500.0]), model.prepare({"text": text}))


def packed_layers(model: torch.nn.Module) -> dict[str, QuantLinear]:
    return {name: each for name, each in model.named_modules() if isinstance(each, QuantLinear)}


def assert_same(held: WanDiT, loaded: WanDiT) -> None:
    layers = packed_layers(held)
    assert len(layers) == 10 * held.config.num_layers
    assert not packed_layers(loaded)
    for name, each in layers.items():
        assert torch.equal(each.numbers(), loaded.get_submodule(name).weight), name
    for name, parameter in loaded.named_parameters():
        if name.removesuffix(".weight") not in layers:
            assert torch.equal(held.get_parameter(name), parameter), name
    assert torch.equal(velocity(held), velocity(loaded))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_unpacked_at_the_call_is_what_is_unpacked_at_load(tmp_path, way, dtype) -> None:
    path = written(tmp_path, way)
    held = wan_dit.load(spec(path, unpack="call", dtype=dtype))
    assert_same(held, wan_dit.load(spec(path, unpack="load", dtype=dtype)))
    assert {each.weight.element_size() for each in packed_layers(held).values()} == {1}
    assert held.head.head.weight.dtype == held.blocks[0].modulation.dtype == torch.float32


@pytest.mark.parametrize("way", WIDE_WAYS)
def test_what_has_scales_for_blocks_of_a_row_stays_packed(tmp_path: Path, way: str) -> None:
    path = tmp_path / "file.safetensors"
    model = WanDiT(WIDE)
    randomise(model, 3)
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        layer = name.removesuffix(".weight")
        pack = WIDE_WAYS[way]
        tensors |= pack(tensor, layer) if is_large(name, tensor) else {name: tensor}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, path, {"config": json.dumps(asdict(WIDE))})
    held = wan_dit.load(spec(path, unpack="call"))
    assert_same(held, wan_dit.load(spec(path, unpack="load")))
    numbers = sum(each.in_features * each.out_features for each in packed_layers(held).values())
    held_bytes = sum(
        tensor.numel() * tensor.element_size()
        for each in packed_layers(held).values()
        for name, tensor in each.named_parameters()
        if name != "bias"
    )
    most = {"musubi": 1 + 4 / 64, "mxfp8": 1 + 2 / 32, "nvfp4": 0.5 + 1 / 16 + 0.001}
    assert held_bytes <= most[way] * numbers


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_of_gguf_stay_packed(tmp_path: Path, kind: str) -> None:
    path = written_as_gguf(tmp_path, kind)
    held = wan_dit.load(spec(path, unpack="call"))
    assert_same(held, wan_dit.load(spec(path, unpack="load")))
    num_bytes, num_weights = BLOCKS[kind]
    for each in packed_layers(held).values():
        count = each.in_features * each.out_features
        assert each.weight.numel() * num_weights == count * num_bytes


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("quantise", ["int8", "fp8"])
def test_what_is_rounded_at_load_is_the_same_unpacked(quantise: str, dtype: str) -> None:
    settings = {"quantise": quantise, "dtype": dtype}
    held = wan_dit.load(spec("builtin:micro", **settings))
    assert_same(held, wan_dit.load(spec("builtin:micro", unpack="load", **settings)))
    plain = wan_dit.load(spec("builtin:micro", dtype=dtype))
    error = (velocity(held) - velocity(plain)).norm() / velocity(plain).norm()
    assert 0 < error < {"int8": 0.02, "fp8": 0.06}[quantise]


def test_int8_takes_at_most_035_of_fp32() -> None:
    def num_bytes(**settings: str) -> int:
        model = wan_dit.load(spec("builtin:micro", dtype="fp32", **settings))
        held = [*model.parameters()]
        return sum(each.numel() * each.element_size() for each in held)

    plain = num_bytes()
    for quantise in ("int8", "fp8"):
        assert num_bytes(quantise=quantise) <= 0.35 * plain


@pytest.mark.parametrize("quantise", ["int8", "fp8"])
def test_quantised_activations_are_near_the_plain_ones(quantise: str) -> None:
    plain = velocity(wan_dit.load(spec("builtin:micro", quantise=quantise)))
    rounded = velocity(
        wan_dit.load(spec("builtin:micro", quantise=quantise, activations="quantised"))
    )
    assert 0 < (rounded - plain).norm() / plain.norm() < {"int8": 0.03, "fp8": 0.08}[quantise]


@pytest.mark.parametrize("quantise", ["int8", "fp8"])
def test_a_text_encoder_is_rounded_too(quantise: str) -> None:
    def load(**settings: str) -> umt5.UMT5:
        given = TextEncoderSpec(
            checkpoint="builtin:micro", device="cpu", dtype="fp32", quantise=quantise, **settings
        )
        return umt5.load(given)

    held, loaded = load(), load(unpack="load")
    assert len(packed_layers(held.model)) == 7 * len(held.model.blocks)
    assert not packed_layers(loaded.model)
    assert torch.equal(held.encode("a red circle"), loaded.encode("a red circle"))


def test_what_is_not_finite_cannot_be_rounded(tmp_path: Path) -> None:
    tensors = load_file(MICRO)
    tensors["blocks.1.ffn.2.weight"][3, 4] = float("nan")
    save_file(tensors, tmp_path / "file.safetensors")
    (tmp_path / "config.json").write_bytes(MICRO.with_name("config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"blocks\.1\.ffn\.2\.weight holds .* not finite"):
        wan_dit.load(spec(tmp_path / "file.safetensors", quantise="int8"))


@pytest.fixture
def index(tmp_path: Path):
    prepare(tmp_path / "store")
    with open_index(tmp_path / "store") as index:
        yield index


@pytest.mark.parametrize(
    ("way", "settings", "key", "words"),
    [
        ("int8", {"quantise": "fp8"}, "quantise", r"is quantised already \(int8 scaled by row\)"),
        ("fp8_e5m2", {"activations": "quantised"}, "activations", "are fp8_e5m2; expected int8"),
        ("", {"activations": "quantised"}, "activations", "are not quantised; expected int8 or"),
        (
            "int8",
            {"activations": "quantised", "unpack": "load"},
            "unpack",
            "quantised activations are multiplied with packed weights",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    tmp_path, index, way, settings, key, words
) -> None:
    path = written(tmp_path, way) if way else "builtin:micro"
    with pytest.raises(ComponentError, match=words) as refused:
        wan_dit.describe(spec(path, **settings), index)
    assert refused.value.key == f"components.denoiser.{key}"


@pytest.mark.parametrize(
    ("way", "settings"),
    [("int8", {}), ("int8", {"unpack": "call"}), ("", {"quantise": "int8"}), ("", {})],
)
def test_a_description_tells_what_is_held(tmp_path, index, way: str, settings) -> None:
    path = written(tmp_path, way) if way else "builtin:micro"
    for dtype in ("fp32", "bf16"):
        given = spec(path, dtype=dtype, **settings)
        about = wan_dit.describe(given, index)
        model = wan_dit.load(given)
        held = sum(each.numel() * each.element_size() for each in model.parameters())
        assert about.on("cpu").num_bytes == held
        assert about.on("cpu").packed == ("int8" if packed_layers(model) else "")
        is_quantised = bool(way or settings)
        assert about.on("cuda").packed == ("int8" if is_quantised else "")


def test_what_is_held_otherwise_is_loaded_by_itself(index) -> None:
    def held(**settings: str) -> tuple[str, bytes]:
        about = wan_dit.describe(spec("builtin:micro", **settings), index)
        return about.resident, json.dumps(about.identity, sort_keys=True).encode()

    plain, call = held(), held(unpack="call")
    int8, fp8, loaded = (
        held(quantise="int8"),
        held(quantise="fp8"),
        held(quantise="int8", unpack="load"),
    )
    rounded = held(quantise="int8", activations="quantised")
    assert plain == call  # there is nothing to unpack
    assert len({each[0] for each in (plain, int8, fp8, loaded, rounded)}) == 5
    assert int8[1] == loaded[1]
    assert len({each[1] for each in (plain, int8, fp8, rounded)}) == 4


@pytest.mark.parametrize("way", ["fp8", "rotated", "int8"])
def test_apples_gpu_gets_numbers_of_what_it_does_not_have(tmp_path: Path, way: str) -> None:
    """fp8, and fp64, in which rotations are turned back."""
    entries = layout_at(written(tmp_path, way))[1].entries
    packed = packed_matrices(entries, Holding(), "mps")
    assert bool(packed) == (way == "int8")
    assert packed_matrices(entries, Holding(), "cuda")


def test_activations_are_quantised_or_refused() -> None:
    source, layout = layout_at(MICRO)
    with torch.device("meta"):
        model = WanDiT(dit_config(source, layout))
    holding = Holding("fp8", rounds_activations=True)
    with (
        Weights(layout.entries) as weights,
        pytest.raises(CheckpointError, match="cannot be quantised on mps; take plain ones"),
    ):
        filling(model, weights, holding, "mps", path=MICRO, dtype=torch.bfloat16)
