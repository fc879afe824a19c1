"""Pixels as characters, two of them in each cell."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from rich.color import Color, ColorType
from rich.color_triplet import ColorTriplet
from rich.segment import Segment
from rich.style import Style

# five bits a channel: equal neighbours merge, and all colours there are fit in a cache, which matters because the first
# half of a run is noise; no cache holds the pairs of them that cells of noise have
_KEPT_BITS = bytes(value & 0xF8 for value in range(256))


def fitted(
    width: int, height: int, columns: int, rows: int, *, cell_aspect: float = 2.0
) -> tuple[int, int]:
    """Columns and rows, at least one of each, of the largest picture of `width` by `height` pixels.

    cell_aspect: height of a cell over its width.
    """
    scale = min(columns / width, rows * cell_aspect / height)
    return (
        max(1, min(columns, round(width * scale))),
        max(1, min(rows, round(height * scale / cell_aspect))),
    )


def scaled(pixels: memoryview, width: int, height: int, columns: int, rows: int) -> bytes:
    """One RGB frame as `rows` rows of `columns` pixels.

    Where the frame is larger each result is the mean of its area; where it is smaller in both directions, pixels run
    into each other (bilinear): latents are an eighth of the video's size.
    """
    from PIL import Image

    is_smaller = columns > width and rows > height
    way = Image.Resampling.BILINEAR if is_smaller else Image.Resampling.BOX
    frame = Image.frombytes("RGB", (width, height), bytes(pixels))
    return frame.resize((columns, rows), way).tobytes()


def half_blocks(pixels: bytes, columns: int) -> list[list[Segment]]:
    """An even number of rows of `columns` RGB pixels as half as many lines of upper half blocks."""
    kept, row = pixels.translate(_KEPT_BITS), 3 * columns
    starts = range(0, len(kept), 2 * row)
    return [list(_line(kept[at : at + row], kept[at + row : at + 2 * row])) for at in starts]


def _line(upper: bytes, lower: bytes) -> Iterator[Segment]:
    """One line: cells of the same two colours become one segment."""
    previous, count = b"", 0
    for at in range(0, len(upper), 3):
        cell = upper[at : at + 3] + lower[at : at + 3]
        if cell != previous:
            if count:
                yield Segment("▀" * count, _style(previous))
            previous, count = cell, 0
        count += 1
    yield Segment("▀" * count, _style(previous))


@lru_cache(1 << 12)
def _style(cell: bytes) -> Style:
    return Style.from_color(_color(cell[:3]), _color(cell[3:]))


@lru_cache(1 << 15)
def _color(rgb: bytes) -> Color:
    """The colour with the bits that were cut off made up: black stays black and white white."""
    triplet = ColorTriplet(*(value | value >> 5 for value in rgb))
    return Color(triplet.hex, ColorType.TRUECOLOR, None, triplet)
