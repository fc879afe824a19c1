"""Two videos in one: side by side as a video, and a contact sheet with their amplified difference.

Small frames are enlarged by whole factors without smoothing, so that a pixel stays a pixel. Nothing is overwritten.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont

from engine.compare.drawing import (
    FAINT,
    GAP,
    INK,
    LINE,
    MARGIN,
    PAPER,
    SIZE,
    SMALL,
    SMALL_LINE,
    Colour,
    draw_text,
    fitted,
    image_of,
    new_file,
    some_frames,
    wrapped,
)
from engine.compare.frames import Frame, read_frames
from engine.compare.similarity import Similarity
from engine.output.encoders import encode

PANEL_SIDE = 256  # of a frame in the video, at least
MIN_CELL_WIDTH = 112  # holds the line below a cell
COLUMNS = 8
GUTTER = 176
ACCENTS = ((31, 95, 191), (190, 76, 16))  # of A and B: told apart by every kind of eye
MAX_GAIN = 64


@dataclass(frozen=True, slots=True)
class Clip:
    """The stored video of a run. captions: how its run differs from the other, most telling first, in ASCII: Pillow's
    own font has no other letters."""

    run: str
    path: Path
    captions: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Row:
    """Pictures with a line below each, and what is said of them on the left."""

    title: str
    colour: Colour
    captions: Sequence[str]
    pictures: Sequence[Image.Image]
    lines: Sequence[str]


def write_side_by_side(path: Path, a: Clip, b: Clip, *, fps: int) -> None:
    """An mp4 of both, frame by frame; the shorter one stands still at its end.

    Raises EngineError where a video cannot be read or written, or `path` is there already.
    """
    pairs = _pairs(read_frames(a.path), read_frames(b.path))
    first = next(pairs)
    panels = [_panel(frame) for frame in first]
    slots = [max(panel.width, PANEL_SIDE) for panel in panels]
    lefts = [0, slots[0] + GAP]
    top = GAP + LINE + SMALL_LINE + GAP
    height = top + max(panel.height for panel in panels)
    ground = Image.new("RGB", (sum(slots) + GAP, height + height % 2), PAPER)
    draw = ImageDraw.Draw(ground)
    for name, clip, left, slot, colour in zip("AB", (a, b), lefts, slots, ACCENTS, strict=True):
        draw_text(draw, (left + GAP, GAP), f"{name}  {clip.run}", SIZE, colour, slot - 2 * GAP)
        caption = "   ".join(clip.captions)
        draw_text(draw, (left + GAP, GAP + LINE), caption, SMALL, FAINT, slot - 2 * GAP)

    def pictures() -> Iterator[bytes]:
        for pair in chain([first], pairs):
            for frame, left, slot in zip(pair, lefts, slots, strict=True):
                panel = _panel(frame)
                ground.paste(panel, (left + (slot - panel.width) // 2, top))
            yield ground.tobytes()

    with new_file(path) as part:
        size = (ground.height, ground.width)
        encode(part, pictures(), size=size, fps=fps)


def write_sheet(path: Path, a: Clip, b: Clip, similarity: Similarity | None) -> None:
    """A PNG with some frames of A, those of B below, and how they differ.

    similarity: of the two; None where their sizes or lengths differ, which leaves out the differences.
    Raises EngineError where a video cannot be read, or `path` is there already.
    """
    rows, chosen = [], []
    for name, clip, colour in zip("AB", (a, b), ACCENTS, strict=True):
        moments, images = some_frames(clip.path, COLUMNS)
        lines = [f"frame {moment + 1}" for moment in moments]
        rows.append(_Row(f"{name}  {clip.run}", colour, clip.captions, images, lines))
        chosen.append(moments)
    if similarity is not None:
        rows.append(_difference_row(rows[0].pictures, rows[1].pictures, chosen[0], similarity))
    sheet = _drawn(rows)
    with new_file(path) as part:
        sheet.save(part, format="PNG")


def _drawn(rows: Sequence[_Row]) -> Image.Image:
    cells = [[fitted(picture) for picture in row.pictures] for row in rows]
    width = max(MIN_CELL_WIDTH, *(cell.width for row in cells for cell in row))
    heights = [max(cell.height for cell in row) for row in cells]
    num_columns = max(map(len, cells))
    sheet = Image.new(
        "RGB",
        (
            MARGIN + GUTTER + num_columns * (width + GAP) - GAP + MARGIN,
            2 * MARGIN + sum(heights) + len(rows) * (SMALL_LINE + GAP) - GAP,
        ),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for row, pictures, height in zip(rows, cells, heights, strict=True):
        draw_text(draw, (MARGIN, top), row.title, SIZE, row.colour, GUTTER - GAP)
        captions = [line for each in row.captions for line in wrapped(draw, each, GUTTER - GAP)]
        for number, caption in enumerate(captions[: (height - LINE) // SMALL_LINE + 1]):
            at = MARGIN, top + LINE + number * SMALL_LINE
            draw_text(draw, at, caption, SMALL, FAINT, GUTTER - GAP)
        for column, (picture, line) in enumerate(zip(pictures, row.lines, strict=True)):
            left = MARGIN + GUTTER + column * (width + GAP)
            sheet.paste(picture, (left + (width - picture.width) // 2, top))
            below = left + width // 2, top + height + 3
            draw.text(below, line, fill=FAINT, font=ImageFont.load_default(SMALL), anchor="ma")
        top += height + SMALL_LINE + GAP
    return sheet


def _difference_row(
    a: Sequence[Image.Image], b: Sequence[Image.Image], moments: Sequence[int], told: Similarity
) -> _Row:
    differences = [ImageChops.difference(one, other) for one, other in zip(a, b, strict=True)]
    gain = _gain(differences)
    amplified = [
        each.point([min(255, value * gain) for value in range(256)] * 3) for each in differences
    ]
    lines = [
        "equal" if math.isinf(told.psnr[i]) else f"{told.psnr[i]:.1f} dB  {told.ssim[i]:.3f}"
        for i in moments
    ]
    title = "|A - B|" + (f"  x {gain}" if gain > 1 else "")
    return _Row(title, INK, ("absolute difference", "below: PSNR, SSIM"), amplified, lines)


def _gain(differences: Sequence[Image.Image]) -> int:
    """The largest power of two that takes all but a hundredth of the values no further than white."""
    counts = [0] * 256
    for difference in differences:
        for value, count in enumerate(difference.histogram()):
            counts[value % 256] += count
    above, largest = sum(counts) / 100, 255
    while largest > 1 and sum(counts[largest:]) <= above:
        largest -= 1
    return min(MAX_GAIN, 2 ** int(math.log2(255 / largest)))


def _pairs(a: Iterable[Frame], b: Iterable[Frame]) -> Iterator[tuple[Frame, Frame]]:
    last_a = last_b = None
    for one, other in zip_longest(a, b):
        last_a, last_b = one or last_a, other or last_b
        if last_a is not None and last_b is not None:
            yield last_a, last_b


def _panel(frame: Frame) -> Image.Image:
    factor = max(1, -(-PANEL_SIDE // max(frame.width, frame.height)))
    return image_of(frame).resize(
        (frame.width * factor, frame.height * factor), Image.Resampling.NEAREST
    )
