"""Tensors as bytes: canonical safetensors, so that equal tensors have equal digests.

Names are sorted, there is no metadata, the header is compact JSON padded with spaces to a
multiple of 8, data follows in name order: the library's own writer orders metadata at random and
tensors by its own rule. Any safetensors reader reads the result. Decoding checks every limit
before it allocates, since headers may come from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def encode_tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Tensors of any device, shape and layout, by name, as the bytes of one safetensors file."""
    return b"".join(encoded_parts(tensors))


def encoded_parts(tensors: Mapping[str, torch.Tensor]) -> list[memoryview]:
    """The bytes of `encode_tensors` as its header and the tensors' own memory, where they are contiguous and on the
    CPU: nothing is copied, and nothing may change them until the parts are used."""
    header: dict[str, _Entry] = {}
    stored = []
    end = 0
    for name in sorted(tensors):
        if name == "__metadata__":
            raise StoreError("a tensor cannot be named __metadata__: safetensors reserves it")
        tensor = tensors[name].detach().cpu().resolve_conj().resolve_neg().contiguous()
        if tensor.dtype not in _NAMES:
            raise StoreError(f"tensor {name!r} has dtype {tensor.dtype}, which cannot be stored")
        start, end = end, end + tensor.nbytes
        header[name] = _Entry(_NAMES[tensor.dtype], list(tensor.shape), (start, end))
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


def _decoded(data: memoryview, *, shared: bool) -> dict[str, torch.Tensor]:
    header, start = _read_header(data)
    body = data[start:]
    expected = 0
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: (item[1].data_offsets, item[0])):
        dtype = _checked_dtype(name, entry, expected)
        begin, expected = entry.data_offsets
        if expected > len(body):
            raise StoreError(
                f"not a tensor file: it ends at {len(body)} bytes of data, before {expected}"
            )
        tensors[name] = _tensor(body[begin:expected], dtype, shared=shared).reshape(entry.shape)
    if expected != len(body):
        raise StoreError(f"not a tensor file: {len(body)} data bytes, its header names {expected}")
    return tensors


def _read_header(data: memoryview) -> tuple[dict[str, _Entry], int]:
    num_bytes = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= num_bytes <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise StoreError(
            f"not a tensor file: a header of {num_bytes} bytes in a file of {len(data)}, "
            f"expected 2 to {MAX_HEADER_BYTES} within the file"
        )
    try:
        fields: dict[str, Any] = msgspec.json.decode(data[8 : 8 + num_bytes], type=dict[str, Any])
        fields.pop("__metadata__", None)
        header = msgspec.convert(fields, dict[str, _Entry])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreError(f"not a tensor file: its header is not valid ({error})") from error
    if len(header) > MAX_TENSORS:
        raise StoreError(f"a tensor file of {len(header)} tensors; expected at most {MAX_TENSORS}")
    return header, 8 + num_bytes


def _checked_dtype(name: str, entry: _Entry, expected_begin: int) -> torch.dtype:
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
    return dtype


def _tensor(data: memoryview, dtype: torch.dtype, *, shared: bool) -> torch.Tensor:
    if not data:
        return torch.empty(0, dtype=dtype)
    if shared and (tensor := torch.frombuffer(data, dtype=dtype)).data_ptr() % dtype.itemsize == 0:
        return tensor
    # A copy of its own per tensor: offsets need not be aligned, and one tensor that lives on must
    # not keep the others' memory.
    return torch.frombuffer(bytearray(data), dtype=dtype)
