"""Reads a picture that somebody gives, from whatever file, as 8-bit sRGB. Torch-free.

By the first bytes of the file one reader of Pillow is chosen; no other is let at it. What Pillow would let pass
without a word (missing rows, scans without end, profiles, upright turning) is looked at here.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import IO

from PIL import ExifTags, Image, ImageChops, ImageCms, ImageFile, UnidentifiedImageError

from engine.errors import InputError
from engine.inputs.kinds import HEAD_BYTES, UnreadKind, format_of

MAX_PIXELS = 100_000_000
# What MAX_PIXELS of 16 bits and no compression need fits in, but for the alpha.
MAX_FILE_BYTES = 640 << 20
# Of a PNG, beside the pixels: an ICC profile has some MB at most.
MAX_CHUNK_BYTES = 32 << 20
# Each scan of a JPEG goes over the whole picture; cameras and programs write ten.
MAX_SCANS = 64
# Pages of a TIFF that are counted: counting reads each one's tags.
MAX_PAGES = 1000
_MAX_REASON = 120
_PIECE_BYTES = 1 << 18


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
        raise InputError(_printable(text), key=f"{key.rpartition('.')[0]}.background".lstrip("."))
    try:
        with _opened(path) as file, _strict_pillow():
            return _read(file, background)
    except _Refusal as refusal:
        raise InputError(_printable(f"{path} {refusal}"), key=key) from None


class _Refusal(Exception):
    """Why a file is not taken and what to do: the rest of the sentence that its path begins."""


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):  # opening a device may already do something
            file = open(path, "rb", opener=_open)  # noqa: SIM115
            mode = os.fstat(file.fileno()).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise _Refusal("is not there; check the path") from None
    except PermissionError:
        raise _Refusal(
            "may not be read; change its permissions (chmod) or run as its owner"
        ) from None
    except OSError as error:
        raise _Refusal(f"cannot be read ({error.strerror or error}); check the path") from None
    except ValueError:  # a zero byte, or half a surrogate pair
        raise _Refusal("is not a path of this system; check its spelling") from None
    if stat.S_ISDIR(mode):
        raise _Refusal("is a folder, expected a picture; name a file inside it")
    if not stat.S_ISREG(mode):
        raise _Refusal("is a pipe, a socket or a device, expected a picture; name a regular file")
    with file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise _Refusal("is empty; save or download it again")
        if size > MAX_FILE_BYTES:
            raise _Refusal(
                f"has {size:,} bytes, expected at most {MAX_FILE_BYTES:,}; save it smaller or as JPEG"
            )
        yield file


def _open(path: str, flags: int) -> int:
    """Does not wait for the other end of a pipe that was put there meanwhile."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


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
    try:
        format = format_of(head)
    except UnreadKind as error:
        raise _Refusal(str(error)) from None
    _check_header(format, head)
    notes: list[str] = []
    depth = _check_png(file, notes) if format == "PNG" else 8
    data = _whole_jpeg(file) if format == "JPEG" else None
    file.seek(0)
    with _told(format), _quiet(format), Image.open(data or file, formats=[format]) as image:
        _check_size(image.size)
        if format == "TIFF":
            depth = _check_tiff(image, notes)
        image.load()
        if data is not None:
            _check_all_decoded(image, data)
        rgb = _over(image, background, depth, notes)
        turned = _turned(
            image, rgb, notes
        )  # nothing is left to turn of a TIFF: Pillow did that itself
        pixels = turned.tobytes()  # before another frame may take their place
        _count_frames(image, notes)
        return Picture(*turned.size, pixels, tuple(notes))


@contextmanager
def _told(format: str) -> Iterator[None]:
    """Turns whatever Pillow raises about a file into a refusal: its readers are not of one mind about that."""
    try:
        yield
    except _Refusal:
        raise
    except MemoryError:
        raise _Refusal("needs more memory than there is; save it smaller") from None
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "its header is damaged, or of a kind that Pillow does not know"
        raise _damaged(format, reason) from None


def _damaged(format: str, reason: str) -> _Refusal:
    if "truncated" in reason:
        return _Refusal(f"is a truncated {format}, its end is missing; save or download it again")
    return _Refusal(
        f"is a {format} that cannot be read ({reason[:_MAX_REASON]}); save it again as PNG"
    )


# Where a header has width and height, as far as Pillow says no more than "not identified" of zeros.
_SIZES = {"PNG": (16, ">II"), "GIF": (6, "<HH"), "BMP": (18, "<ii")}


def _check_header(format: str, head: bytes) -> None:
    place, layout = _SIZES.get(format, (0, ""))
    if layout and len(head) >= place + struct.calcsize(layout):
        _check_size(struct.unpack_from(layout, head, place))


def _check_size(size: tuple[int, ...]) -> None:
    width, height = (
        size[0],
        abs(size[1]),
    )  # a BMP has its rows from the top where it says a negative height
    if not width or not height:
        raise _Refusal(f"has no pixels ({width}x{height}); save or download it again")
    if width * height > MAX_PIXELS:
        raise _Refusal(
            f"has {width}x{height} pixels, {width * height:,} in all, expected at most {MAX_PIXELS:,}; save it smaller"
        )


# PNG: Pillow checks no sums of the pixels' chunks, and leaves rows black that are not there


def _check_png(file: IO[bytes], notes: list[str]) -> int:
    """Bits of a channel. Notes colours that Pillow does not know of. Raises _Refusal where a row is not there, or
    another chunk is too large."""
    file.seek(8)
    depth, left = 8, -1
    inflating = zlib.decompressobj()
    while True:
        size, name = struct.unpack(">I4s", _exactly(file, 8))
        if name == b"IDAT":
            left = _inflated(file, size, inflating, left)
        elif size > MAX_CHUNK_BYTES and name != b"fdAT":
            raise _damaged("PNG", f"a chunk of {size:,} bytes beside the pixels")
        elif name == b"IHDR":
            header = _exactly(file, size)
            _exactly(file, 4)
            if len(header) != 13 or left >= 0:
                raise _damaged("PNG", "its header is damaged")
            depth, left = header[8], _raw_bytes(header)
        elif name == b"cICP":
            if _exactly(file, size) != _CICP_OF_SRGB:
                notes.append("its colours by cICP were taken for sRGB")
            _exactly(file, 4)
        else:
            end = file.seek(size + 4, os.SEEK_CUR)
            if end > os.fstat(file.fileno()).st_size:
                raise _damaged("PNG", "truncated")
        if name == b"IEND":
            break
    if left > 0:
        raise _damaged("PNG", "truncated")
    return depth


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise _damaged("PNG", "truncated")
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
                raise _damaged("PNG", "its pixels are damaged") from None
            piece = inflating.unconsumed_tail
    if _exactly(file, 4) != checksum.to_bytes(4, "big"):
        raise _damaged("PNG", "its pixels are damaged")
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


# JPEG: where its data end too early, libjpeg goes on in grey, with a warning that Pillow does not pass on


_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_END, _SCAN, _ALONE = 0xD9, 0xDA, (0x01, 0xD8)
# Not what anybody's pixels go on with.
_OTHER_DATA = bytes((7 * i * i + 31 * i) % 254 + 1 for i in range(64))


def _whole_jpeg(file: IO[bytes]) -> io.BytesIO:
    """A JPEG that has an end and no more scans than it may. Raises _Refusal."""
    file.seek(0)
    data = file.read()
    _end_of_jpeg(data)
    return io.BytesIO(data)


def _end_of_jpeg(data: bytes) -> int:
    """Where the marker is that ends the (first) picture. Raises _Refusal."""
    place = num_scans = 0
    while found := _MARKER.search(data, place):
        code, place = found[1][0], found.end()
        if code == _END:
            return found.start()
        if code in _ALONE:
            continue
        num_scans += code == _SCAN
        if num_scans > MAX_SCANS:
            raise _damaged("JPEG", f"more than {MAX_SCANS} scans")
        place += max(2, int.from_bytes(data[place : place + 2], "big"))
    raise _damaged("JPEG", "truncated")


def _check_all_decoded(image: Image.Image, file: io.BytesIO) -> None:
    """Raises _Refusal where pixels would be others with other data before the end: those are made up.

    A sequential JPEG shows it by its last pixel, which is grey then; a progressive one is only less sharp.
    """
    last = image.getpixel((image.width - 1, image.height - 1))
    is_grey = all(value in (127, 128) for value in (last if isinstance(last, tuple) else (last,)))
    if not is_grey and not image.info.get("progressive"):
        return
    data = file.getvalue()
    end = _end_of_jpeg(data)
    longer = io.BytesIO(data[:end] + _OTHER_DATA + data[end:])
    with Image.open(longer, formats=["JPEG"]) as other:
        other.load()
        if ImageChops.difference(image, other).getbbox(alpha_only=False):
            raise _damaged("JPEG", "truncated")


# TIFF: a frame for everything


def _check_tiff(image: Image.Image, notes: list[str]) -> int:
    """Bits of a channel. Notes that it is turned. Raises _Refusal for what would be read as another picture."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits = set(tags.get(ExifTags.Base.BitsPerSample, (1,)))
    if set(tags.get(ExifTags.Base.SampleFormat, (1,))) != {1}:
        raise _Refusal(
            "is a TIFF of signed or floating-point numbers, of which black and white are unknown; save it as PNG"
        )
    if not bits <= {1, 2, 4, 8, 16}:
        told = ", ".join(map(str, sorted(bits)))
        raise _Refusal(
            f"is a TIFF of {told} bits a channel, expected 1 to 8, or 16; save it as PNG"
        )
    if _number(tags.get(ExifTags.Base.NewSubfileType)) & 1:
        raise _Refusal(
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


# Colours


def _over(image: Image.Image, background: str, depth: int, notes: list[str]) -> Image.Image:
    """In sRGB, transparent parts over the background."""
    profile = image.info.get("icc_profile")
    image = _of_8_bits(image, depth, notes)
    alpha = None
    if image.has_transparency_data:
        # grey stays grey: its profile is one of grey
        image = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
        alpha = image.getchannel("A")
        image = image.convert(image.mode[:-1])
    rgb = _in_srgb(image, profile, notes)
    if alpha is None or alpha.getextrema()[0] == 255:
        return rgb
    notes.append(f"transparent parts over {background}")
    canvas = Image.new("RGB", rgb.size, background)
    canvas.paste(rgb, mask=alpha)
    return canvas


def _of_8_bits(image: Image.Image, depth: int, notes: list[str]) -> Image.Image:
    """Of 16 bits the upper 8, as Pillow does for colours: 8 bits that were widened come back as they were."""
    clear = image.info.get("transparency")
    if image.format == "PNG" and clear is not None and image.mode in ("L", "RGB"):
        # the colour that is to be transparent has as many bits as the file
        image.info["transparency"] = _fewer_bits(clear, depth)
    if image.mode == "I" and image.format in ("PPM", "PNG"):
        image = image.convert("I;16")
    if image.mode.startswith("I;16"):
        notes.append("16 bits to 8")
        return _upper_bytes(image, clear if isinstance(clear, int) else None)
    if depth == 16:
        notes.append("16 bits to 8")
    if image.mode in ("I", "F"):
        raise _Refusal(
            "holds 32 bits a channel, of which black and white are unknown; save it as PNG"
        )
    return image


def _fewer_bits(clear: int | tuple[int, ...], depth: int) -> int | tuple[int, ...]:
    if isinstance(clear, tuple):
        return tuple(value >> 8 if depth == 16 else value for value in clear)
    return clear * 255 // ((1 << depth) - 1) if depth < 8 else clear


def _upper_bytes(image: Image.Image, clear: int | None) -> Image.Image:
    """The upper bytes of 16-bit grey, with an alpha where one of its values is to be transparent."""
    first, second = (
        Image.frombytes("L", image.size, image.tobytes()[start::2]) for start in (0, 1)
    )
    upper, lower = (first, second) if image.mode == "I;16B" else (second, first)
    tags = getattr(image, "tag_v2", {})
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # white is zero, which Pillow leaves
        upper = ImageChops.invert(upper)
    if clear is None:
        return upper
    is_other = ImageChops.lighter(
        upper.point([255 * (value != clear >> 8) for value in range(256)]),
        lower.point([255 * (value != clear & 255) for value in range(256)]),
    )
    return Image.merge("LA", (upper, is_other))


_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}


def _in_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """RGB of an image without alpha. Relative colorimetric, as browsers do."""
    if image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode == "LAB":
        notes.append("Lab to RGB")
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        return _transform(lab, "LAB").apply(image)
    if image.mode == "CMYK":
        notes.append("CMYK to RGB")
    if not profile:
        _note_gamma(image, notes)
        return _as_rgb(image)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _SPACES.get(source.profile.xcolor_space.strip(), "")
        if mode == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        if mode != image.mode:
            notes.append(f"its colour profile is not one of {image.mode} and was ignored")
            return _as_rgb(image)
        transform = _transform(source, mode)
        name = _printable(" ".join(ImageCms.getProfileDescription(source).split())[:60])
    except Exception:  # noqa: BLE001  # lcms has no words of its own for it
        notes.append("its colour profile is damaged and was ignored")
        return _as_rgb(image)
    if mode in ("L", "RGB") and _is_srgb(transform, mode):
        return _as_rgb(image)
    notes.append(f"from {name or 'a profile without a name'} to sRGB")
    return transform.apply(image)


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy


def _note_gamma(image: Image.Image, notes: list[str]) -> None:
    """Of a PNG that says it without a profile: mostly it is that of sRGB, and else mostly wrong."""
    gamma = image.info.get("gamma")
    if gamma and "srgb" not in image.info and abs(gamma - 1 / 2.2) > 0.01:
        notes.append(f"its gamma of {gamma:g} was not applied")


def _transform(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.ImageCmsTransform(source, target, mode, "RGB", intent)


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether colours stay what they are but for rounding: the many profiles named sRGB are left alone, so that a
    picture has one digest with and without."""
    if mode == "L":
        probe = Image.frombytes("L", (256, 1), bytes(range(256)))
    else:
        steps = [*range(0, 256, 15)]
        colours = bytes(value for r in steps for g in steps for b in steps for value in (r, g, b))
        probe = Image.frombytes("RGB", (len(steps), len(steps) ** 2), colours)
    changes = ImageChops.difference(transform.apply(probe), probe.convert("RGB"))
    return max(changes.tobytes()) <= 2


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
