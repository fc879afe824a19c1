"""Reads a picture that somebody gives, from whatever file, as 8-bit sRGB. Torch-free.

By the first bytes of the file one reader of Pillow is chosen; no other is let at it. What Pillow would let pass
without a word (missing rows, scans without end, profiles, upright turning) is looked at here.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import IO

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from engine.errors import InputError
from engine.inputs.pictures.colours import over
from engine.inputs.pictures.jpeg_file import check_all_decoded, whole_jpeg
from engine.inputs.pictures.kinds import HEAD_BYTES, format_of
from engine.inputs.pictures.opening import opened
from engine.inputs.pictures.png_file import check_png
from engine.inputs.refusal import Refusal, damaged, printable

MAX_PIXELS = 100_000_000
# Pages of a TIFF that are counted: counting reads each one's tags.
MAX_PAGES = 1000


@dataclass(frozen=True)
class Picture:
    """rgb: 8-bit sRGB, height * width * 3 bytes, rows from the top. notes: for people, what was done to get there."""

    width: int
    height: int
    rgb: bytes = field(repr=False)
    notes: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Of size and pixels, `sha256:<hex>`: the same picture in another file has the same digest."""
        hashed = hashlib.sha256(struct.pack("<QQ", self.width, self.height))
        hashed.update(self.rgb)
        return f"sha256:{hashed.hexdigest()}"


def read_picture(path: Path, background: str = "#000000", *, key: str = "image.path") -> Picture:
    """The picture in a file: its first frame, upright, in sRGB, transparent parts over `background` ("#rrggbb").

    key: of the setting that names the file. Raises InputError where there is no such picture, or not all of it.
    """
    if not re.fullmatch("#[0-9a-fA-F]{6}", background):
        text = f"{background!r} is no colour, expected #rrggbb as in #000000"
        raise InputError(printable(text), key=f"{key.rpartition('.')[0]}.background".lstrip("."))
    try:
        with opened(path) as file, _strict_pillow():
            return _read(file, background)
    except Refusal as refusal:
        raise InputError(printable(f"{path} {refusal}"), key=key) from None
    except OSError as error:
        reason = error.strerror or error
        text = f"{path} cannot be read ({reason}); check that its disk is connected and whole"
        raise InputError(printable(text), key=key) from None


_lock = Lock()


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Pillow as this module needs it, whatever others in the process have set: these are its only switches."""
    log = logging.getLogger("PIL")
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        held = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, log.level
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        Image.MAX_IMAGE_PIXELS = None  # _check_size says it with the size, and allows less
        log.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = held[:2]
            log.setLevel(held[2])


@contextmanager
def _quiet(format: str) -> Iterator[None]:
    """libtiff writes to standard error, which may be the app's screen, and Pillow has no switch for that."""
    if format != "TIFF":
        yield
        return
    try:
        held = os.dup(2)
    except OSError:  # a process without
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(held, 2)
        os.close(held)
        os.close(nowhere)


def _read(file: IO[bytes], background: str) -> Picture:
    head = file.read(HEAD_BYTES)
    format = format_of(head)
    with _told(format), _quiet(format):
        notes: list[str] = []
        depth, data = 8, None
        if format == "PNG" and len(head) >= 24:
            _check_size(struct.unpack_from(">II", head, 16))
            depth = check_png(file, notes)
        elif format == "JPEG":
            data = whole_jpeg(file)
        elif format == "WEBP" and file.seek(0, 2) < int.from_bytes(head[4:8], "little"):
            raise damaged(format, "truncated")
        file.seek(0)
        with Image.open(data or file, formats=[format]) as image:
            _check_size(image.size)
            if format == "TIFF":
                depth = _check_tiff(image, notes)
            image.load()
            if data is not None:
                check_all_decoded(image, data)
            rgb = over(image, background, depth, notes)
            # of a TIFF nothing is left to turn: Pillow did that when it loaded it
            turned = _turned(image, rgb, notes)
            pixels = turned.tobytes()  # before another frame may take their place
            _count_frames(image, notes)
            return Picture(*turned.size, pixels, tuple(notes))


@contextmanager
def _told(format: str) -> Iterator[None]:
    """Turns whatever Pillow raises about a file into a refusal: its readers are not of one mind about that."""
    try:
        yield
    except Refusal:
        raise
    except MemoryError:
        raise Refusal("needs more memory than there is; save it smaller") from None
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "its header is damaged, or of a kind that Pillow does not know"
        raise damaged(format, reason) from None


def _check_size(size: tuple[int, ...]) -> None:
    width, height = size
    if not width or not height:
        raise Refusal(f"has no pixels ({width}x{height}); save or download it again")
    if width * height > MAX_PIXELS:
        raise Refusal(
            f"has {width}x{height} pixels, {width * height:,} in all, expected at most {MAX_PIXELS:,}; save it smaller"
        )


def _check_tiff(image: Image.Image, notes: list[str]) -> int:
    """Bits of a channel. Notes that it is turned. Raises Refusal for what would be read as another picture."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits = set(tags.get(ExifTags.Base.BitsPerSample, (1,)))
    if set(tags.get(ExifTags.Base.SampleFormat, (1,))) != {1}:
        raise Refusal(
            "is a TIFF of signed or floating-point numbers, of which black and white are unknown; save it as PNG"
        )
    if not bits <= {1, 2, 4, 8, 16}:
        told = ", ".join(map(str, sorted(bits)))
        raise Refusal(f"is a TIFF of {told} bits a channel, expected 1 to 8, or 16; save it as PNG")
    if _number(tags.get(ExifTags.Base.NewSubfileType)) & 1:
        raise Refusal(
            "is a photo as the camera's sensor saw it, with a small preview; develop it and save it as PNG"
        )
    if _number(tags.get(ExifTags.Base.Orientation)) in _TURNS:
        notes.append(_TURNED)
    return max(bits)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


_TURNED = "turned as its EXIF says"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _turned(image: Image.Image, rgb: Image.Image, notes: list[str]) -> Image.Image:
    try:
        turn = _TURNS.get(_number(image.getexif().get(ExifTags.Base.Orientation)))
    except Exception:  # noqa: BLE001  # a damaged EXIF says nothing of how to turn, and viewers look over it
        return rgb
    if turn is None:
        return rgb
    notes.append(_TURNED)
    return rgb.transpose(turn)


def _count_frames(image: Image.Image, notes: list[str]) -> None:
    if not getattr(image, "is_animated", False):
        return
    count = ""
    try:
        if image.format == "TIFF":
            count = _count_pages(image)
        else:
            count = f"{image.n_frames:,} frames"  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001  # the first was read, which is all that is asked for
        count = "several frames, others are damaged"
    notes.append(f"first of {count}")


def _count_pages(image: Image.Image) -> str:
    for number in range(1, MAX_PAGES):
        try:
            image.seek(number)
        except EOFError:
            return f"{number:,} frames"
    return f"{MAX_PAGES:,} frames or more"
