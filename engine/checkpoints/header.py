"""Safetensors headers, read and checked without torch and without touching the data.

A header is untrusted input: its length, its JSON and every offset are checked before anybody allocates by it.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError

MAX_HEADER_BYTES = 100 << 20  # the limit of the safetensors library
MAX_DIMENSIONS = 8

_ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: its dtype as the format spells it, its shape, and its bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Name -> tensor of a safetensors file.

    Raises CheckpointError, in one line with what to do, where the file is absent, unreadable, truncated,
    or not a safetensors file at all.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            _check_start(path, start, length, size)
            header = file.read(length)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        table = json.loads(header)
        if not isinstance(table, dict):
            raise TypeError("not an object")
        tensors = {
            name: _tensor_info(name, entry, 8 + length)
            for name, entry in table.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged safetensors header ({error})") from None
    end = max((tensor.stop for tensor in tensors.values()), default=8 + length)
    if end > size:
        raise CheckpointError(
            f"{path}: truncated, it has {size:,} of {end:,} bytes; download it again"
        )
    return tensors


def _check_start(path: Path, start: bytes, length: int, size: int) -> None:
    if start.startswith(b"version "):
        raise CheckpointError(
            f"{path}: a Git LFS pointer, not the weights themselves; run `git lfs pull` or download the file"
        )
    if start.lstrip().startswith((b"<", b"PK\x03\x04", b"\x80")) or len(start) < 8:
        raise CheckpointError(
            f"{path}: not a safetensors file ({size:,} bytes); this version reads safetensors only"
        )
    if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
        raise CheckpointError(
            f"{path}: not a safetensors file, or truncated (header of {length:,} bytes in a file of "
            f"{size:,}); download it again"
        )


def _tensor_info(name: str, entry: dict[str, Any], data_start: int) -> TensorInfo:
    shape = tuple(entry["shape"])
    if len(shape) > MAX_DIMENSIONS or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"shape of {name}")
    start, stop = entry["data_offsets"]
    if type(start) is not int or type(stop) is not int:
        raise TypeError(f"offsets of {name}")
    bits = _ITEM_BITS.get(entry["dtype"])
    if bits is None:
        raise ValueError(f"{name} has the unknown dtype {entry['dtype']!r}")
    if not 0 <= start <= stop or (stop - start) * 8 != math.prod(shape) * bits:
        raise ValueError(f"{name} has {stop - start} bytes, which does not fit its shape")
    return TensorInfo(entry["dtype"], shape, data_start + start, data_start + stop)
