"""A contact sheet of runs: a tile for each, some of its frames side by side under what tells it from the others.

Torch-free.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw

from engine.compare.drawing import (
    CELL,
    FAINT,
    GAP,
    INK,
    LINE,
    MARGIN,
    PAPER,
    SIZE,
    SMALL,
    SMALL_LINE,
    draw_text,
    fitted,
    moments_of,
    new_file,
    some_frames,
    wrapped,
)
from engine.compare.report import video_of
from engine.errors import EngineError
from engine.runs.thumbnails import thumbnail
from store.index.index import Index
from store.index.previews import Preview
from store.lineage.records import RunRecord
from store.store import Store

FORMATS: Mapping[str, str] = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""What Pillow calls the format of a file, by the ending of its name."""
MAX_FRAMES = 16
# With a cell of 208x160 each, that is 30 megapixels; WebP has at most 16383 pixels a side.
MAX_PICTURES = 800
_QUALITY = 92
_MIN_CELL = 64  # pixels of a cell with nothing in it, a side
_MIN_TILE = 112  # pixels: as wide as two words of a label
_TITLE_LINES = 2
_SHAPE = 4 / 3  # width to height of a sheet, about

Source = Literal["video", "previews", ""]


@dataclass(frozen=True, slots=True)
class Tile:
    """What a sheet shows of a run. title: what tells it from the others; line: smaller, below that. pictures: none
    where `problem` says why. source: what they are, "" for none."""

    title: str
    line: str
    pictures: tuple[Image.Image, ...] = ()
    source: Source = ""
    problem: str = ""


def check_size(num_runs: int, num_frames: int) -> None:
    """Raises EngineError, with the limit, where a sheet would be too large."""
    if num_runs * num_frames > MAX_PICTURES:
        raise EngineError(
            f"{num_runs} runs with {num_frames} frames each are {num_runs * num_frames} pictures; "
            f"expected at most {MAX_PICTURES} on a sheet: take fewer runs or fewer frames"
        )


def tile_of(
    store: Store, index: Index, run: RunRecord, *, title: str, line: str, num_frames: int
) -> Tile:
    """A run's tile: frames of its video, else of the preview of its last steps, else why there are none. A still is
    the middle of a video. index: as of `engine.runs.thumbnails.thumbnail`."""
    try:
        _, frames = some_frames(_video(store, run), num_frames)
        return Tile(title, line, tuple(map(fitted, frames)), "video")
    except EngineError as error:
        problem = str(error)
    found = thumbnail(index, store.links_of(run.id))
    if found is None:
        return Tile(title, line, problem=f"{problem}, and no preview of its steps")
    preview, link = found
    if link.stage == "step":
        line = f"{line}, preview of step {link.index + 1}"
    return Tile(title, line, _frames_of(preview, num_frames), "previews")


def _video(store: Store, run: RunRecord) -> Path:
    """The stored video, or the run's own file while its bytes are those that it wrote."""
    try:
        return video_of(store, run.id)
    except EngineError:
        digests = {link.digest for link in store.links_of(run.id) if link.stage == "video"} - {""}
        if not digests or _digest(Path(run.output)) not in digests:
            raise
        return Path(run.output)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return ""


def _frames_of(preview: Preview, count: int) -> tuple[Image.Image, ...]:
    size = 3 * preview.width * preview.height
    return tuple(
        fitted(
            Image.frombytes(
                "RGB", (preview.width, preview.height), preview.pixels[size * i : size * (i + 1)]
            )
        )
        for i in moments_of(preview.num_frames, count)
    )


def write_sheet(path: Path, tiles: Sequence[Tile], *, num_frames: int, replaces: bool) -> int:
    """Draw the tiles into a file whose ending is one of FORMATS; returns how many stand side by side.

    Raises EngineError where it is too large, cannot be written, or is there and is not to be replaced.
    """
    check_size(len(tiles), num_frames)
    sheet, num_columns = drawn(tiles, num_frames)
    with new_file(path, replaces=replaces) as part:
        sheet.save(part, format=FORMATS[path.suffix.lower()], quality=_QUALITY)
    return num_columns


def drawn(tiles: Sequence[Tile], num_frames: int) -> tuple[Image.Image, int]:
    """The sheet, and how many tiles stand side by side in it: about as many as make it four to three."""
    cell = cell_size(tiles)
    width = max(_MIN_TILE, num_frames * (cell[0] + GAP // 2) - GAP // 2)
    top_lines = _TITLE_LINES * LINE + SMALL_LINE
    height = top_lines + cell[1]
    num_columns = columns_for(len(tiles), width + GAP, height + GAP)
    num_rows = -(-len(tiles) // num_columns)
    sheet = Image.new(
        "RGB",
        (
            2 * MARGIN + num_columns * (width + 2 * GAP) - 2 * GAP,
            2 * MARGIN + num_rows * (height + 2 * GAP) - 2 * GAP,
        ),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        left = MARGIN + number % num_columns * (width + 2 * GAP)
        top = MARGIN + number // num_columns * (height + 2 * GAP)
        _draw_texts(draw, tile, left, top, width)
        below = top + top_lines
        for place, picture in enumerate(tile.pictures):
            sheet.paste(picture, (left + place * (cell[0] + GAP // 2), below))
        if not tile.pictures:
            draw.rectangle((left, below, left + width - 1, below + cell[1] - 1), outline=FAINT)
            lines = wrapped(draw, plain(tile.problem), width - 2 * GAP)
            for i, line in enumerate(lines[: max(1, (cell[1] - GAP) // SMALL_LINE)]):
                at = left + GAP, below + GAP // 2 + i * SMALL_LINE
                draw_text(draw, at, line, SMALL, FAINT, width - 2 * GAP)
    return sheet, num_columns


def cell_size(tiles: Sequence[Tile]) -> tuple[int, int]:
    """Width and height in pixels of the place of a picture: that of the largest."""
    sizes = [picture.size for tile in tiles for picture in tile.pictures]
    if not sizes:
        return CELL
    return max(_MIN_CELL, *(w for w, _ in sizes)), max(_MIN_CELL, *(h for _, h in sizes))


def columns_for(num_tiles: int, width: int, height: int) -> int:
    """How many tiles of that size side by side come nearest to the shape of a sheet."""

    def distance(num_columns: int) -> float:
        num_rows = -(-num_tiles // num_columns)
        return abs(math.log(num_columns * width / (num_rows * height) / _SHAPE))

    return min(range(1, num_tiles + 1), key=distance, default=1)


def _draw_texts(draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int, width: int) -> None:
    """The title at the foot of its lines, and the small line above the pictures."""
    lines = wrapped(draw, plain(tile.title), width, SIZE)
    if len(lines) > _TITLE_LINES:
        lines = [*lines[: _TITLE_LINES - 1], " ".join(lines[_TITLE_LINES - 1 :])]
    for i, line in enumerate(lines):
        at = left, top + (_TITLE_LINES - len(lines) + i) * LINE
        draw_text(draw, at, line, SIZE, INK, width)
    draw_text(draw, (left, top + _TITLE_LINES * LINE), plain(tile.line), SMALL, FAINT, width)


def plain(text: str) -> str:
    """What Pillow's own font has letters for: ASCII."""
    return text.replace("×", "x").replace("–", "-").encode("ascii", "replace").decode("ascii")
