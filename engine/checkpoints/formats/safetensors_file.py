"""Safetensors headers, read and checked without torch and without touching the data.

A header is untrusted input: its length, its JSON and every offset are checked before anybody allocates by it.
The rules are those of the format: the tensors cover the data without holes and overlaps, to the last byte.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from engine.checkpoints.formats.reading import (
    check_count,
    check_name,
    in_order,
    opened,
    refusal,
    shortened,
    truncated,
    without_repeats,
)
from engine.checkpoints.formats.table import (
    ITEM_BITS,
    MAX_DIMENSIONS,
    MAX_TENSORS,
    Facts,
    TensorInfo,
    WeightFile,
)
from engine.errors import CheckpointError

# The longest header published for the family has 200 KB. The library allows 100 MB, which as JSON can cost
# gigabytes and seconds; this costs at most a tenth of a second.
MAX_HEADER_BYTES = 4 << 20
# A tensor of five axes has eleven commas and opening brackets; the texts of the metadata have some of their own.
_MAX_SEPARATORS = 16 * MAX_TENSORS
_MAX_DIGITS = 20  # of 2**64
_METADATA = "__metadata__"


def read_safetensors(path: Path) -> WeightFile:
    """The directory of a safetensors file; metadata: its `__metadata__` table.

    Raises CheckpointError, in one line with what to do, where the file is absent, unreadable, truncated,
    damaged, or not a safetensors file at all.
    """
    with opened(path) as (file, facts):
        size = facts.size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise refusal(
                path,
                f"not a safetensors file, or truncated (a header of {length:,} bytes in a file of "
                f"{size:,}); download it again",
            )
        if length > MAX_HEADER_BYTES:
            raise refusal(
                path,
                f"a header of {length:,} bytes, expected at most {MAX_HEADER_BYTES:,}: damaged or hostile; "
                "get it from where the model was published",
            )
        header = file.read(length)
    if len(header) < length:
        raise truncated(path, 8 + len(header), size)
    try:
        entries = _parse(header)
        metadata = _metadata(entries.pop(_METADATA, None))
        check_count(len(entries))
        tensors = {
            name: _tensor(name, entry, 8 + length, path, facts) for name, entry in entries.items()
        }
        end = _check_order(tensors, 8 + length)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise damaged(path, error) from None
    if end > size:
        raise truncated(path, size, end)
    if end < size:
        raise damaged(path, f"{size - end:,} bytes follow the last tensor")
    return WeightFile(path, "safetensors", size, tensors, metadata)


def damaged(path: Path, reason: object) -> CheckpointError:
    return refusal(path, f"damaged safetensors header ({reason}); download it again")


def _parse(header: bytes) -> dict[str, Any]:
    # counted before anything is built, since each can cost a hundred times its bytes
    if header.count(b"{") > MAX_TENSORS + 2:
        raise ValueError(f"more than {MAX_TENSORS:,} entries")
    if header.count(b",") + header.count(b"[") > _MAX_SEPARATORS:
        raise ValueError("more values than its tensors need")
    table = json.loads(header.decode(), object_pairs_hook=without_repeats, parse_int=_bounded_int)
    if not isinstance(table, dict):
        raise TypeError("not an object")
    return table


def _bounded_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _metadata(table: object) -> dict[str, str]:
    if table is None:
        return {}
    if not isinstance(table, dict) or not all(isinstance(text, str) for text in table.values()):
        raise TypeError(f"{_METADATA} is not a table of texts")
    return table


def _tensor(
    name: str, entry: dict[str, Any], data_start: int, path: Path, facts: Facts
) -> TensorInfo:
    check_name(name)
    shape = tuple(entry["shape"])
    if len(shape) > MAX_DIMENSIONS or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"shape of {shortened(name)}")
    start, stop = entry["data_offsets"]
    if type(start) is not int or type(stop) is not int:
        raise TypeError(f"offsets of {shortened(name)}")
    bits = ITEM_BITS.get(entry["dtype"])
    if bits is None:
        raise ValueError(
            f"{shortened(name)} has the dtype {shortened(repr(entry['dtype']))}, which is not used here"
        )
    if not 0 <= start <= stop or (stop - start) * 8 != math.prod(shape) * bits:
        raise ValueError(
            f"{shortened(name)} has {stop - start:,} bytes, which does not fit its shape"
        )
    return TensorInfo(
        entry["dtype"], shape, data_start + start, data_start + stop, path, facts=facts
    )


def _check_order(tensors: dict[str, TensorInfo], data_start: int) -> int:
    """Where the last tensor ends. Raises ValueError where two share bytes or bytes belong to none."""
    end = data_start
    for name, tensor in in_order(tensors):
        if tensor.start < end:
            raise ValueError(f"{shortened(name)} shares bytes with another tensor")
        if tensor.start > end:
            raise ValueError(
                f"{tensor.start - end:,} bytes before {shortened(name)} belong to no tensor"
            )
        end = tensor.stop
    return end
