"""A fingerprint is of what the files hold: never of their paths, and without reading 28 GB."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoints.fingerprint import SAMPLE_BYTES, fingerprint, sampled
from engine.checkpoints.formats.weight_file import read_weight_file
from engine.errors import CheckpointError
from tests.counting import bytes_read

BIG = 5 * SAMPLE_BYTES


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(64, BIG // 64, generator=generator),
        "b.bias": torch.randn(7, generator=generator),
        "b.weight": torch.randn(7, 3, generator=generator).half(),
    }


@pytest.fixture
def path(tmp_path: Path, weights) -> Path:
    file = tmp_path / "m.safetensors"
    save_file(weights, file)
    return file


def flip(path: Path, tensor: str, offset: int) -> None:
    """Flips one bit of the byte at `offset` in a tensor (from its end where negative)."""
    info = read_weight_file(path).tensors[tensor]
    at = (info.stop if offset < 0 else info.start) + offset
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_its_form(path: Path) -> None:
    prefix, _, digits = fingerprint([path]).partition(":")
    assert prefix == "wf1"
    assert len(bytes.fromhex(digits)) == 32


def test_names_folders_links_and_times_do_not_count(path: Path, tmp_path: Path) -> None:
    first = fingerprint([path])
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copy(path, tmp_path / "elsewhere" / ("0" * 64))
    os.utime(moved, (1, 1))
    link = tmp_path / "link.safetensors"
    link.symlink_to(moved)
    assert fingerprint([Path(moved)]) == fingerprint([link]) == first
    assert sampled([read_weight_file(link)]) == first


def test_the_format_and_the_order_of_the_tensors_do_not_count(
    path: Path, tmp_path, weights
) -> None:
    torch.save(weights, tmp_path / "m.pth")
    torch.save(dict(reversed(weights.items())), tmp_path / "reversed.pth")
    found = {fingerprint([tmp_path / name]) for name in ("m.pth", "reversed.pth")}
    assert found == {fingerprint([path])}


@pytest.mark.parametrize(
    ("tensor", "offset", "is_seen"),
    [
        ("a.weight", 0, True),
        ("a.weight", SAMPLE_BYTES - 1, True),
        ("a.weight", SAMPLE_BYTES, False),
        ("a.weight", BIG * 2, True),
        ("a.weight", -SAMPLE_BYTES, True),
        ("a.weight", -SAMPLE_BYTES - 1, False),
        ("a.weight", -1, True),
        *[("b.weight", offset, True) for offset in (0, 20, -1)],
        ("b.bias", -1, True),
    ],
)
def test_which_bytes_it_sees(path: Path, tensor: str, offset: int, is_seen: bool) -> None:
    before = fingerprint([path])
    flip(path, tensor, offset)
    assert (fingerprint([path]) != before) == is_seen


@pytest.mark.parametrize(
    "change",
    [
        lambda w: {**w, "c": torch.zeros(0)},
        lambda w: {name + "x": tensor for name, tensor in w.items()},
        lambda w: {**w, "b.weight": w["b.weight"].T.contiguous()},
        lambda w: {**w, "a.weight": w["a.weight"].reshape(-1)},
        lambda w: {**w, "a.weight": w["a.weight"].view(torch.int32)},
        lambda w: {**w, "b.weight": w["b.weight"].view(torch.bfloat16)},
        lambda w: {name: tensor * 1.001 for name, tensor in w.items()},
        lambda w: {**w, "a.weight": w["a.weight"].double()},
    ],
)
def test_names_shapes_dtypes_and_numbers_count(path: Path, weights, change) -> None:
    before = fingerprint([path])
    save_file(change(weights), path)
    assert fingerprint([path]) != before


def test_what_a_file_says_about_itself_counts(path: Path, weights) -> None:
    """A configuration may be in there, which makes another model of the same numbers."""
    before = fingerprint([path])
    save_file(weights, path, metadata={"config": "{}"})
    assert fingerprint([path]) != before


def test_every_file_counts_in_its_order(path: Path, tmp_path: Path, weights) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(' {"model": "x"}')
    both = fingerprint([path, tokenizer])
    assert (
        len({both, fingerprint([path]), fingerprint([tokenizer]), fingerprint([tokenizer, path])})
        == 4
    )
    tokenizer.rename(tmp_path / "t")
    assert fingerprint([path, tmp_path / "t"]) == both
    (tmp_path / "t").write_text(' {"model": "y"}')
    assert fingerprint([path, tmp_path / "t"]) != both


def test_the_split_over_files_counts(path: Path, tmp_path: Path, weights) -> None:
    shards = []
    for name, tensor in weights.items():
        shards.append(tmp_path / f"{name}.safetensors")
        save_file({name: tensor}, shards[-1])
    assert fingerprint(shards) != fingerprint([path])


def test_a_header_that_begins_like_json_is_weights(tmp_path: Path) -> None:
    """A header of 123 bytes makes the file begin with a brace."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}).ljust(123)
    for number, name in ((1, "a"), (2, "b")):
        data = struct.pack("<Q", 123) + header.encode() + bytes([number] * 9)
        (tmp_path / name).write_bytes(data)
    assert (tmp_path / "a").read_bytes().startswith(b"{")
    assert read_weight_file(tmp_path / "a").tensors.keys() == {"w"}
    assert sampled([read_weight_file(tmp_path / "a")]) == sampled([tmp_path / "a"])
    assert fingerprint([tmp_path / "a"]) != fingerprint([tmp_path / "b"])


@pytest.mark.parametrize("content", [b"", b"<html>", b"version https://git-lfs", b"\x80\x02."])
def test_what_is_neither_weights_nor_json_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "m.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"m\.safetensors: ") as caught:
        fingerprint([file])
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"m\.safetensors: "):
        fingerprint([file])


def sparse_28_gb(path: Path) -> int:
    """A file with the tensors of the 14B model's size and number, and nothing on the disk; how many."""
    table, start = {}, 0
    for number in range(1100):
        shape = [5120, 2560] if number % 11 else [5120]
        size = 2 * 5120 * (2560 if number % 11 else 1)
        table[f"blocks.{number}.weight"] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [start, start + size],
        }
        start += size
    header = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + start)
    return start


def test_of_28_gb_only_the_samples_are_read(tmp_path: Path) -> None:
    file = tmp_path / "big.safetensors"
    assert sparse_28_gb(file) > 26e9
    first, num_bytes = bytes_read(lambda: fingerprint([file]))
    samples = 1100 * 3 * SAMPLE_BYTES
    assert samples // 2 < num_bytes < samples + (1 << 20)  # and the header, of 100 KB
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.write(b"\1")
    assert fingerprint([file]) != first


def test_json_is_hashed_whole(tmp_path: Path) -> None:
    text = tmp_path / "tokenizer.json"
    text.write_text(json.dumps({"x": "y" * 100_000}))
    whole = hashlib.sha256(text.read_bytes()).hexdigest()
    assert fingerprint([text]) == f"wf1:{hashlib.sha256(whole.encode()).hexdigest()}"


def test_pipes_are_refused_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="a pipe, expected a model's file"):
        fingerprint([path])
