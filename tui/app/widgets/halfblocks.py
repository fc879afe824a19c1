"""Pixels as characters: two of them in each cell, or one letter by how bright the cell is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import itemgetter

from rich.color import Color, ColorType
from rich.color_triplet import ColorTriplet
from rich.segment import Segment
from rich.style import Style

RAMP = " .:-=+*#%@"
"""Letters from dark to bright on a dark background."""

# five bits a channel: equal neighbours merge, and all colours there are fit in a cache, which matters
# because the first half of a run is noise, in which no two cells are the same
_KEPT_BITS = 0xF8
_MAX_TAPS = 3


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


def scaled(pixels: memoryview, width: int, height: int, columns: int, rows: int) -> list[list[int]]:
    """One RGB frame as `rows` rows of `columns` pixels, each row r, g, b, r, g, b and so on.

    Where the frame is larger each result is the mean of up to 3 by 3 pixels spread over its area; where it is
    smaller in both directions, pixels run into each other (bilinear): latents are an eighth of the video's size.
    """
    if columns > width and rows > height:
        return _enlarged(pixels, width, height, columns, rows)
    x_taps = _taps(width, columns)
    y_taps = _taps(height, rows)
    takes = [
        itemgetter(*[3 * x + c for x in xs for c in range(3)]) for xs in zip(*x_taps, strict=True)
    ]
    scaled_rows = []
    for ys in y_taps:
        lines = [bytes(pixels[3 * width * y : 3 * width * (y + 1)]) for y in ys]
        samples = [take(line) for line in lines for take in takes]
        if len(samples) == 1:
            scaled_rows.append(list(samples[0]))
        else:
            count = len(samples)
            scaled_rows.append([sum(values) // count for values in zip(*samples, strict=True)])
    return scaled_rows


def _enlarged(
    pixels: memoryview, width: int, height: int, columns: int, rows: int
) -> list[list[int]]:
    wide = []
    for y in range(height):
        line = bytes(pixels[3 * width * y : 3 * width * (y + 1)])
        wide.append(
            [
                (line[3 * x + c] * (256 - part) + line[3 * after + c] * part) >> 8
                for x, after, part in _between(width, columns)
                for c in range(3)
            ]
        )
    return [
        [(a * (256 - part) + b * part) >> 8 for a, b in zip(wide[y], wide[after], strict=True)]
        for y, after, part in _between(height, rows)
    ]


def _between(size: int, wanted: int) -> list[tuple[int, int, int]]:
    """For each of `wanted` places: the positions, of `size`, around it, and how much of 256 the second one counts."""
    found = []
    for place in range(wanted):
        at = max(0, min((size - 1) << 8, (2 * place + 1) * size * 128 // wanted - 128))
        found.append((at >> 8, min(size - 1, (at >> 8) + 1), at & 255))
    return found


def _taps(size: int, wanted: int) -> list[list[int]]:
    """For each of `wanted` places the positions, of `size`, that are looked at: 1 to 3 of them."""
    count = max(1, min(_MAX_TAPS, round(size / wanted)))
    return [
        [int((2 * (place * count + tap) + 1) * size / (2 * wanted * count)) for tap in range(count)]
        for place in range(wanted)
    ]


def half_blocks(rows: Sequence[Sequence[int]]) -> list[list[Segment]]:
    """An even number of rows of pixels as half as many lines of upper half blocks."""
    return [list(_line(upper, lower)) for upper, lower in zip(rows[::2], rows[1::2], strict=True)]


def _line(upper: Sequence[int], lower: Sequence[int]) -> Iterator[Segment]:
    """One line: cells of the same two colours become one segment."""
    kept = _KEPT_BITS
    previous, count = -1, 0
    for r, g, b, R, G, B in zip(
        upper[::3], upper[1::3], upper[2::3], lower[::3], lower[1::3], lower[2::3], strict=True
    ):
        key = (
            (r & kept) << 40
            | (g & kept) << 32
            | (b & kept) << 24
            | (R & kept) << 16
            | (G & kept) << 8
            | (B & kept)
        )
        if key == previous:
            count += 1
            continue
        if count:
            yield Segment("▀" * count, _style(previous))
        previous, count = key, 1
    if count:
        yield Segment("▀" * count, _style(previous))


@lru_cache(1 << 14)
def _style(key: int) -> Style:
    return Style.from_color(_color(key >> 24), _color(key & 0xFFFFFF))


@lru_cache(1 << 15)
def _color(rgb: int) -> Color:
    """The colour with the bits that were cut off made up: black stays black and white white."""
    whole = rgb | rgb >> 5 & 0x070707
    triplet = ColorTriplet(whole >> 16, whole >> 8 & 255, whole & 255)
    return Color(f"#{whole:06x}", ColorType.TRUECOLOR, None, triplet)


def letters(rows: Sequence[Sequence[int]], *, is_dark: bool) -> list[str]:
    """Rows of pixels as one letter each, denser where brighter, or where darker unless `is_dark`."""
    ramp = RAMP if is_dark else RAMP[::-1]
    steps = len(ramp)
    return [
        "".join(
            [
                ramp[(299 * r + 587 * g + 114 * b) * steps // 255_001]
                for r, g, b in zip(row[::3], row[1::3], row[2::3], strict=True)
            ]
        )
        for row in rows
    ]
