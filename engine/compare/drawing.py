"""What pictures of runs are drawn with: frames of a video, their place in a sheet, text that fits. Torch-free.

Small frames are enlarged by whole factors without smoothing, so that a pixel stays a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from engine.compare.frames import Frame, read_frames
from engine.errors import EngineError
from store.blobs.files import written_whole

CELL = (208, 160)  # of a frame in a sheet, at most
GAP, MARGIN = 10, 16
SIZE, LINE, SMALL, SMALL_LINE = 16, 22, 12, 17
INK, FAINT, PAPER = (20, 24, 32), (96, 104, 116), (255, 255, 255)

Colour = tuple[int, int, int]


def some_frames(path: Path, count: int) -> tuple[list[int], list[Image.Image]]:
    """Up to `count` frames of an mp4, with their indices. Raises EngineError where it cannot be read."""
    moments = moments_of(sum(1 for _ in read_frames(path)), count)
    wanted = set(moments)
    return moments, [image_of(frame) for i, frame in enumerate(read_frames(path)) if i in wanted]


def moments_of(length: int, count: int) -> list[int]:
    """Up to `count` of `length` indices, evenly spread from the first to the last; one is that of the middle."""
    if count == 1:
        return [length // 2]
    last = max(1, min(count, length) - 1)
    return sorted({round(i * (length - 1) / last) for i in range(last + 1)})


def image_of(frame: Frame) -> Image.Image:
    return Image.frombytes("RGB", (frame.width, frame.height), frame.pixels)


def fitted(image: Image.Image) -> Image.Image:
    """As large as a cell allows."""
    factor = min(CELL[0] / image.width, CELL[1] / image.height)
    if factor >= 1:
        return image.resize(
            (image.width * int(factor), image.height * int(factor)), Image.Resampling.NEAREST
        )
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def wrapped(draw: ImageDraw.ImageDraw, caption: str, width: int, size: int = SMALL) -> list[str]:
    """The caption as lines of at most `width` pixels, broken between words."""
    font, lines = ImageFont.load_default(size), [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or draw.textlength(longer, font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def draw_text(
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
def new_file(path: Path, *, replaces: bool = False) -> Iterator[Path]:
    """A temporary file beside `path` that gets its name at the end, unless something else has it by then and it may
    not replace that. Raises EngineError where it cannot be written."""
    try:
        with written_whole(path, replaces=replaces) as part:
            yield part
    except FileExistsError:
        raise EngineError(f"{path} is there already; nothing is overwritten") from None
    except OSError as error:
        raise EngineError(f"cannot write {path}: {error.strerror or error}") from error
