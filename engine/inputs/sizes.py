"""The size of a video that begins from a picture. Torch-free."""

from __future__ import annotations

import math
from fractions import Fraction

from engine.errors import InputError
from presets.spec.values import MAX_SIDE, SIZE_STEP

_STRIDE = 8  # of the VAE; the transformer's patch doubles it


def published_size(width: int, height: int, area: int) -> tuple[int, int]:
    """(width, height) of the video that a picture of that size begins, with about `area` pixels a frame: float64, in
    the order of Wan 2.1's `wan/image2video.py`, by whose rounding 832x480 becomes 832x464. A side is 0 where the
    picture is too long and narrow."""
    ratio = height / width
    rows = round(math.sqrt(area * ratio) // _STRIDE // 2 * 2)
    columns = round(math.sqrt(area / ratio) // _STRIDE // 2 * 2)
    return columns * _STRIDE, rows * _STRIDE


def size_of(
    width: int, height: int, given: tuple[int, int], area: int, *, key: str
) -> tuple[int, int]:
    """The size of a video whose width or height, or both, are 0: left to what is given, of size `given`.

    With one side given the other follows the proportions. Raises InputError where no video has them.
    """
    given_width, given_height = given
    if not width and not height:
        width, height = published_size(given_width, given_height, area)
    elif not width:
        width = SIZE_STEP * round(height * given_width / given_height / SIZE_STEP)
    elif not height:
        height = SIZE_STEP * round(width * given_height / given_width / SIZE_STEP)
    if not (min(width, height) >= SIZE_STEP and max(width, height) <= MAX_SIDE):
        raise InputError(
            f"of {given_width}x{given_height} pixels, would make a video of {width}x{height}; expected sides from "
            f"{SIZE_STEP} to {MAX_SIDE}: cut it, or give width and height",
            key=key,
        )
    return width, height


def covering(given: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """`given` in proportion, as small as covers `size`; all (width, height)."""
    scale = max(Fraction(wanted, side) for wanted, side in zip(size, given, strict=True))
    width, height = (
        max(wanted, round(side * scale)) for wanted, side in zip(size, given, strict=True)
    )
    return width, height


def fitting(given: tuple[int, int], size: tuple[int, int], area: int = 0) -> str:
    """What is done to a picture of size `given` for a video of another, in words; "" for nothing. area: as of
    `published_size`, 0 for a clip, whose proportions always stay."""
    if given == size:
        return ""
    if area and published_size(*given, area) == size:
        return f"scaled to {size[0]}x{size[1]}"
    covers = covering(given, size)
    columns, rows = covers[0] - size[0], covers[1] - size[1]
    cut = f"{columns} columns cut at the sides" if columns else ""
    if rows:
        cut = f"{rows} rows cut above and below"
    scaled = f"scaled to {covers[0]}x{covers[1]}" if covers != given else ""
    return ", ".join(filter(None, (scaled, cut)))
