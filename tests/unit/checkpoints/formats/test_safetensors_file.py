"""Safetensors headers: what the safetensors library opens is read the same, what it refuses is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from engine.checkpoints.formats.safetensors_file import MAX_HEADER_BYTES, read_safetensors
from engine.checkpoints.formats.table import MAX_TENSORS
from engine.errors import CheckpointError

DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.uint16: "U16",
    torch.int32: "I32", torch.uint32: "U32", torch.int64: "I64", torch.uint64: "U64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e8m0fnu: "F8_E8M0",
    torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
}  # fmt: skip


def write(path: Path, header: object, data: bytes = b"") -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return path


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def library_shapes(path: Path) -> dict[str, tuple[int, ...]] | None:
    """None where the library refuses the file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        return None


def test_every_dtype_with_its_shape_and_bytes(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.arange(24).reshape(2, 3, 4).to(dtype) for dtype in DTYPES}
    tensors |= {"scalar": torch.tensor(3.0), "none": torch.empty(0, 4)}
    path = tmp_path / "all.safetensors"
    save_file(tensors, path, metadata={"config": '{"dim": 1}'})
    read = read_safetensors(path)
    content = path.read_bytes()
    assert read.size == len(content)
    assert (read.format, read.metadata) == ("safetensors", {"config": '{"dim": 1}'})
    assert read.tensors.keys() == tensors.keys()
    for name, info in read.tensors.items():
        tensor = tensors[name]
        assert (info.dtype, info.shape) == (DTYPES[tensor.dtype], tuple(tensor.shape))
        assert content[info.start : info.stop] == bytes(
            tensor.reshape(-1).view(torch.uint8).tolist()
        )
        assert (info.file, info.strides) == (path, None)


@pytest.mark.parametrize(
    ("header", "num_bytes"),
    [
        ({}, 0),
        ({"__metadata__": {}}, 0),
        ({"__metadata__": None, "a": entry("F32", [1], 0, 4)}, 4),
        (
            {
                "a": entry("F32", [0, 3], 0, 0),
                "b": entry("F32", [1], 0, 4),
                "c": entry("F32", [0], 4, 4),
            },
            4,
        ),
        ({"a": {**entry("F32", [1], 0, 4), "note": 1}}, 4),
        (b'  {"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}  ', 4),
        ({"ünï": entry("I8", [1] * 8, 0, 1)}, 1),
        ({"__metadata__": {"": "x", "b\n": "\x00"}}, 0),
    ],
)
def test_what_the_library_takes_is_taken(tmp_path: Path, header: object, num_bytes: int) -> None:
    path = write(tmp_path / "odd.safetensors", header, bytes(num_bytes))
    shapes = library_shapes(path)
    assert shapes is not None
    assert {name: info.shape for name, info in read_safetensors(path).tensors.items()} == shapes


REFUSED = {
    "a hole": ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, 12, "4 bytes before b belong to no"),
    "a hole at the start": ({"b": entry("F32", [1], 8, 12)}, 12, "8 bytes before b belong to no tensor"),
    "shared bytes": ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 4, 8)}, 8, "b shares bytes"),
    "the same bytes": ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, 4, "b shares bytes"),
    "nothing inside": ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [0], 4, 4)}, 8, "b shares bytes"),
    "bytes after the end": ({"a": entry("F32", [1], 0, 4)}, 6, "2 bytes follow the last tensor"),
    "bytes of no tensor": ({}, 1, "1 bytes follow"),
    "the end is missing": ({"a": entry("F32", [3], 0, 12)}, 11, r"truncated, it has [\d,]+ of [\d,]+ bytes"),
    "too few bytes": ({"a": entry("F32", [2], 0, 4)}, 4, "a has 4 bytes, which does not fit its shape"),
    "a negative axis": ({"a": entry("F32", [-1, -1], 0, 4)}, 4, "shape of a"),
    "backwards": ({"a": entry("F32", [1], 4, 0)}, 4, "a has -4 bytes"),
    "a broken number": ({"a": entry("F32", [1.0], 0, 4)}, 4, "shape of a"),
    "truth values": ({"a": entry("F32", [True], 0, 4)}, 4, "shape of a"),
    "more bytes than exist": ({"a": entry("F32", [1 << 61, 1 << 61], 0, 0)}, 0, "does not fit its shape"),
    "an unknown dtype": ({"a": entry("F33", [1], 0, 4)}, 4, "a has the dtype 'F33'"),
    "a list as dtype": ({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, 4, "damaged"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [1]}}, 4, "data_offsets"),
    "three offsets": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2, 4]}}, 4, "damaged"),
    "a number for a tensor": ({"a": 7}, 0, "damaged"),
    "a tensor twice": (
        b'{"a":{"dtype":"I8","shape":[],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[],"data_offsets":[0,1]}}',
        1,
        "a is there twice",
    ),
    "a field twice": (b'{"a":{"dtype":"I8","dtype":"I8","shape":[],"data_offsets":[0,1]}}', 1, "dtype is there twice"),
    "metadata twice": (b'{"__metadata__":{"a":"1","a":"2"}}', 0, "a is there twice"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, 0, "__metadata__ is not a table of texts"),
    "nested metadata": ({"__metadata__": {"a": {}}}, 0, "__metadata__ is not a table of texts"),
    "a list": ([], 0, "not an object"),
    "half a table": (b'{"a": ', 0, "damaged"),
    "zeros after the table": (b'{}\0\0', 0, "damaged"),
    "another encoding": ('{"a":{}}'.encode("utf-16"), 0, "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_lies_is_refused(tmp_path: Path, case: str) -> None:
    header, num_bytes, message = REFUSED[case]
    path = write(tmp_path / "lies.safetensors", header, bytes(num_bytes))
    if case != "a tensor twice" and case != "metadata twice":  # of which the library takes the last
        assert library_shapes(path) is None
    with pytest.raises(CheckpointError, match=message) as caught:
        read_safetensors(path)
    assert "download it again" in str(caught.value)


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31mred", "\u202e", "n" * 1025, "é" * 600])
def test_names_that_cannot_be_shown_are_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "names.safetensors", {name: entry("I8", [], 0, 1)}, b"1")
    with pytest.raises(CheckpointError, match=r"a tensor has (the|a) name") as caught:
        read_safetensors(path)
    assert str(caught.value).isprintable()


def test_limits(tmp_path: Path) -> None:
    """Beyond what anybody publishes: refused by the length alone, or by the number of entries."""
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}")
        file.truncate(MAX_HEADER_BYTES + 100)
    with pytest.raises(
        CheckpointError, match="a header of 4,194,305 bytes, expected at most 4,194,304"
    ):
        read_safetensors(path)
    for count, fits in ((1000, True), (MAX_TENSORS + 3, False)):
        table = b",".join(
            b'"%d":{"dtype":"I8","shape":[],"data_offsets":[0,0]}' % n for n in range(count)
        )
        write(path, b"{" + table.replace(b'"shape":[]', b'"shape":[0]') + b"}")
        if fits:
            assert len(read_safetensors(path).tensors) == count
        else:
            with pytest.raises(CheckpointError, match=r"expected at most|more than .* entries"):
                read_safetensors(path)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(st.integers(0, 3), max_size=4),
    shifts=st.lists(st.integers(-2, 2), min_size=4, max_size=4),
    trailing=st.integers(-1, 1),
    order=st.permutations(range(4)),
)
def test_agrees_with_the_library(tmp_path: Path, sizes, shifts, trailing, order) -> None:
    """On tables whose tensors touch, overlap and leave holes, in any order."""
    table, position = {}, 0
    for index, (size, shift) in enumerate(zip(sizes, shifts, strict=False)):
        position += shift if sum(map(abs, shifts)) % 2 else 0
        table[f"t{index}"] = entry("I8", [size], position, position + size)
        position += size
    shuffled = {f"t{n}": table[f"t{n}"] for n in order if f"t{n}" in table}
    path = write(tmp_path / "made.safetensors", shuffled, bytes(max(0, position + trailing)))
    expected = library_shapes(path)
    try:
        shapes = {name: info.shape for name, info in read_safetensors(path).tensors.items()}
    except CheckpointError:
        shapes = None
    assert shapes == expected
