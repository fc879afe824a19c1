"""Tensors as bytes: canonical safetensors, so that equal tensors have equal digests.

Names are sorted, there is no metadata, the header is compact JSON padded with spaces to a
multiple of 8, data follows in name order: the library's own writer orders metadata at random and
tensors by its own rule. Any safetensors reader reads the result. Decoding checks every limit
before it allocates, since headers may come from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from store.blobs import blobs
from store.errors import StoreError

MAX_HEADER_BYTES = 1024 * 1024
MAX_TENSORS = 4096
MAX_DIMS = 8

_DTYPES = {
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


_METADATA = "__metadata__"


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """A tensor as a header names it. data_offsets: in bytes, from where the data begin."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class Header:
    """A header that was checked. tensors: in the order of their data, which they cover to the last of `num_bytes`."""

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]
    num_bytes: int


def encode_tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Tensors of any device, shape and layout, by name, as the bytes of one safetensors file."""
    return b"".join(encoded_parts(tensors))


def encoded_parts(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> list[memoryview]:
    """The bytes of `encode_tensors` as its header and the tensors' own memory, where they are contiguous and on the
    CPU: nothing is copied, and nothing may change them until the parts are used. metadata: texts that go along, as
    nothing that is stored has them."""
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    stored = []
    end = 0
    for name in sorted(tensors):
        if name == _METADATA:
            raise StoreError("a tensor cannot be named __metadata__: safetensors reserves it")
        tensor = tensors[name].detach().cpu().resolve_conj().resolve_neg().contiguous()
        if tensor.dtype not in _NAMES:
            raise StoreError(f"tensor {name!r} has dtype {tensor.dtype}, which cannot be stored")
        start, end = end, end + tensor.nbytes
        header[name] = Entry(_NAMES[tensor.dtype], list(tensor.shape), (start, end))
        stored.append(tensor.view(-1).view(torch.uint8).numpy().data)
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    return [memoryview(len(text).to_bytes(8, "little") + text), *stored]


def decode_tensors(data: bytes | bytearray | memoryview) -> dict[str, torch.Tensor]:
    """The tensors of a file made by `encode_tensors`, on the CPU, in memory of their own."""
    return _decoded(memoryview(data), shared=False)


def get_tensors(root: Path, digest: str) -> dict[str, torch.Tensor]:
    """The tensors of a blob, on the CPU, verified; they share the memory that it was read into.

    Raises BlobMissing or BlobCorrupt where it cannot be had, StoreError where it is something else.
    """
    return _decoded(blobs.get_into(root, digest, _uninitialised), shared=True)


def _uninitialised(num_bytes: int) -> memoryview:
    """Memory that nobody has filled with zeros first."""
    return torch.empty(num_bytes, dtype=torch.uint8).numpy().data


def read_header(text: bytes | bytearray | memoryview) -> Header:
    """The header of a tensor file, without the eight bytes of its length before it. Every offset is checked, so that
    memory may be taken by it. Raises StoreError."""
    try:
        fields: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
        metadata = msgspec.convert(fields.pop(_METADATA, {}), dict[str, str])
        entries = msgspec.convert(fields, dict[str, Entry])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"not a tensor file: its header is not valid ({error})") from error
    if len(entries) > MAX_TENSORS:
        raise StoreError(f"a tensor file of {len(entries)} tensors; expected at most {MAX_TENSORS}")
    in_order = sorted(entries.items(), key=lambda item: (item[1].data_offsets, item[0]))
    end = 0
    for name, entry in in_order:
        _check(name, entry, end)
        end = entry.data_offsets[1]
    return Header(dict(in_order), metadata, end)


def unpack(header: Header, body: memoryview, *, shared: bool) -> dict[str, torch.Tensor]:
    """The tensors of the data that a header tells of, on the CPU. shared: in the memory of `body`, else in their
    own."""
    tensors = {}
    for name, entry in header.tensors.items():
        begin, end = entry.data_offsets
        tensor = _tensor(body[begin:end], _DTYPES[entry.dtype], shared=shared)
        tensors[name] = tensor.reshape(entry.shape)
    return tensors


def _decoded(data: memoryview, *, shared: bool) -> dict[str, torch.Tensor]:
    num_bytes = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= num_bytes <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise StoreError(
            f"not a tensor file: a header of {num_bytes} bytes in a file of {len(data)}, "
            f"expected 2 to {MAX_HEADER_BYTES} within the file"
        )
    header, body = read_header(data[8 : 8 + num_bytes]), data[8 + num_bytes :]
    if header.num_bytes > len(body):
        raise StoreError(
            f"not a tensor file: it ends at {len(body)} bytes of data, before {header.num_bytes}"
        )
    if header.num_bytes != len(body):
        raise StoreError(
            f"not a tensor file: {len(body)} data bytes, its header names {header.num_bytes}"
        )
    return unpack(header, body, shared=shared)


def _check(name: str, entry: Entry, expected_begin: int) -> None:
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise StoreError(f"tensor {name!r} has the unknown dtype {entry.dtype!r}")
    if len(entry.shape) > MAX_DIMS:
        raise StoreError(
            f"tensor {name!r} has {len(entry.shape)} dimensions, expected at most {MAX_DIMS}"
        )
    if any(size < 0 for size in entry.shape):
        raise StoreError(f"tensor {name!r} has the impossible shape {entry.shape}")
    begin, end = entry.data_offsets
    if begin != expected_begin or end - begin != math.prod(entry.shape) * dtype.itemsize:
        raise StoreError(
            f"tensor {name!r} of shape {entry.shape} and dtype {entry.dtype} cannot be at "
            f"{begin} to {end}, after {expected_begin} bytes of data"
        )


def _tensor(data: memoryview, dtype: torch.dtype, *, shared: bool) -> torch.Tensor:
    if not data:
        return torch.empty(0, dtype=dtype)
    if shared and (tensor := torch.frombuffer(data, dtype=dtype)).data_ptr() % dtype.itemsize == 0:
        return tensor
    # A copy of its own per tensor: offsets need not be aligned, and one tensor that lives on must
    # not keep the others' memory.
    return torch.frombuffer(bytearray(data), dtype=dtype)
