"""Two videos in one: side by side as a video, and a contact sheet with their amplified difference.

Small frames are enlarged by whole factors without smoothing, so that a pixel stays a pixel. Nothing is overwritten.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont

from engine.compare.frames import Frame, read_frames
from engine.compare.similarity import Similarity
from engine.errors import EngineError
from engine.output.encoders import encode
from store.blobs.files import written_whole

PANEL_SIDE = 256  # of a frame in the video, at least
CELL = (208, 160)  # of a frame in the sheet, at most
MIN_CELL_WIDTH = 112  # holds the line below a cell
COLUMNS = 8
GAP, MARGIN, GUTTER = 10, 16, 176
SIZE, LINE, SMALL, SMALL_LINE = 16, 22, 12, 17
INK, FAINT, PAPER = (20, 24, 32), (96, 104, 116), (255, 255, 255)
ACCENTS = ((31, 95, 191), (190, 76, 16))  # of A and B: told apart by every kind of eye
MAX_GAIN = 64

Colour = tuple[int, int, int]


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
        _text(draw, (left + GAP, GAP), f"{name}  {clip.run}", SIZE, colour, slot - 2 * GAP)
        caption = "   ".join(clip.captions)
        _text(draw, (left + GAP, GAP + LINE), caption, SMALL, FAINT, slot - 2 * GAP)

    def pictures() -> Iterator[bytes]:
        for pair in chain([first], pairs):
            for frame, left, slot in zip(pair, lefts, slots, strict=True):
                panel = _panel(frame)
                ground.paste(panel, (left + (slot - panel.width) // 2, top))
            yield ground.tobytes()

    with _new_file(path) as part:
        size = (ground.height, ground.width)
        encode(part, pictures(), size=size, fps=fps)


def write_sheet(path: Path, a: Clip, b: Clip, similarity: Similarity | None) -> None:
    """A PNG with some frames of A, those of B below, and how they differ.

    similarity: of the two; None where their sizes or lengths differ, which leaves out the differences.
    Raises EngineError where a video cannot be read, or `path` is there already.
    """
    rows, chosen = [], []
    for name, clip, colour in zip("AB", (a, b), ACCENTS, strict=True):
        moments, images = _some_frames(clip.path)
        lines = [f"frame {moment + 1}" for moment in moments]
        rows.append(_Row(f"{name}  {clip.run}", colour, clip.captions, images, lines))
        chosen.append(moments)
    if similarity is not None:
        rows.append(_difference_row(rows[0].pictures, rows[1].pictures, chosen[0], similarity))
    sheet = _drawn(rows)
    with _new_file(path) as part:
        sheet.save(part, format="PNG")


def _drawn(rows: Sequence[_Row]) -> Image.Image:
    cells = [[_fitted(picture) for picture in row.pictures] for row in rows]
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
        _text(draw, (MARGIN, top), row.title, SIZE, row.colour, GUTTER - GAP)
        captions = [line for each in row.captions for line in _wrapped(draw, each)]
        for number, caption in enumerate(captions[: (height - LINE) // SMALL_LINE + 1]):
            at = MARGIN, top + LINE + number * SMALL_LINE
            _text(draw, at, caption, SMALL, FAINT, GUTTER - GAP)
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


def _some_frames(path: Path) -> tuple[list[int], list[Image.Image]]:
    """Up to COLUMNS frames, evenly spread from the first to the last, with their indices."""
    length = sum(1 for _ in read_frames(path))
    last = max(1, min(COLUMNS, length) - 1)
    moments = sorted({round(i * (length - 1) / last) for i in range(last + 1)})
    wanted = set(moments)
    return moments, [_image(frame) for i, frame in enumerate(read_frames(path)) if i in wanted]


def _pairs(a: Iterable[Frame], b: Iterable[Frame]) -> Iterator[tuple[Frame, Frame]]:
    last_a = last_b = None
    for one, other in zip_longest(a, b):
        last_a, last_b = one or last_a, other or last_b
        if last_a is not None and last_b is not None:
            yield last_a, last_b


def _image(frame: Frame) -> Image.Image:
    return Image.frombytes("RGB", (frame.width, frame.height), frame.pixels)


def _panel(frame: Frame) -> Image.Image:
    factor = max(1, -(-PANEL_SIDE // max(frame.width, frame.height)))
    return _image(frame).resize(
        (frame.width * factor, frame.height * factor), Image.Resampling.NEAREST
    )


def _fitted(image: Image.Image) -> Image.Image:
    """As large as a cell allows."""
    factor = min(CELL[0] / image.width, CELL[1] / image.height)
    if factor >= 1:
        return image.resize(
            (image.width * int(factor), image.height * int(factor)), Image.Resampling.NEAREST
        )
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def _wrapped(draw: ImageDraw.ImageDraw, caption: str) -> list[str]:
    """The caption as lines of the sheet's left column, broken between words."""
    font, lines = ImageFont.load_default(SMALL), [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or draw.textlength(longer, font) <= GUTTER - GAP:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _text(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    colour: Colour,
    width: int,
) -> None:
    """One line, cut where it is wider than `width` pixels."""
    font = ImageFont.load_default(size)
    if draw.textlength(text, font) > width:
        while text and draw.textlength(f"{text}...", font) > width:
            text = text[:-1]
        text = f"{text.rstrip()}..."
    draw.text(at, text, fill=colour, font=font)


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that gets its name at the end, unless something else has it by then."""
    try:
        with written_whole(path, replaces=False) as part:
            yield part
    except FileExistsError:
        raise EngineError(f"{path} is there already; nothing is overwritten") from None
    except OSError as error:
        raise EngineError(f"cannot write {path}: {error.strerror or error}") from error
