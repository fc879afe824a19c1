"""Weights that are no numbers, in files of every kind: which tensor of which file, or none."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoints import load
from engine.checkpoints.convert.convert import convert
from engine.checkpoints.finite import NoNumbers, no_numbers
from engine.checkpoints.layout import lay_out
from engine.checkpoints.locate import locate
from engine.checkpoints.source import open_source
from engine.checkpoints.verify import DAMAGED, verify_numbers
from tests.weights import layouts

MICRO = locate("denoiser", "builtin:micro")
NAME = "blocks.1.ffn.0.weight"


def poisoned(folder: Path, value: float, name: str = NAME, *, prefix: str = "") -> Path:
    """The micro transformer with one number of one tensor changed."""
    tensors = load_file(MICRO)
    tensors[name] = tensors[name].float() if math.isfinite(value) else tensors[name]
    tensors[name].view(-1)[-1] = value
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dit.safetensors"
    save_file({prefix + key: tensor for key, tensor in tensors.items()}, path)
    shutil.copy(MICRO.with_name("config.json"), folder)
    return path


def looked_at(path: Path, dtype: torch.dtype | None = None) -> NoNumbers | None:
    source = open_source(path)
    return no_numbers(source, lay_out(source), lambda name: dtype)


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["denoiser", "text_encoder", "vae"])
def test_those_of_the_micro_model_are_finite(kind: str, dtype: torch.dtype | None) -> None:
    assert looked_at(locate(kind, "builtin:micro"), dtype) is None


@pytest.mark.parametrize(
    ("value", "what"), [(math.nan, "NaN"), (math.inf, "infinite numbers"), (-math.inf, "infinite numbers")]
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_the_tensor_is_named_as_in_its_file(
    tmp_path: Path, value: float, what: str, prefix: str
) -> None:
    path = poisoned(tmp_path, value, prefix=prefix)
    assert looked_at(path) == NoNumbers(path, prefix + NAME, what, is_stored=True)


def test_numbers_that_are_too_large_for_a_dtype_are_told_apart(tmp_path: Path) -> None:
    path = poisoned(tmp_path, 70_000.0)
    assert looked_at(path) is None
    assert looked_at(path, torch.bfloat16) is None
    found = NoNumbers(path, NAME, "infinite numbers", is_stored=False)
    assert looked_at(path, torch.float16) == found


def test_the_shard_is_named(tmp_path: Path) -> None:
    folder = layouts.diffusers_folder(tmp_path)["denoiser"]
    shard = sorted(folder.glob("*.safetensors"))[-1]
    tensors = load_file(shard)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    tensors[name][0, 0] = math.nan
    save_file(tensors, shard)
    assert looked_at(folder) == NoNumbers(shard, name, "NaN", is_stored=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_scale_counts_as_what_it_scales(tmp_path: Path, value: float) -> None:
    convert(open_source(MICRO), tmp_path / "w.safetensors", layout="comfyui", quantise="fp8")
    shutil.copy(MICRO.with_name("config.json"), tmp_path)
    path = tmp_path / "w.safetensors"
    assert looked_at(path) is None
    tensors = load_file(path)
    scale = next(
        name for name in tensors if NAME.removesuffix("weight") in name and "scale" in name
    )
    tensors[scale].fill_(value)
    save_file(tensors, path)
    found = looked_at(path)
    assert found is not None
    assert (found.name.endswith(NAME), found.is_stored) == (True, True)


def test_fp8_and_gguf(tmp_path: Path) -> None:
    path = tmp_path / "8.safetensors"
    plain = load_file(MICRO)
    save_file(plain | {NAME: plain[NAME].to(torch.float8_e4m3fn)}, path)
    assert looked_at(path) is None
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.dtype == torch.float8_e4m3fn)
    tensors[name].view(torch.uint8)[0, 0] = 0x7F  # the one NaN of that format
    save_file(tensors, path)
    assert looked_at(path) == NoNumbers(path, name, "NaN", is_stored=True)
    convert(open_source(MICRO), tmp_path / "w.gguf", layout="gguf", quantise="q8_0")
    path = tmp_path / "w.gguf"
    assert looked_at(path) is None
    info = next(t for t in open_source(path).tensors.values() if t.dtype == "Q8_0")
    content = bytearray(path.read_bytes())
    content[info.start : info.start + 2] = b"\x00\x7e"  # the scale of its first block
    path.write_bytes(content)
    found = looked_at(path)
    assert found is not None
    assert (found.file, found.what) == (path, "NaN")


def test_a_file_is_read_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "SLICE_BYTES", 1000)
    path = poisoned(tmp_path, math.nan)
    assert looked_at(path) == NoNumbers(path, NAME, "NaN", is_stored=True)


def test_who_waits_no_longer_stops_it(tmp_path: Path) -> None:
    source = open_source(MICRO)

    def check() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        no_numbers(source, lay_out(source), check=check)


def test_a_verification_tells_of_them(tmp_path: Path) -> None:
    assert verify_numbers(MICRO) is None
    path = poisoned(tmp_path, math.nan)
    verdict = verify_numbers(path)
    assert verdict is not None
    assert (verdict.path, verdict.status) == (path, DAMAGED)
    assert f"its tensor {NAME} holds NaN; delete it and download it again" in verdict.note
