"""Previews: a few small frames of what a denoising step points to, or of a video, for people to watch.

They are disposable: shown where they are there, made again by nobody. Their index is one of its own of at most
about 512 MB (store.index), in which the least recently stored goes first.

A value is a line of JSON (format, num_frames, height, width) and the zlib of the pixels. Torch-free.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Annotated

import msgspec

from store.index.index import Index

MAX_FRAMES = 17
MAX_SIDE = 96
CHANNELS = 3
FORMAT = 1
_MAX_HEADER_BYTES = 128
# Steps are noise for the first half of a run: more effort takes four times as long and saves a tenth.
_ZLIB_LEVEL = 1


@dataclass(frozen=True, slots=True)
class Preview:
    """Frames of at most MAX_SIDE pixels a side. pixels: uint8 RGB, frame by frame, each row by row.

    Raises ValueError for sizes out of range, and for another number of bytes than they make.
    """

    num_frames: int
    height: int
    width: int
    pixels: bytes

    def __post_init__(self) -> None:
        if not 1 <= self.num_frames <= MAX_FRAMES:
            raise ValueError(f"a preview of {self.num_frames} frames: expected 1 to {MAX_FRAMES}")
        if not (1 <= self.height <= MAX_SIDE and 1 <= self.width <= MAX_SIDE):
            raise ValueError(
                f"a preview of {self.width}x{self.height} pixels: expected sides of 1 to {MAX_SIDE}"
            )
        expected = _num_bytes(self.num_frames, self.height, self.width)
        if len(self.pixels) != expected:
            raise ValueError(f"a preview with {len(self.pixels)} bytes: expected {expected}")


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Annotated[int, msgspec.Meta(ge=FORMAT, le=FORMAT)]
    num_frames: Annotated[int, msgspec.Meta(ge=1, le=MAX_FRAMES)]
    height: Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]
    width: Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]


_HEADERS = msgspec.json.Decoder(_Header)


def encode_preview(preview: Preview) -> bytes:
    """The preview as bytes for `decode_preview`."""
    header = _Header(FORMAT, preview.num_frames, preview.height, preview.width)
    return msgspec.json.encode(header) + b"\n" + zlib.compress(preview.pixels, _ZLIB_LEVEL)


def decode_preview(encoded: bytes) -> Preview | None:
    """The preview of `encode_preview`'s bytes; None for anything else, without unpacking more than it should hold."""
    line, _, packed = encoded.partition(b"\n")
    if len(line) > _MAX_HEADER_BYTES:
        return None
    try:
        header = _HEADERS.decode(line)
        expected = _num_bytes(header.num_frames, header.height, header.width)
        unpacking = zlib.decompressobj()
        pixels = unpacking.decompress(packed, expected + 1)
    except (msgspec.MsgspecError, UnicodeDecodeError, zlib.error):
        return None
    is_whole = unpacking.eof and not unpacking.unused_data
    if not is_whole or len(pixels) != expected:
        return None
    return Preview(header.num_frames, header.height, header.width, pixels)


def preview_key(key: str) -> str:
    """Where the preview of the step or the video with that key is kept."""
    return "preview/" + key


def put_preview(index: Index, key: str, preview: Preview) -> None:
    """Keep the preview of a link, in the place of the one that it may have; dropped where that cannot be written.

    index: the store's own (`store.index.index.open_index`).
    """
    index.previews.put(preview_key(key), encode_preview(preview))


def get_preview(index: Index, key: str) -> Preview | None:
    """The preview of a link; None where there is none, or it is damaged. index: as for `put_preview`."""
    encoded = index.previews.get(preview_key(key))
    return None if encoded is None else decode_preview(encoded)


def _num_bytes(num_frames: int, height: int, width: int) -> int:
    return num_frames * height * width * CHANNELS
