"""GGUF headers (versions 2 and 3, little-endian), read and checked without numpy and without touching the data.

A header is untrusted input: counts and lengths are limited, and nothing is allocated by them. Long arrays, such as
a tokenizer's vocabulary, are stepped over. The format: docs/gguf.md of ggml-org/ggml.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

from engine.checkpoints.formats.reading import (
    check_count,
    check_name,
    in_order,
    opened,
    refusal,
    shortened,
    truncated,
)
from engine.checkpoints.formats.table import (
    BLOCKS,
    ITEM_BITS,
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    TensorInfo,
    WeightFile,
)

# The header of the UMT5 encoder, with its vocabulary of 256,384 tokens, has some 6 MB.
MAX_HEADER_BYTES = 32 << 20
MAX_KEYS = (
    16_384  # published files have fewer than a hundred, and one more for each reshaped tensor
)
MAX_TEXTS = 1 << 19  # in arrays
MAX_TEXT_BYTES = 64 << 10  # of one that is kept
MAX_KEPT_BYTES = 4 << 20  # of all of them

_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
# By the number in the file; held to the gguf package's by a test.
TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
_INTEGERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q"}
_FLOATS = {6: "f", 12: "d"}
_BOOL, _TEXT, _ARRAY = 7, 8, 9
_WIDTHS = {code: struct.calcsize(letter) for code, letter in _INTEGERS.items()} | {
    6: 4,
    _BOOL: 1,
    12: 8,
}
_WINDOW = 1 << 20


def read_gguf(path: Path) -> WeightFile:
    """The directory of a GGUF file, shapes in torch's order. metadata: its texts, whole numbers and truth values,
    without arrays and without texts of more than 64 KiB.

    Raises CheckpointError, in one line with what to do, where the file is absent, unreadable, truncated,
    damaged, of another version, or holds numbers of a type that published Wan files do not use.
    """
    with opened(path) as (file, facts):
        size = facts.size
        header = _Cursor(file, size)
        try:
            num_tensors, num_keys = _read_counts(header)
            metadata, shapes, _ = _read_metadata(header, num_keys)
            records = [_read_record(header) for _ in range(num_tensors)]
            alignment = _alignment(metadata)
            data_start = -(-header.position // alignment) * alignment
            tensors: dict[str, TensorInfo] = {}
            for name, shape, dtype, offset in records:
                if name in tensors:
                    raise ValueError(f"{shortened(name)} is there twice")
                start = data_start + offset
                stop = start + _num_bytes(name, shape, dtype)
                original = shapes.get(name, shape)
                if math.prod(original) != math.prod(shape):
                    original = shape
                tensors[name] = TensorInfo(dtype, original, start, stop, path, facts=facts)
            end = _check_overlaps(tensors)
        except _NotForUs as error:
            raise refusal(path, str(error)) from None
        except EOFError:
            raise refusal(
                path, f"truncated in its header, it has {size:,} bytes; download it again"
            ) from None
        except ValueError as error:
            raise refusal(path, f"damaged GGUF header ({error}); download it again") from None
    if end > size:
        raise truncated(path, size, end)
    return WeightFile(path, "gguf", size, tensors, metadata)


def read_gguf_arrays(path: Path, names: Collection[str]) -> dict[str, Any]:
    """The arrays of a GGUF file that have these names, where they are there: of bytes as bytes, of texts, numbers and
    truth values as lists. Raises CheckpointError as `read_gguf` does, and for arrays in arrays."""
    with opened(path) as (file, facts):
        header = _Cursor(file, facts.size)
        try:
            _, num_keys = _read_counts(header)
            return _read_metadata(header, num_keys, names)[2]
        except _NotForUs as error:
            raise refusal(path, str(error)) from None
        except EOFError:
            raise refusal(path, "truncated in its header; download it again") from None
        except ValueError as error:
            raise refusal(path, f"damaged GGUF header ({error}); download it again") from None


class _NotForUs(Exception):
    """A whole file, but not of a kind that we read; with what to do."""


class _Cursor:
    """Steps through the header in a window of one mebibyte, whatever the lengths in it say.

    EOFError: the file ends before. ValueError: no published header is that long.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._window = b""
        self._base = 0  # where the window begins
        self.position = 0

    def take(self, count: int) -> bytes:
        index = self.position - self._base
        if index + count > len(self._window):
            self._move(count)
            index = 0
        self.position += count
        return self._window[index : index + count]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def skip(self, count: int) -> None:
        self.position += count
        self._check(self.position)

    def skip_texts(self, count: int) -> None:
        """Inlined, since a vocabulary has a quarter of a million: 0.1 us for each."""
        length_at = struct.Struct("<Q").unpack_from
        index, end = self.position - self._base, len(self._window) - 8
        for _ in range(count):
            if index > end:
                self.position = self._base + index
                self._move(8)
                index, end = 0, len(self._window) - 8
            index += 8 + length_at(self._window, index)[0]
        self.position = self._base + index
        self._check(self.position)

    def _move(self, count: int) -> None:
        self._check(self.position + count)
        self._file.seek(self.position)
        self._base = self.position
        self._window = self._file.read(max(count, _WINDOW))
        if len(self._window) < count:
            raise EOFError

    def _check(self, end: int) -> None:
        if end > self._size:
            raise EOFError
        if end > MAX_HEADER_BYTES:
            raise ValueError(f"more than {MAX_HEADER_BYTES:,} bytes")


def _read_counts(header: _Cursor) -> tuple[int, int]:
    if header.take(4) != b"GGUF":
        raise _NotForUs("not a GGUF file; name a weight file (safetensors, .pth, GGUF)")
    version = header.number(4)
    if version and version & 0xFFFF == 0:
        raise _NotForUs(
            "a big-endian GGUF file, expected a little-endian one; get that of this model"
        )
    if version not in (2, 3):
        raise _NotForUs(
            f"GGUF of version {version}, expected 2 or 3; get a newer file of this model"
        )
    num_tensors, num_keys = header.number(8), header.number(8)
    check_count(num_tensors)
    if num_keys > MAX_KEYS:
        raise ValueError(f"it has {num_keys:,} metadata keys, expected at most {MAX_KEYS:,}")
    return num_tensors, num_keys


def _read_metadata(
    header: _Cursor, num_keys: int, wanted: Collection[str] = ()
) -> tuple[dict[str, str], dict[str, tuple[int, ...]], dict[str, Any]]:
    """(the short values, the shapes that tensors had before they were reshaped for the format, the wanted arrays)."""
    arrays: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    seen: set[str] = set()
    num_texts = kept_bytes = 0
    for _ in range(num_keys):
        key = _read_name(header)
        if key in seen:
            raise ValueError(f"the key {shortened(key)} is there twice")
        seen.add(key)
        kind = header.number(4)
        if kind in _INTEGERS:
            metadata[key] = str(_read_integer(header, kind))
        elif kind == _BOOL:
            metadata[key] = str(header.number(1) != 0).lower()
        elif kind == _TEXT:
            length = header.number(8)
            kept_bytes += length
            if length <= MAX_TEXT_BYTES and kept_bytes <= MAX_KEPT_BYTES:
                metadata[key] = header.take(length).decode(errors="replace")
            else:
                header.skip(length)
        elif kind == _ARRAY:
            kind, count = header.number(4), header.number(8)
            if kind in _INTEGERS and count <= MAX_DIMENSIONS and key.startswith(_ORIGINAL_SHAPE):
                shape = tuple(_read_integer(header, kind) for _ in range(count))
                if min(shape, default=0) >= 0:
                    shapes[key.removeprefix(_ORIGINAL_SHAPE)] = shape
            elif key in wanted:
                arrays[key] = _read_array(header, kind, count, key)
            elif kind == _TEXT:
                num_texts += count
                if num_texts > MAX_TEXTS:
                    raise ValueError(
                        f"arrays of {num_texts:,} texts, expected at most {MAX_TEXTS:,}"
                    )
                header.skip_texts(count)
            else:
                header.skip(count * _width(kind, key))
        else:
            header.skip(_width(kind, key))
    return metadata, shapes, arrays


def _read_array(header: _Cursor, kind: int, count: int, key: str) -> Any:
    width = 8 if kind == _TEXT else _width(kind, key)
    if kind == 0:
        return header.take(count)
    if count > MAX_TEXTS:
        raise ValueError(f"{shortened(key)} has {count:,} values, expected at most {MAX_TEXTS:,}")
    if kind == _TEXT:
        return [header.take(header.number(8)).decode() for _ in range(count)]
    letter = _INTEGERS.get(kind) or _FLOATS.get(kind, "?")
    return list(struct.unpack(f"<{count}{letter}", header.take(count * width)))


def _read_name(header: _Cursor) -> str:
    length = header.number(8)
    if length > MAX_NAME_BYTES:
        raise ValueError(f"a name of {length:,} bytes, expected at most {MAX_NAME_BYTES:,}")
    name = header.take(length).decode()
    check_name(name)
    return name


def _read_integer(header: _Cursor, kind: int) -> int:
    return int.from_bytes(header.take(_WIDTHS[kind]), "little", signed=_INTEGERS[kind].islower())


def _width(kind: int, key: str) -> int:
    if kind not in _WIDTHS:
        raise ValueError(f"{shortened(key)} has a value of the unknown kind {kind}")
    return _WIDTHS[kind]


def _read_record(header: _Cursor) -> tuple[str, tuple[int, ...], str, int]:
    """(name, shape in torch's order, type, offset in the data) of one tensor."""
    name = _read_name(header)
    num_dimensions = header.number(4)
    if num_dimensions > MAX_DIMENSIONS:
        raise ValueError(
            f"{shortened(name)} has {num_dimensions:,} axes, expected at most {MAX_DIMENSIONS}"
        )
    shape = struct.unpack(f"<{num_dimensions}Q", header.take(8 * num_dimensions))[::-1]
    kind, offset = struct.unpack("<IQ", header.take(12))
    dtype = TYPES.get(kind, f"number {kind}")
    if dtype not in BLOCKS and dtype not in ITEM_BITS:
        raise _NotForUs(
            f"{shortened(name)} has the GGUF type {dtype}, which published Wan files do not use; "
            "get another quantisation of this model"
        )
    return name, shape, dtype, offset


def _num_bytes(name: str, shape: tuple[int, ...], dtype: str) -> int:
    if dtype in ITEM_BITS:
        return math.prod(shape) * ITEM_BITS[dtype] // 8
    block_bytes, block_weights = BLOCKS[dtype]
    if not shape or shape[-1] % block_weights:
        raise ValueError(f"the rows of {shortened(name)} are no whole blocks of {dtype}")
    return math.prod(shape) // block_weights * block_bytes


def _alignment(metadata: dict[str, str]) -> int:
    alignment = int(metadata.get("general.alignment", "32"))
    if not 1 <= alignment <= 1 << 16 or alignment & (alignment - 1):
        raise ValueError(f"an alignment of {alignment}")
    return alignment


def _check_overlaps(tensors: dict[str, TensorInfo]) -> int:
    """Where the last tensor ends. Raises ValueError where two share bytes."""
    end = 0
    for name, tensor in in_order(tensors):
        if tensor.start < end:
            raise ValueError(f"{shortened(name)} shares bytes with another tensor")
        end = max(end, tensor.stop)
    return end
