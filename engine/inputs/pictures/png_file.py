"""Whether a PNG is whole. Torch-free.

Pillow looks at no checksums of the pixels' chunks, and leaves rows black that are not there.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import IO

from engine.inputs.refusal import damaged

# Beside the pixels: an ICC profile has some MB at most.
MAX_CHUNK_BYTES = 32 << 20
_PIECE_BYTES = 1 << 18


def check_png(file: IO[bytes], notes: list[str]) -> int:
    """Bits of a channel. Notes colours that Pillow does not know of. Raises Refusal where a row is not there, or
    another chunk is too large."""
    file.seek(8)
    depth, left = 8, -1
    inflating = zlib.decompressobj()
    while True:
        size, name = struct.unpack(">I4s", _exactly(file, 8))
        if name == b"IDAT":
            left = _inflated(file, size, inflating, left)
        elif size > MAX_CHUNK_BYTES and name != b"fdAT":
            raise damaged("PNG", f"a chunk of {size:,} bytes beside the pixels")
        elif name == b"IHDR":
            header = _exactly(file, size)
            _exactly(file, 4)
            if len(header) != 13 or left >= 0:
                raise damaged("PNG", "its header is damaged")
            depth, left = header[8], _raw_bytes(header)
        elif name == b"cICP":
            if _exactly(file, size) != _CICP_OF_SRGB:
                notes.append("its colours by cICP were taken for sRGB")
            _exactly(file, 4)
        else:
            end = file.seek(size + 4, os.SEEK_CUR)
            if end > os.fstat(file.fileno()).st_size:
                raise damaged("PNG", "truncated")
        if name == b"IEND":
            break
    if left > 0:
        raise damaged("PNG", "truncated")
    return depth


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise damaged("PNG", "truncated")
    return data


def _inflated(file: IO[bytes], size: int, inflating: zlib._Decompress, left: int) -> int:
    """How many of the `left` bytes are still to come after a chunk of the pixels."""
    checksum = zlib.crc32(b"IDAT")
    while size:
        piece = _exactly(file, min(size, _PIECE_BYTES))
        size -= len(piece)
        checksum = zlib.crc32(piece, checksum)
        while piece and left > 0:
            try:
                left -= len(inflating.decompress(piece, _PIECE_BYTES))
            except zlib.error:
                raise damaged("PNG", "its pixels are damaged") from None
            piece = inflating.unconsumed_tail
    if _exactly(file, 4) != checksum.to_bytes(4, "big"):
        raise damaged("PNG", "its pixels are damaged")
    return left


_CICP_OF_SRGB = b"\x01\x0d\x00\x01"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_WHOLE = ((0, 0, 1, 1),)
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)),
    (0, 1, 1, 2),
)


def _raw_bytes(header: bytes) -> int:
    """How many bytes the pixels of a PNG are before compression, by its header."""
    width, height, depth, colours, _, _, interlace = struct.unpack(">IIBBBBB", header)
    bits = depth * _CHANNELS.get(colours, 1)
    total = 0
    for left, top, step_x, step_y in _ADAM7 if interlace else _WHOLE:
        columns = (width - left + step_x - 1) // step_x
        rows = (height - top + step_y - 1) // step_y
        total += rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0
    return total
