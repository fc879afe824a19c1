"""What a blob of a bundle may be: a tensor file as `store.blobs.tensors` writes it, or a video. Torch-free.

Told by the first bytes and the size, with the limits that whoever reads the blob later also has:
a header is never an allocation, and no pickle comes in.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from store.blobs.videos import container_of
from store.bundle.manifest import TEXT, VIDEO
from store.bundle.strict import BundleRefused, strict_object

MAX_HEADER_BYTES = 1024 * 1024
MAX_TEXT_BYTES = MAX_HEADER_BYTES
MAX_TENSORS = 4096
MAX_DIMS = 8

# store.blobs.tensors knows the same, as dtypes of torch.
_ITEM_BYTES = {
    "BF16": 2, "BOOL": 1, "C64": 8, "F16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
    "I16": 2, "I32": 4, "I64": 8, "I8": 1, "U8": 1,
}  # fmt: skip


_Size = Annotated[int, Meta(ge=0, le=2**62)]


class _Tensor(Struct, forbid_unknown_fields=True):
    dtype: str
    shape: Annotated[list[_Size], Meta(max_length=MAX_DIMS)]
    data_offsets: tuple[_Size, _Size]


def check_contents(what: str, kind: str, head: bytes, size: int) -> None:
    """BundleRefused unless a blob of `size` bytes that begin with `head` is of that kind.

    head: all of it, or at least 8 + MAX_HEADER_BYTES.
    """
    if kind == TEXT:
        _check_text(what, head, size)
    elif kind != VIDEO:
        _check_tensors(what, head, size)
    elif not container_of(head):
        raise BundleRefused(f"{what} is no video: neither mp4 nor Matroska, GIF or WebP")


def _check_text(what: str, head: bytes, size: int) -> None:
    try:
        is_text = size <= MAX_TEXT_BYTES and len(head.decode()) > 0
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        raise BundleRefused(f"{what} is no text in UTF-8 of at most {MAX_TEXT_BYTES:,} bytes")


def _check_tensors(what: str, head: bytes, size: int) -> None:
    length = int.from_bytes(head[:8], "little")
    if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise BundleRefused(
            f"{what} is no tensor file: a header of {length} bytes in {size}, "
            f"expected 2 to {MAX_HEADER_BYTES}"
        )
    try:
        text = head[8 : 8 + length].decode()
    except UnicodeDecodeError:
        raise BundleRefused(f"{what} is no tensor file: its header is not UTF-8") from None
    header = strict_object(text, f"the header of {what}")
    if len(header) > MAX_TENSORS:
        raise BundleRefused(f"{what} has {len(header)} tensors, expected at most {MAX_TENSORS}")
    try:
        tensors = msgspec.convert(header, dict[str, _Tensor])
    except msgspec.ValidationError as error:
        raise BundleRefused(f"{what} is no tensor file: {error}") from None
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.data_offsets):
        num_bytes = math.prod(tensor.shape) * _ITEM_BYTES.get(tensor.dtype, 0)
        if tensor.dtype not in _ITEM_BYTES or tensor.data_offsets != (end, end + num_bytes):
            raise BundleRefused(
                f"{what} is no tensor file: {tensor.dtype!r} of shape {tensor.shape} "
                f"cannot be at {tensor.data_offsets}, after {end} bytes"
            )
        end += num_bytes
    if end != size - 8 - length:
        raise BundleRefused(f"{what} is no tensor file: {size - 8 - length} bytes of {end}")
