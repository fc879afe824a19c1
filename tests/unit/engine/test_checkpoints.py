"""Files into modules: what fits fills it exactly, what does not is refused from the header alone."""

from __future__ import annotations

import json
import os
import shutil
import struct
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from engine import registry
from engine.checkpoints.fingerprint import fingerprint
from engine.checkpoints.header import read_header
from engine.checkpoints.locate import locate, models_folder
from engine.checkpoints.weights import fill
from engine.errors import CheckpointError
from presets.library import load_preset

CPU = torch.device("cpu")


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)


def toy_on_meta() -> Toy:
    with torch.device("meta"):
        return Toy()


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(p.shape, generator=generator) for n, p in Toy().named_parameters()}


@pytest.fixture
def path(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Path:
    file = tmp_path / "toy.safetensors"
    save_file(weights, file, metadata={"format": "pt"})
    return file


def test_fills_every_parameter_bit_for_bit(path: Path, weights) -> None:
    module = toy_on_meta()
    fill(module, path, device=CPU, dtype=torch.float32)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, weights[name])
        assert not parameter.requires_grad


def test_dtype_policy(path: Path, weights) -> None:
    module = toy_on_meta()
    fill(module, path, device=CPU, dtype=torch.bfloat16, keeps_fp32=lambda name: "norm" in name)
    assert torch.equal(module.linear.weight, weights["linear.weight"].bfloat16())
    assert module.norm.weight.dtype == torch.float32


def test_same_dtype_is_not_copied(path: Path) -> None:
    """The parameter is a view of the memory map: the process gains no memory of its own."""
    big = path.with_name("big.safetensors")
    save_file({"weight": torch.ones(1, 1 << 24), "bias": torch.zeros(1)}, big)
    with torch.device("meta"):
        module = nn.Linear(1 << 24, 1)
    before = _anonymous_bytes()
    fill(module, big, device=CPU, dtype=torch.float32)
    assert float(module.weight.sum()) == 1 << 24
    assert _anonymous_bytes() - before < 32 << 20  # the tensor has 64 MiB


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    pytest.skip("this system does not tell anonymous memory apart")


def test_renames_and_ignores(path: Path, weights, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.safetensors"
    save_file({f"model.{n}": t for n, t in weights.items()} | {"spare": torch.ones(2)}, renamed)
    module = toy_on_meta()
    fill(
        module,
        renamed,
        device=CPU,
        dtype=torch.float32,
        rename=lambda name: name.removeprefix("model."),
        ignore=("spare",),
    )
    assert torch.equal(module.linear.bias, weights["linear.bias"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("norm.bias"), r"1 missing tensors \(norm\.bias\)"),
        (lambda w: w.update(extra=torch.ones(1)), r"1 unexpected tensors \(extra\)"),
        (
            lambda w: w.update({"linear.weight": torch.ones(4, 4)}),
            r"1 misshapen tensors \(linear\.weight is \[4, 4\] instead of \[4, 3\]\)",
        ),
    ],
)
def test_refuses_what_does_not_fit_before_allocating(weights, tmp_path, change, message) -> None:
    change(weights)
    file = tmp_path / "wrong.safetensors"
    save_file(weights, file)
    module = toy_on_meta()
    with pytest.raises(CheckpointError, match=message):
        fill(module, file, device=CPU, dtype=torch.float32)
    assert all(parameter.is_meta for parameter in module.parameters())


def _header_file(folder: Path, header: bytes, data: bytes = b"") -> Path:
    file = folder / "made.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "not a safetensors file"),
        (b"PK\x03\x04 a zip archive", "not a safetensors file"),
        (struct.pack("<Q", 1 << 60) + b"{}", "not a safetensors file, or truncated"),
        (struct.pack("<Q", 2) + b"[]", "damaged safetensors header"),
        (struct.pack("<Q", 2) + b"{]", "damaged safetensors header"),
    ],
)
def test_names_what_a_file_really_is(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]},
        {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1]},
        7,
    ],
)
def test_refuses_entries_that_lie(tmp_path: Path, entry: object) -> None:
    header = json.dumps({"w": entry}).encode()
    with pytest.raises(CheckpointError, match="damaged safetensors header"):
        read_header(_header_file(tmp_path, header, bytes(64)))


def test_truncated_and_absent_files_say_so(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=r"truncated, it has .* download it again"):
        read_header(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        read_header(path)
    path.mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_header(path)


@given(data=st.binary(max_size=200))
def test_no_bytes_make_it_raise_anything_else(tmp_path_factory, data: bytes) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "f.safetensors"
    for content in (data, struct.pack("<Q", len(data)) + data):
        file.write_bytes(content)
        with suppress(CheckpointError):
            assert isinstance(read_header(file), dict)


def test_fingerprint_is_of_the_content_not_of_the_path(path: Path, weights) -> None:
    first = fingerprint([path])
    moved = path.rename(path.with_name("moved.safetensors"))
    assert fingerprint([moved]) == first
    weights["norm.bias"] += 1
    save_file(weights, moved, metadata={"format": "pt"})
    assert fingerprint([moved]) != first


def test_fingerprint_counts_every_file_of_a_component(tmp_path: Path) -> None:
    """Another tokenizer or configuration makes other numbers of the same weights."""
    for name in ("text_encoder.safetensors", "tokenizer.json", "dit.safetensors", "config.json"):
        shutil.copyfile(locate("vae", "builtin:micro").with_name(name), tmp_path / name)
    parts = load_preset(
        "micro",
        [
            f"components.text_encoder.checkpoint={tmp_path / 'text_encoder.safetensors'}",
            f"components.text_encoder.tokenizer={tmp_path / 'tokenizer.json'}",
            f"components.denoiser.checkpoint={tmp_path / 'dit.safetensors'}",
        ],
    ).components

    def fingerprints() -> tuple[str, str]:
        encoder = registry.load("text_encoder", parts.text_encoder)
        return encoder.fingerprint(), registry.load("denoiser", parts.denoiser).fingerprint()

    text, denoiser = fingerprints()
    assert fingerprints() == (text, denoiser)
    for name in ("tokenizer.json", "config.json"):
        file = tmp_path / name
        file.write_text(file.read_text() + " ")
    assert fingerprints()[0] != text
    assert fingerprints()[1] != denoiser


def test_locate(own_folders: Path, tmp_path: Path) -> None:
    assert models_folder() == own_folders / "models"
    with pytest.raises(CheckpointError, match=r"components\.vae\.checkpoint is empty"):
        locate("vae", "")
    with pytest.raises(CheckpointError, match=r"--set components\.denoiser\.checkpoint="):
        locate("denoiser", "nowhere/file.safetensors")
    file = own_folders / "models" / "vae.safetensors"
    file.parent.mkdir()
    file.touch()
    assert locate("vae", "vae.safetensors") == file
    assert locate("vae", str(file)) == file
    for kind in ("text_encoder", "tokenizer", "denoiser", "vae"):
        assert locate(kind, "builtin:micro").is_file()
