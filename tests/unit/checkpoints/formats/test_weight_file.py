"""Weight files are told apart by their content; what is none is called by what it is."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import engine
from engine.checkpoints.formats.weight_file import UNFINISHED, read_weight_file
from engine.errors import CheckpointError


def save_gguf(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_tensor("w", np.arange(3, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.pth", "model.gguf", "model.bin", "model"]
)
def test_the_content_decides(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_file({"w": torch.arange(3.0)}, path)
    assert read_weight_file(path).format == "safetensors"
    torch.save({"w": torch.arange(3.0)}, path)
    assert read_weight_file(path).format == "pth"
    save_gguf(path)
    read = read_weight_file(path)
    assert (read.format, read.path, read.size) == ("gguf", path, path.stat().st_size)


def zipped(*names: str, packing: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name in names:
            archive.writestr(name, b"x" * 100)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.safetensors"))
    return buffer.getvalue()


def legacy() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(1)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


CONTENTS = {
    "empty": (b"", "an empty file, expected weights; download it again"),
    "zeros": (bytes(4096), "nothing but zeros, expected weights: a download that never arrived"),
    "a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "Git LFS pointer, not the weights themselves; run `git lfs pull`",
    ),
    "a web page": (
        b"\n<!DOCTYPE html><html>",
        "a web page, not weights: the download needs a login or failed",
    ),
    "a web page with a mark": (b"\xef\xbb\xbf<html>", "a web page, not weights"),
    "XML": (
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "a web page, not weights",
    ),
    "JSON": (b'{"error": "Repository not found", "padding": 1}', "a JSON text, not weights"),
    "a JSON list": (b"[1]", "a JSON text, not weights"),
    "an answer": (
        b"Access to model x is restricted.\n",
        r"a text \('Access to model x is restricted\.'\), not a weight",
    ),
    "gzip": (gzip.compress(b"x"), "a gzip archive, expected weights; unpack it"),
    "bzip2": (bz2.compress(b"x"), "a bzip2 archive, expected weights; unpack it"),
    "xz": (lzma.compress(b"x"), "a xz archive, expected weights; unpack it"),
    "7z": (
        b"7z\xbc\xaf\x27\x1c\0\4" + bytes(range(64)),
        "a 7z archive, expected weights; unpack it",
    ),
    "rar": (
        b"Rar!\x1a\x07\x01\x00" + bytes(range(64)),
        "a rar archive, expected weights; unpack it",
    ),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(range(64)), "a zstd archive, expected weights; unpack it"),
    "tar": (tarred(), "a tar archive, expected weights; unpack it"),
    "zip": (
        zipped("model.safetensors"),
        "an ordinary zip archive .* unpack it and name the file inside",
    ),
    "a packed zip": (
        zipped("a/b.txt", "C:\\x", packing=zipfile.ZIP_DEFLATED),
        "an ordinary zip archive .* unpack it",
    ),
    "an empty zip": (zipped(), "zip .* unpack it"),
    "a legacy torch file": (
        legacy(),
        "format of torch before 1.6, a bare pickle, .* convert it to safetensors",
    ),
    "a pickle": (pickle.dumps({"w": 1}), "a bare pickle, which can hold code and is never run"),
    "ONNX": (
        b"\x08\x07\x12\x07pytorch" + bytes(range(200)),
        r"not a weight file that modiff reads \(safetensors, ",
    ),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(range(64)), r"not a weight file that modiff reads"),
    "old ggml": (b"tjgg" + bytes(range(64)), "a ggml file from before GGUF"),
    "one byte": (b"\x01", "not a weight file that modiff reads"),
    "a huge header": (b"\xff" * 8 + b"{}", "not a weight file that modiff reads"),
    "an array as header": (b"\x02" + bytes(7) + b"[]", "not a weight file that modiff reads"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_what_is_no_weight_file(tmp_path: Path, case: str) -> None:
    content, message = CONTENTS[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_weight_file(path)


@pytest.mark.parametrize("ending", UNFINISHED)
def test_unfinished_downloads(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model.safetensors{ending}"
    save_file({"w": torch.ones(1)}, path)
    with pytest.raises(
        CheckpointError, match=rf"a half-finished download \({ending}\); let it finish"
    ):
        read_weight_file(path)


def test_a_truncated_file_says_how_much_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(1000)}, path)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(
        CheckpointError, match=f"it has {size - 1000:,} of {size:,} bytes; download it again"
    ):
        read_weight_file(path)


def test_errors_are_one_short_line_whatever_the_names(tmp_path: Path) -> None:
    path = tmp_path / "new\nline\x1b[31m.safetensors"
    path.write_bytes(b"x" * 400)
    with pytest.raises(CheckpointError) as caught:
        read_weight_file(path)
    message = str(caught.value)
    assert message.isprintable()
    assert r"new\nline\x1b[31m.safetensors: " in message


def test_files_are_told_apart_without_torch(tmp_path: Path) -> None:
    """The command line does; the modules are counted in a process of their own."""
    paths = [tmp_path / name for name in ("a.safetensors", "a.pth", "a.gguf")]
    save_file({"w": torch.ones(1)}, paths[0])
    torch.save({"w": torch.ones(1)}, paths[1])
    save_gguf(paths[2])
    program = (
        "import sys; from pathlib import Path; from engine.checkpoints.formats.weight_file import read_weight_file\n"
        "for name in sys.argv[1:]: assert list(read_weight_file(Path(name)).tensors) == ['w']\n"
        "print(sorted({'torch', 'numpy', 'safetensors', 'gguf', 'transformers'} & sys.modules.keys()))"
    )
    root = Path(engine.__file__).parent.parent
    answer = subprocess.run(
        [sys.executable, "-c", program, *map(str, paths)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "[]\n"
