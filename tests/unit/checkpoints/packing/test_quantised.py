"""What lies beside weights and says how their numbers are stored: read, or refused by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoints.known.recognise import Recognition, recognise
from engine.checkpoints.layout import lay_out
from engine.checkpoints.load import Weights
from engine.checkpoints.locate import locate
from engine.checkpoints.source import open_source
from engine.components.providers.wan_dit import describe
from engine.errors import CheckpointError
from engine.models.quantised.rounding import rotated
from presets.spec.components import DenoiserSpec
from store.index.index import open_index
from store.paths import prepare
from tests.oracles.later import comfy_layouts
from tests.weights import packed
from tests.weights.packed import note

CPU = torch.device("cpu")
E4M3 = torch.float8_e4m3fn
MICRO = locate("denoiser", "builtin:micro")
NAMES = [
    name for name, tensor in load_file(MICRO).items() if "blocks.0." in name and tensor.ndim == 2
]
METADATA = "_quantization_metadata"


def written(folder: Path, change, metadata: dict[str, str] | None = None) -> Path:
    """The micro transformer with each matrix of its first block as `change(weight, layer)` stores it."""
    tensors = {}
    for name, tensor in load_file(MICRO).items():
        layer = name.removesuffix(".weight")
        tensors |= change(tensor.float(), layer) if name in NAMES else {name: tensor}
    path = folder / "file.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    (folder / "config.json").write_bytes(MICRO.with_name("config.json").read_bytes())
    return path


def told(path: Path) -> Recognition:
    return recognise(open_source(path))


def error_of(path: Path) -> float:
    """How far the loaded matrices are from those of the micro model, relative to these."""
    found = total = 0.0
    shipped = load_file(MICRO)
    with Weights(lay_out(open_source(path)).entries) as weights:
        for name in NAMES:
            difference = weights.tensor(name, device=CPU) - shipped[name].float()
            found += float(difference.square().sum())
            total += float(shipped[name].float().square().sum())
    return (found / total) ** 0.5


def int8(weight: Tensor, layer: str, group: int, *, beside: bool = True) -> dict[str, Tensor]:
    """As ComfyUI stores it, by its own code."""
    numbers, stored = comfy_layouts.TensorWiseINT8Layout.quantize(
        weight, per_channel=True, convrot=bool(group), convrot_groupsize=group or 256
    )
    found = {f"{layer}.weight": numbers, f"{layer}.weight_scale": stored.scale}
    said = {"convrot": True, "convrot_groupsize": group} if group else {}
    notes = {f"{layer}.comfy_quant": note(format="int8_tensorwise", **said)} if beside else {}
    return found | notes


@pytest.mark.parametrize("group", [0, 4, 16, 64])
def test_int8_of_comfyui_is_read_whether_it_was_rotated_or_not(tmp_path: Path, group: int) -> None:
    path = written(tmp_path, lambda weight, layer: int8(weight, layer, group))
    found = told(path)
    assert found.supported, found.note
    assert found.quantisation == f"int8 scaled by row{' and rotated' if group else ''}"
    assert error_of(path) < 0.01


@settings(max_examples=30, deadline=None)
@given(
    group=st.sampled_from([4, 16, 64, 256, 1024]),
    groups=st.integers(1, 3),
    rows=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_a_rotation_is_turned_back_as_comfyui_turns_it(
    group: int, groups: int, rows: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, group * groups, generator=generator)
    numbers, stored = comfy_layouts.TensorWiseINT8Layout.quantize(
        weight, per_channel=True, convrot=True, convrot_groupsize=group
    )
    theirs = comfy_layouts.TensorWiseINT8Layout.dequantize(numbers, stored)
    ours = rotated((numbers.float() * stored.scale.view(-1, 1)).double(), group).float()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    exact = rotated((numbers.float() * stored.scale.view(-1, 1)).double(), group)
    assert torch.equal(ours, exact.float())


def test_what_was_made_of_rotated_weights_before_they_were_turned_back_has_another_key(
    tmp_path: Path,
) -> None:
    prepare(tmp_path)
    identities = []
    for group in (0, 16):
        (tmp_path / str(group)).mkdir()
        path = written(tmp_path / str(group), lambda w, layer, group=group: int8(w, layer, group))
        spec = DenoiserSpec(checkpoint=str(path), dtype="fp32", device="cpu")
        with open_index(tmp_path) as index:
            identities.append(describe(spec, index).identity)
    assert "rotated" not in identities[0]
    assert identities[1]["rotated"] is True


def test_notes_in_the_metadata_count_as_those_beside_the_weights(tmp_path: Path) -> None:
    said = {
        f"model.diffusion_model.{name.removesuffix('.weight')}": {
            "format": "int8_tensorwise", "params": {"convrot": True, "convrot_groupsize": 16},
        }
        for name in NAMES
    }  # fmt: skip
    metadata = {METADATA: json.dumps({"format_version": "1.0", "layers": said})}
    plain = written(tmp_path, lambda weight, layer: int8(weight, layer, 16, beside=False))
    tensors = {f"model.diffusion_model.{name}": t for name, t in load_file(plain).items()}
    save_file(tensors, plain, metadata)
    assert told(plain).supported
    assert error_of(plain) < 0.01


def fp8(weight: Tensor, layer: str, **said: object) -> dict[str, Tensor]:
    scale = weight.abs().max() / 448
    stored = {f"{layer}.weight": (weight / scale).to(E4M3), f"{layer}.weight_scale": scale}
    return stored | ({f"{layer}.comfy_quant": note(**said)} if said else {})


@pytest.mark.parametrize(
    "said",
    [
        {"format": "float8_e4m3fn"},
        {"format": "float8_e4m3fn", "full_precision_matrix_mult": True},
        {"format": "float8_e4m3fn", "orig_dtype": "torch.bfloat16", "orig_shape": [1, 2]},
    ],
)
def test_fp8_with_a_note_is_read(tmp_path: Path, said: dict[str, object]) -> None:
    path = written(tmp_path, lambda weight, layer: fp8(weight, layer, **said))
    assert told(path).supported
    assert error_of(path) < 0.04


def with_input_scales(weight: Tensor, layer: str) -> dict[str, Tensor]:
    return {f"{layer}.weight": weight, f"{layer}.pre_quant_scale": torch.ones(weight.shape[1])}


def nf4(weight: Tensor, layer: str) -> dict[str, Tensor]:
    return {
        f"{layer}.weight": torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8),
        f"{layer}.weight.absmax": torch.ones(weight.numel() // 64),
        f"{layer}.weight.quant_state.bitsandbytes__nf4": note(quant_type="nf4"),
    }


def without_note(pack: packed.Packer) -> packed.Packer:
    return lambda weight, layer: {
        name: tensor
        for name, tensor in pack(weight, layer).items()
        if not name.endswith("comfy_quant")
    }


def beside(ending: str) -> packed.Packer:
    """Fp8 with something beside it that only one format has."""
    return lambda weight, layer: fp8(weight, layer) | {layer + ending: torch.ones(len(weight))}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_input_scales, "pre_quant_scale"),
        (nf4, "NF4"),
        (without_note(packed.mxfp8), "MXFP8 without ComfyUI's notes"),
        (without_note(packed.nvfp4), "NVFP4 without ComfyUI's notes"),
        (beside(".weight_scale_2"), "NVFP4 without ComfyUI's notes"),
        (beside(".weight_global_scale"), "NVFP4 of LightX2V"),
        (beside(".weight._shift"), "quanto's int4 or int2"),
        (beside(".weight_scale_inv"), "fp8 in blocks of 128 by 128"),
        (beside(".weight_codebook"), "asym_w4a8_int8"),
        (beside(".weight_zeros"), "awq_w4a16"),
        (beside(".input_global_scale"), "NVFP4 of LightX2V"),
        (beside(".svd_up"), "SDNQ"),
        (beside(".scale"), "SDNQ"),
        (beside(".biases"), "MLX"),
        (lambda w, n: {f"{n}.qweight": w, f"{n}.wscales": w.clone()}, "SVDQuant"),
        (lambda w, n: {f"{n}.qweight": w, f"{n}.scales": w.clone()}, "GPTQ"),
        (lambda w, n: fp8(w, n, format="convrot_w4a4"), "convrot_w4a4"),
        (lambda w, n: fp8(w, n, format="hybrid_mxfp8"), "hybrid_mxfp8"),
        (lambda w, n: fp8(w, n, format="brand_new"), "brand_new"),
        (lambda w, n: fp8(w, n, full_precision_matrix_mult=True), "without a name"),
    ],
)  # fmt: skip
def test_a_format_that_is_not_read_is_called_by_its_name(tmp_path: Path, change, words) -> None:
    found = told(written(tmp_path, change))
    assert not found.supported
    assert words in found.quantisation
    assert found.note.startswith(f"stored as {found.quantisation}, which modiff does not read; ")
    assert "bf16" in found.note  # what to take instead
    assert (found.missing, found.unexpected, found.misshapen) == ((), (), ())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w, n: fp8(w, n, format="float8_e4m3fn", mirrored=True), "'mirrored'"),
        (lambda w, n: fp8(w, n, format="int8_tensorwise"), "its note says int8_tensorwise"),
        (lambda w, n: int8(w, n, 0) | {f"{n}.comfy_quant": note(format="int8_tensorwise", convrot=True,
                                                                convrot_groupsize=48)}, "groups of 48"),
        (lambda w, n: int8(w, n, 0) | {f"{n}.comfy_quant": note(format="int8_tensorwise", convrot=1)},
         "neither true nor false"),
        (lambda w, n: {f"{n}.weight": w.to(E4M3), f"{n}.comfy_quant": note(format="float8_e4m3fn")},
         "without its scale"),
        (lambda w, n: fp8(w, n, format="float8_e4m3fn", convrot=True), "known of int8_tensorwise only"),
        (lambda w, n: fp8(w, n, format="float8_e4m3fn", group_size=64), "says blocks of 64"),
        (lambda w, n: packed.nvfp4(w, n) | {f"{n}.comfy_quant": note(format="nvfp4", group_size=32)},
         "says blocks of 32, but a scale for blocks of 16"),
        (lambda w, n: fp8(w, n, format="float8_e4m3fn") | {f"{n}.weight_scale_2": torch.ones(())},
         "a second scale (.weight_scale_2), which float8_e4m3fn has not"),
        (lambda w, n: packed.mxfp8(w, n) | {f"{n}.comfy_quant": note(format="nvfp4")}, "its note says nvfp4"),
        (lambda w, n: {f"{n}.weight": w.flatten().to(E4M3), f"{n}.comfy_quant": note(format="mxfp8")},
         "expected a matrix"),
        (lambda w, n: fp8(w, n) | {f"{n}.scale_weight": torch.ones(())}, "has two scales"),
        (lambda w, n: packed.quanto(w, n) | {f"{n}.weight": w}, "which another tensor of the file is too"),
        (lambda w, n: {f"{n}.weight": w, f"{n}.strange_neighbour": w.clone()}, "strange_neighbour"),
    ],
)  # fmt: skip
def test_what_a_note_says_beyond_what_is_known_is_a_fault(tmp_path: Path, change, words) -> None:
    found = told(written(tmp_path, change))
    assert not found.supported
    assert any(words in fault for fault in found.unexpected), found.unexpected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w, n: fp8(w, n) | {f"{n}.comfy_quant": torch.zeros(4097, dtype=torch.uint8)}, "4,097 bytes"),
        (lambda w, n: fp8(w, n) | {f"{n}.comfy_quant": torch.zeros(4)}, "expected a text"),
        (lambda w, n: fp8(w, n) | {f"{n}.comfy_quant": torch.ones(9, dtype=torch.uint8)}, "damaged JSON"),
    ],
)  # fmt: skip
def test_a_note_that_cannot_be_read_is_refused(tmp_path: Path, change, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        told(written(tmp_path, change))


@pytest.mark.parametrize(
    "text", ["[]", '{"layers": [1]}', '{"layers": {"a": 1}}', '{"layers": {}, "x": 1}', "{"]
)
def test_metadata_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, lambda w, n: {f"{n}.weight": w}, {METADATA: text})
    with pytest.raises(CheckpointError, match=METADATA):
        told(path)


def test_fp8_marked_as_scaled_has_its_scales(tmp_path: Path) -> None:
    path = written(tmp_path, lambda weight, layer: {f"{layer}.weight": weight.to(E4M3)})
    assert told(path).supported
    save_file(load_file(path) | {"scaled_fp8": torch.zeros(0).to(E4M3)}, path)
    found = told(path)
    assert not found.supported
    assert "scale is missing" in found.unexpected[0]


def test_what_only_a_hostile_file_says_is_refused_in_words(tmp_path: Path) -> None:
    odd = json.dumps({"format": [], "x": 1})
    beside = written(
        tmp_path,
        lambda w, n: (
            fp8(w, n) | {f"{n}.comfy_quant": torch.tensor([*odd.encode()], dtype=torch.uint8)}
        ),
    )
    assert not told(beside).supported
    path = written(tmp_path, lambda w, n: {f"{n}.weight": w})
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header["__metadata__"] = {METADATA: "\ud800"}
    text = json.dumps(header).encode()
    body = data[8 + int.from_bytes(data[:8], "little") :]
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    with pytest.raises(CheckpointError, match="damaged JSON"):
        told(path)
