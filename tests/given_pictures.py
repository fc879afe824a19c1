"""Pictures as people have them, and files that are none: how each is made, and what reading it gives.

What Pillow writes is made by Pillow, the rest by hand. The truth is in NumPy, from what the file was made of.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, features

Array = NDArray[Any]
Make = Callable[[Path], Path]

HEIGHT, WIDTH = 20, 28
_Y, _X = np.mgrid[0:HEIGHT, 0:WIDTH]
RGB: Array = np.stack([_X * 9, _Y * 12, (_X + _Y) * 5], -1).astype(np.uint8)
GREY: Array = RGB[..., 0]
ALPHA: Array = (255 - _Y * 13).clip(0, 255).astype(np.uint8)
WIDE: Array = (RGB.astype(np.uint16) * 256 + RGB[..., ::-1]).astype(np.uint16)
INDEX: Array = ((_X + _Y) % 7).astype(np.uint8)
PALETTE: Array = np.array(
    [[9, 8, 7], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [1, 128, 3], [77, 66, 55]], np.uint8
)  # fmt: skip


@dataclass(frozen=True)
class Good:
    """pixels: the truth, [H, W, 3] or [H, W] in 0..255. within: levels by which a pixel may be off."""

    make: Make
    pixels: Array
    notes: tuple[str, ...] = ()
    within: int = 0
    background: str = "#000000"


@dataclass(frozen=True)
class Bad:
    """told: a pattern of the error."""

    make: Make
    told: str
    background: str = "#000000"


def written(name: str, content: bytes) -> Make:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return make


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def saved(pixels: Array | Image.Image, format: str, **options: Any) -> Make:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    return written(f"picture.{format.lower()}", encoded(image, format, **options))


def over(colours: Array, alpha: Array, background: tuple[int, int, int] = (0, 0, 0)) -> Array:
    part = (alpha / 255)[..., None]
    mixed = colours * part + np.array(background) * (1 - part)
    return np.rint(mixed).astype(np.uint8)


def with_alpha(colours: Array, alpha: Array = ALPHA) -> Array:
    return np.dstack([colours, alpha])


def paletted() -> Image.Image:
    image = Image.fromarray(INDEX, "P")
    image.putpalette(PALETTE.tobytes())
    return image


# --- PNG by hand ------------------------------------------------------------------------------------------------


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    width: int, height: int, depth: int, colours: int, rows: bytes, *,
    before: bytes = b"", after: bytes = b"", interlace: int = 0,
) -> bytes:  # fmt: skip
    """rows: with a filter byte each. before, after: chunks about the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, interlace))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + after + chunk(b"IEND", b"")


def rows_of(pixels: Array) -> bytes:
    big = pixels.astype(">u2") if pixels.dtype == np.uint16 else pixels
    return b"".join(b"\0" + row.tobytes() for row in big)


def png_of(pixels: Array, colours: int, *, before: bytes = b"", after: bytes = b"") -> bytes:
    depth = 16 if pixels.dtype == np.uint16 else 8
    return png(WIDTH, HEIGHT, depth, colours, rows_of(pixels), before=before, after=after)


def interlaced(pixels: Array) -> bytes:
    passes = ("0088", "4088", "0448", "2044", "0224", "1022", "0112")  # first column, row; steps
    steps = [tuple(map(int, each)) for each in passes]
    rows = b"".join(rows_of(pixels[top::down, left::right]) for left, top, right, down in steps)
    return png(WIDTH, HEIGHT, 8, 2, rows, interlace=1)


def grey_of_2_bits() -> tuple[bytes, Array]:
    """Levels 0 to 3, of which 3 is transparent."""
    levels = (_X // 4 % 4).astype(np.uint8)
    packed = levels[:, 0::4] << 6 | levels[:, 1::4] << 4 | levels[:, 2::4] << 2 | levels[:, 3::4]
    content = png(WIDTH, HEIGHT, 2, 0, rows_of(packed), before=chunk(b"tRNS", b"\0\3"))
    return content, np.where(levels == 3, 0, levels * 85)


def text_bomb(name: bytes) -> Make:
    """A chunk of text that is 60 MB."""

    def make(folder: Path) -> Path:
        packed = zlib.compress(b"a" * 60_000_000, 9)
        start = b"Comment\0\0" if name == b"zTXt" else b"Comment\0\1\0\0\0"
        return written("a.png", png_of(RGB, 2, before=chunk(name, start + packed)))(folder)

    return make


# --- TIFF by hand -----------------------------------------------------------------------------------------------


def tiff(tags: dict[int, tuple[int, ...] | int], data: bytes) -> bytes:
    """Little-endian, uncompressed, one strip. Numbers are written as LONG."""
    entries = {273: 8, 278: HEIGHT, 279: len(data), 256: WIDTH, 257: HEIGHT, 259: 1, **tags}
    place = 8 + len(data)
    extra = b""
    table = struct.pack("<H", len(entries))
    where = place + 2 + 12 * len(entries) + 4
    for tag, value in sorted(entries.items()):
        numbers = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            extra, packed = extra + packed, struct.pack("<I", where + len(extra))
        table += struct.pack("<HHI", tag, 4, len(numbers)) + packed
    return struct.pack("<2sHI", b"II", 42, place) + data + table + struct.pack("<I", 0) + extra


def tiff_of(pixels: Array, photometric: int, bits: int = 8, **more: Any) -> bytes:
    count = pixels.shape[2] if pixels.ndim == 3 else 1
    tags: dict[int, Any] = {
        258: (bits,) * count,
        262: photometric,
        277: count,
        **more.get("tags", {}),
    }
    return tiff(tags, pixels.tobytes())


# --- JPEG -------------------------------------------------------------------------------------------------------


def jpeg(pixels: Array = RGB, **options: Any) -> bytes:
    return encoded(Image.fromarray(pixels), "JPEG", **{"quality": 95, "subsampling": 0} | options)


def noise() -> Array:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def many_scans() -> bytes:
    whole = jpeg(progressive=True)
    scan = whole.rindex(b"\xff\xda")
    return whole[:scan] + whole[scan:-2] * 100 + whole[-2:]


def ends_early(content: bytes, share: float = 0.6) -> bytes:
    """What is missing behind, and yet it has an end."""
    return content[: int(len(content) * share)] + b"\xff\xd9"


def oriented(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    return exif


# What the stored pixels have to undergo, by the EXIF standard's words: where row 0 and column 0 are.
TURNS: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: a[::-1].swapaxes(0, 1),  # right, top
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda a: a[:, ::-1].swapaxes(0, 1),  # left, bottom
}
TURNED = ("turned as its EXIF says",)


# --- colour profiles by hand ------------------------------------------------------------------------------------

# XYZ under D50 of the primaries, in columns.
P3 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0010, 0.0419, 0.7841]])
SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])


def icc(name: str, space: bytes, matrix: Array | None, gamma: float) -> bytes:
    """A display's profile of version 2.1."""

    def xyz(values: Any) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = name.encode() + b"\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    tags = {b"desc": described + bytes(-len(described) % 4), b"wtpt": xyz((0.9642, 1, 0.8249))}
    if matrix is None:
        tags[b"kTRC"] = curve
    else:
        for at, letter in enumerate((b"r", b"g", b"b")):
            tags |= {letter + b"XYZ": xyz(matrix[:, at]), letter + b"TRC": curve}
    place = 132 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for tag, held in tags.items():
        table += tag + struct.pack(">II", place + len(data), len(held))
        data += held
    header = struct.pack(
        ">I4sI4s4s4s", place + len(data), b"lcms", 0x02100000, b"mntr", space, b"XYZ "
    )
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + data


def in_srgb(linear: Array) -> Array:
    linear = linear.clip(0, 1)
    bent = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(bent * 255).astype(np.uint8)


def from_p3(pixels: Array) -> Array:
    return in_srgb((pixels / 255) ** 2.2 @ P3.T @ np.linalg.inv(SRGB).T)


def of_lab(lab: Array) -> Array:
    """sRGB of L in 0..100, a and b, under D50."""
    y = (lab[..., 0] + 16) / 116
    each = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = np.where(each > 6 / 29, each**3, 3 * (6 / 29) ** 2 * (each - 4 / 29))
    return in_srgb(xyz * [0.9642, 1.0, 0.8249] @ np.linalg.inv(SRGB).T)


LAB = np.stack([40 + _X, _Y - 8.0, _X - 12.0], -1).astype(int)  # inside of what sRGB has


def lab_tiff() -> bytes:
    stored = np.stack([np.rint(LAB[..., 0] * 2.55), LAB[..., 1] % 256, LAB[..., 2] % 256], -1)
    return tiff_of(stored.astype(np.uint8), 8)


def lab_truth() -> Array:
    level = np.rint(LAB[..., 0] * 2.55) / 2.55
    return of_lab(np.stack([level, LAB[..., 1], LAB[..., 2]], -1))


def of_cmyk(cmyk: Array) -> Array:
    ink = cmyk.astype(float) / 255
    return np.rint(255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])).astype(np.uint8)


CMYK: Array = np.dstack([RGB, _Y * 4]).astype(np.uint8)


# --- other files ------------------------------------------------------------------------------------------------


def rle_bmp() -> bytes:
    """Of 8 bits, packed by runs; rows from the bottom."""
    data = b""
    for row in INDEX[::-1]:
        data += b"".join(bytes((1, value)) for value in row) + b"\0\0"
    data += b"\0\1"
    palette = b"".join(bytes((b, g, r, 0)) for r, g, b in PALETTE)
    place = 54 + len(palette)
    file = struct.pack("<2sIHHI", b"BM", place + len(data), 0, 0, place)
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(data), 0, 0, len(PALETTE), 0)
    return file + info + palette + data


def top_down_bmp() -> bytes:
    file = struct.pack("<2sIHHI", b"BM", 54 + RGB.size, 0, 0, 54)
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, -HEIGHT, 1, 24, 0, RGB.size, 0, 0, 0, 0)
    return file + info + np.ascontiguousarray(RGB[..., ::-1]).tobytes()


def os2_bmp() -> bytes:
    """With the shortest of headers, whose numbers have 16 bits."""
    file = struct.pack("<2sIHHI", b"BM", 26 + RGB.size, 0, 0, 26)
    info = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    return file + info + np.ascontiguousarray(RGB[::-1, :, ::-1]).tobytes()


def of_screen(content: bytes, side: int) -> bytes:
    """A GIF that says another size than its first frame does."""
    return content[:6] + struct.pack("<HH", side, side) + content[10:]


def large_webp() -> bytes:
    """Animated: a large canvas with small frames."""
    first, *others = frames(3)
    content = encoded(first, "WEBP", save_all=True, append_images=others)
    return content[:24] + (16382).to_bytes(3, "little") * 2 + content[30:]


def boxes(brand: bytes) -> bytes:
    return struct.pack(">I4s4sI4s4s", 24, b"ftyp", brand, 0, b"isom", brand) + bytes(600)


def safetensors() -> bytes:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return struct.pack("<Q", len(header)) + header + bytes(4)


def frames(count: int) -> list[Image.Image]:
    return [Image.fromarray(np.roll(RGB, shift, 1)) for shift in range(count)]


def animated(format: str, **options: Any) -> Make:
    first, *others = frames(3)
    return saved(first, format, save_all=True, append_images=others, **options)


def animated_gif() -> Make:
    images = [Image.fromarray(np.roll(INDEX, shift, 1), "P") for shift in range(3)]
    for image in images:
        image.putpalette(PALETTE.tobytes())
    return saved(images[0], "GIF", save_all=True, append_images=images[1:])


def linked(folder: Path) -> Path:
    (folder / "link").symlink_to(saved(RGB, "PNG")(folder))
    return folder / "link"


def looped(folder: Path) -> Path:
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    return folder / "a"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


def sparse(folder: Path) -> Path:
    path = saved(RGB, "PNG")(folder)
    os.truncate(path, 1 << 30)
    return path


def _wide_tiff(pixels: Array, photometric: int, **more: Any) -> bytes:
    return tiff_of(pixels.astype("<u2"), photometric, 16, **more)


_BITS = ("16 bits to 8",)
_FROM_P3 = ("from Display P3 of a test to sRGB",)
_DAMAGED = ("its colour profile is damaged and was ignored",)
_OVER = ("transparent parts over #000000",)
_P3 = icc("Display P3 of a test", b"RGB ", P3, 2.2)
_GREY_PROFILE = icc("Grey gamma 1.8", b"GRAY", None, 1.8)
_FLAT: Array = np.full((HEIGHT, WIDTH, 3), 127, np.uint8)
_CLEAR_INDEX = np.where(INDEX == 2, 0, 255)
_INDEX_ALPHA = np.array([255, 200, 100, 0, 50, 255, 255], np.uint8)
_two_bits, _two_bits_truth = grey_of_2_bits()

GOOD: dict[str, Good] = {
    "png": Good(saved(RGB, "PNG"), RGB),
    "png grey": Good(saved(GREY, "PNG"), GREY),
    "png black and white": Good(saved(Image.fromarray(GREY > 99), "PNG"), (GREY > 99) * 255),
    "png grey and alpha": Good(saved(np.dstack([GREY, ALPHA]), "PNG"), over(np.dstack([GREY] * 3), ALPHA), _OVER),
    "png palette": Good(saved(paletted(), "PNG"), PALETTE[INDEX]),
    "png palette, one clear": Good(saved(paletted(), "PNG", transparency=2), over(PALETTE[INDEX], _CLEAR_INDEX), _OVER),
    "png palette with alphas": Good(
        saved(paletted(), "PNG", transparency=_INDEX_ALPHA.tobytes()), over(PALETTE[INDEX], _INDEX_ALPHA[INDEX]), _OVER
    ),
    "png alpha": Good(saved(with_alpha(RGB), "PNG"), over(RGB, ALPHA), _OVER),
    "png alpha over orange": Good(
        saved(with_alpha(RGB), "PNG"), over(RGB, ALPHA, (255, 128, 0)),
        ("transparent parts over #ff8000",), 0, "#ff8000"
    ),
    "png alpha, all of it full": Good(saved(with_alpha(RGB, np.full_like(ALPHA, 255)), "PNG"), RGB),
    "png grey, one clear": Good(
        written("a.png", png_of(GREY, 0, before=chunk(b"tRNS", b"\0\x12"))), np.where(GREY == 0x12, 0, GREY), _OVER, 0
    ),
    "png grey of 2 bits, one clear": Good(written("a.png", _two_bits), _two_bits_truth, _OVER),
    "png colours, one clear": Good(
        written("a.png", png_of(RGB, 2, before=chunk(b"tRNS", struct.pack(">3H", *map(int, RGB[3, 4]))))),
        np.where((RGB[3, 4] == RGB).all(-1, keepdims=True), 200, RGB), ("transparent parts over #c8c8c8",), 0, "#c8c8c8"
    ),
    "png grey of 16 bits": Good(written("a.png", png_of(WIDE[..., 0], 0)), WIDE[..., 0] >> 8, _BITS),
    "png grey of 16 bits, one clear": Good(
        written("a.png", png_of(WIDE[..., 0], 0, before=chunk(b"tRNS", struct.pack(">H", WIDE[5, 6, 0])))),
        np.where(WIDE[..., 0] == WIDE[5, 6, 0], 255, WIDE[..., 0] >> 8),
        (*_BITS, "transparent parts over #ffffff"), 0, "#ffffff"
    ),
    "png colours of 16 bits": Good(written("a.png", png_of(WIDE, 2)), WIDE >> 8, _BITS),
    "png of 16 bits that were 8": Good(written("a.png", png_of(RGB * np.uint16(257), 2)), RGB, _BITS),
    "png alpha of 16 bits": Good(
        written("a.png", png_of(np.dstack([WIDE, ALPHA * np.uint16(257)]), 6)), over(WIDE >> 8, ALPHA), (*_BITS, *_OVER)
    ),
    "png grey and alpha of 16 bits": Good(
        written("a.png", png_of(np.dstack([WIDE[..., 0], ALPHA * np.uint16(257)]), 4)),
        over(np.dstack([WIDE[..., 0] >> 8] * 3), ALPHA), (*_BITS, *_OVER)
    ),
    "png interlaced": Good(written("a.png", interlaced(RGB)), RGB),
    "png animated": Good(animated("PNG"), RGB, ("first of 3 frames",)),
    "png turned": Good(saved(RGB, "PNG", exif=oriented(6)), TURNS[6](RGB), TURNED),
    "png turned, said behind its pixels": Good(
        written("a.png", png_of(RGB, 2, after=chunk(b"eXIf", oriented(8).tobytes()[6:]))), TURNS[8](RGB), TURNED
    ),
    "png gamma": Good(
        written("a.png", png_of(RGB, 2, before=chunk(b"gAMA", struct.pack(">I", 100_000)))), RGB,
        ("its gamma of 1 was not applied",)
    ),
    "png gamma of sRGB": Good(written("a.png", png_of(RGB, 2, before=chunk(b"gAMA", struct.pack(">I", 45_455)))), RGB),
    "png of HDR": Good(
        written("a.png", png_of(RGB, 2, before=chunk(b"cICP", b"\x09\x10\0\1"))), RGB,
        ("its colours by cICP were taken for sRGB",)
    ),
    "png text": Good(
        written("a.png", png_of(RGB, 2, before=chunk(b"tEXt", b"prompt\0" + b"x" * 300_000))), RGB
    ),
    "profile of wide colours": Good(saved(RGB, "PNG", icc_profile=_P3), from_p3(RGB), _FROM_P3, 2),
    "profile of colours of sRGB, gamma 1.8": Good(
        saved(RGB, "PNG", icc_profile=icc("Old\x07\n Mac", b"RGB ", SRGB, 1.8)), in_srgb((RGB / 255) ** 1.8),
        (r"from Old\x07 Mac to sRGB",), 2
    ),
    "profile of grey": Good(
        saved(GREY, "PNG", icc_profile=_GREY_PROFILE), in_srgb((GREY / 255) ** 1.8), ("from Grey gamma 1.8 to sRGB",), 2
    ),
    "profile of colours for grey": Good(
        saved(GREY, "JPEG", quality=100, icc_profile=_P3), from_p3(np.dstack([GREY] * 3)), _FROM_P3, 3
    ),
    "profile of grey for colours": Good(
        saved(RGB, "PNG", icc_profile=_GREY_PROFILE), RGB, ("its colour profile is not one of RGB and was ignored",)
    ),
    "profile damaged": Good(
        saved(RGB, "PNG", icc_profile=b"no profile at all" * 20), RGB, _DAMAGED
    ),
    "profile cut": Good(saved(RGB, "PNG", icc_profile=_P3[:200]), RGB, _DAMAGED),
    "profile and alpha": Good(
        saved(with_alpha(RGB), "PNG", icc_profile=_P3), over(from_p3(RGB), ALPHA),
        (*_FROM_P3, *_OVER), 2
    ),
    "jpeg": Good(written("a.jpg", jpeg()), RGB, (), 12),
    "jpeg grey": Good(saved(GREY, "JPEG", quality=100), GREY, (), 3),
    "jpeg progressive": Good(written("a.jpg", jpeg(progressive=True)), RGB, (), 12),
    "jpeg grey throughout": Good(written("a.jpg", jpeg(_FLAT)), _FLAT, (), 1),
    "jpeg with bytes behind its end": Good(written("a.jpg", jpeg() + bytes(5000)), RGB, (), 12),
    "jpeg CMYK": Good(
        saved(Image.fromarray(CMYK, "CMYK"), "JPEG", quality=100, subsampling=0), of_cmyk(CMYK), ("CMYK to RGB",), 8
    ),
    "jpeg of three pictures": Good(animated("MPO", quality=95, subsampling=0), RGB, ("first of 3 frames",), 12),
    **{
        f"jpeg orientation {turn}": Good(
            written("a.jpg", jpeg(exif=oriented(turn))), TURNS[turn](RGB), TURNED if turn > 1 else (), 12
        )
        for turn in TURNS
    },
    "jpeg orientation 9": Good(written("a.jpg", jpeg(exif=oriented(9))), RGB, (), 12),
    "jpeg damaged EXIF": Good(written("a.jpg", jpeg(exif=b"Exif\0\0II*\0\xff\xff\xff\xff")), RGB, (), 12),
    "webp": Good(saved(RGB, "WEBP", lossless=True), RGB),
    "webp alpha": Good(saved(with_alpha(RGB), "WEBP", lossless=True, exact=True), over(RGB, ALPHA), _OVER),
    "webp turned": Good(saved(RGB, "WEBP", lossless=True, exif=oriented(5)), TURNS[5](RGB), TURNED),
    "webp animated": Good(animated("WEBP", lossless=True), RGB, ("first of 3 frames",)),
    "gif": Good(saved(paletted(), "GIF"), PALETTE[INDEX]),
    "gif, one clear": Good(saved(paletted(), "GIF", transparency=2), over(PALETTE[INDEX], _CLEAR_INDEX), _OVER),
    "gif without a screen": Good(written("a.gif", of_screen(encoded(paletted(), "GIF"), 0)), PALETTE[INDEX]),
    "gif animated": Good(animated_gif(), PALETTE[INDEX], ("first of 3 frames",)),
    "bmp": Good(saved(RGB, "BMP"), RGB),
    "bmp palette": Good(saved(paletted(), "BMP"), PALETTE[INDEX]),
    "bmp rows from the top": Good(written("a.bmp", top_down_bmp()), RGB),
    "bmp of OS/2": Good(written("a.bmp", os2_bmp()), RGB),
    "bmp packed": Good(written("a.bmp", rle_bmp()), PALETTE[INDEX]),
    "tiff": Good(saved(RGB, "TIFF"), RGB),
    "tiff lzw": Good(saved(RGB, "TIFF", compression="tiff_lzw"), RGB),
    "tiff deflate": Good(saved(RGB, "TIFF", compression="tiff_adobe_deflate"), RGB),
    "tiff jpeg": Good(saved(RGB, "TIFF", compression="jpeg", quality=100), RGB, (), 16),
    "tiff alpha": Good(saved(with_alpha(RGB), "TIFF"), over(RGB, ALPHA), _OVER),
    "tiff alpha already in its colours": Good(
        written("a.tif", tiff_of(with_alpha(over(RGB, ALPHA)), 2, tags={338: 1})), over(RGB, ALPHA), _OVER, 1
    ),
    "tiff grey, alpha already in it": Good(
        written("a.tif", tiff_of(np.dstack([over(RGB, ALPHA)[..., 0], ALPHA]), 1, tags={338: 1})),
        over(np.dstack([GREY] * 3), ALPHA), _OVER, 1
    ),
    "tiff palette and alpha": Good(saved(paletted().convert("PA"), "TIFF"), PALETTE[INDEX]),
    "tiff CMYK": Good(saved(Image.fromarray(CMYK, "CMYK"), "TIFF"), of_cmyk(CMYK), ("CMYK to RGB",), 1),
    "tiff YCbCr": Good(saved(Image.fromarray(RGB).convert("YCbCr"), "TIFF"), RGB, (), 3),
    "tiff Lab": Good(written("a.tif", lab_tiff()), lab_truth(), ("Lab to RGB",), 2),
    "tiff grey of 16 bits": Good(written("a.tif", _wide_tiff(WIDE[..., 0], 1)), WIDE[..., 0] >> 8, _BITS),
    "tiff grey of 16 bits, white is zero": Good(
        written("a.tif", _wide_tiff(65535 - WIDE[..., 0], 0)), WIDE[..., 0] >> 8, _BITS
    ),
    "tiff grey of 16 bits, big-endian": Good(
        saved(Image.frombytes("I;16B", (WIDTH, HEIGHT), WIDE[..., 0].astype(">u2").tobytes()), "TIFF"),
        WIDE[..., 0] >> 8, _BITS
    ),
    "tiff colours of 16 bits": Good(written("a.tif", _wide_tiff(WIDE, 2)), WIDE >> 8, _BITS),
    "tiff white is zero": Good(written("a.tif", tiff_of(255 - GREY, 0)), GREY),
    "tiff turned": Good(saved(RGB, "TIFF", tiffinfo={274: 6}), TURNS[6](RGB), TURNED),
    "tiff lzw turned": Good(saved(RGB, "TIFF", tiffinfo={274: 7}, compression="tiff_lzw"), TURNS[7](RGB), TURNED),
    "tiff pages": Good(animated("TIFF"), RGB, ("first of 3 frames",)),
    "ppm": Good(saved(RGB, "PPM"), RGB),
    "ppm as text": Good(
        written("a.ppm", f"P3 # a comment\n{WIDTH} {HEIGHT}\n255\n{' '.join(map(str, RGB.ravel()))}\n".encode()), RGB
    ),
    "pgm of 16 bits": Good(
        written("a.pgm", f"P5 {WIDTH} {HEIGHT} 65535\n".encode() + WIDE[..., 0].astype(">u2").tobytes()),
        WIDE[..., 0] >> 8, _BITS
    ),
    "one pixel": Good(saved(RGB[5:6, 5:6], "PNG"), RGB[5:6, 5:6]),
    "another ending": Good(written("photo.jpg", encoded(Image.fromarray(RGB), "PNG")), RGB),
    "a name with strange characters": Good(
        written("a\n\x1b[2J \udcff'\".png", encoded(Image.fromarray(RGB), "PNG")), RGB
    ),
    "a link": Good(linked, RGB),
}  # fmt: skip
if "avif" in features.modules and features.check("avif"):
    GOOD |= {
        "avif": Good(saved(RGB, "AVIF", quality=100), RGB, (), 12),
        "avif alpha": Good(
            saved(with_alpha(RGB), "AVIF", quality=100), over(RGB, ALPHA), _OVER, 12
        ),
        "avif turned": Good(
            saved(RGB, "AVIF", quality=100, exif=oriented(8)), TURNS[8](RGB), TURNED, 12
        ),
    }

_AS_PNG = "save it as PNG"
_HUGE_PNG = png(60_000, 60_000, 1, 0, b"")

BAD: dict[str, Bad] = {
    "not there": Bad(lambda folder: folder / "none.png", "is not there; check the path"),
    "below a file": Bad(lambda folder: saved(RGB, "PNG")(folder) / "a.png", "is not there"),
    "a folder": Bad(lambda folder: folder, "is a folder, expected a picture"),
    "a pipe": Bad(pipe, "is a pipe, a socket or a device, expected a picture"),
    "a device": Bad(lambda folder: Path("/dev/zero"), "is a pipe, a socket or a device"),
    "links in a circle": Bad(looped, "cannot be read .*; check the path"),
    "a path with a zero byte": Bad(lambda folder: folder / "a\0.png", "is not a path of this system"),
    "a long name": Bad(lambda folder: folder / ("a" * 5000), "cannot be read"),
    "a strange name": Bad(lambda folder: folder / "a\n\x1b[2J.png", r"a\\n\\x1b\[2J.png is not there"),
    "no colour": Bad(saved(RGB, "PNG"), "^image.background: 'red' is no colour, expected #rrggbb", "red"),
    "empty": Bad(written("a.png", b""), "is empty"),
    "one byte": Bad(written("a.png", b"\x89"), "no picture that is known"),
    "too many bytes": Bad(sparse, "has 1,073,741,824 bytes, expected at most"),
    "text": Bad(written("a.png", "ein Bär, der läuft\n".encode() * 99), "is text, expected JPEG, PNG"),
    "a page of a server": Bad(written("a.png", b"<!doctype html><html>Not found</html>"), "is text"),
    "a drawing": Bad(written("a.svg", b'<?xml version="1.0"?><svg/>'), r"a drawing \(SVG\), which is not read"),
    "safetensors": Bad(written("a.safetensors", safetensors()), r"a file of weights \(safetensors\)"),
    "gguf": Bad(written("a.gguf", b"GGUF" + bytes(99)), r"a file of weights \(GGUF\)"),
    "zip": Bad(written("a.pth", b"PK\x03\x04" + bytes(99)), "a zip archive"),
    "noise": Bad(written("a.bin", bytes(range(200, 256)) * 9), "no picture that is known"),
    "mp4": Bad(written("a.mp4", boxes(b"isom")), "is a video, expected a picture; give it as the video to begin from"),
    "matroska": Bad(written("a.mkv", b"\x1a\x45\xdf\xa3" + bytes(99)), "is a video"),
    "avi": Bad(written("a.avi", b"RIFF\0\0\0\0AVI " + bytes(99)), "is a video"),
    "heic": Bad(written("a.heic", boxes(b"heic")), "is a HEIC picture, which is not read; save it as PNG or JPEG"),
    "jpeg 2000": Bad(saved(RGB, "JPEG2000"), "is a JPEG 2000 picture, which is not read"),
    "photoshop": Bad(written("a.psd", b"8BPS" + bytes(99)), "a Photoshop file"),
    "eps": Bad(saved(RGB, "EPS"), "a PostScript file, which is not read"),
    "tga": Bad(saved(RGB, "TGA"), "no picture that is known"),
    "canon raw": Bad(written("a.cr2", b"II*\0\x10\0\0\0CR\2\0" + bytes(99)), "as the camera's sensor saw it"),
    "olympus raw": Bad(written("a.orf", b"IIRO" + bytes(99)), "as the camera's sensor saw it, which is not read"),
    "raw with a preview": Bad(written("a.dng", tiff_of(RGB, 2, tags={254: 1})), "as the camera's sensor saw it"),
    "png cut": Bad(written("a.png", encoded(Image.fromarray(RGB), "PNG")[:-20]), "is a truncated PNG"),
    "png with an end and yet cut": Bad(
        written("a.png", png(WIDTH, HEIGHT, 8, 2, rows_of(RGB)[: RGB.size // 2])), "is a truncated PNG"
    ),
    "png interlaced with an end and yet cut": Bad(
        written("a.png", png(WIDTH, HEIGHT, 8, 2, rows_of(RGB), interlace=1)), "is a truncated PNG"
    ),
    "png with another sum": Bad(
        written("a.png", png_of(RGB, 2).replace(chunk(b"IDAT", zlib.compress(rows_of(RGB)))[-4:], bytes(4))),
        "its pixels are damaged"
    ),
    "png of no pixels": Bad(written("a.png", png(0, 5, 8, 2, b"")), r"has no pixels \(0x5\)"),
    "png huge": Bad(
        written("a.png", _HUGE_PNG), "has 60000x60000 pixels, 3,600,000,000 in all, expected at most 100,000,000"
    ),
    "png of other bits": Bad(written("a.png", png(WIDTH, HEIGHT, 5, 2, rows_of(RGB))), "is a PNG that cannot be read"),
    "png zTXt bomb": Bad(text_bomb(b"zTXt"), "is a PNG that cannot be read .*(?i:too large)"),
    "png iTXt bomb": Bad(text_bomb(b"iTXt"), "is a PNG that cannot be read .*(?i:too large)"),
    "png large chunk": Bad(
        written("a.png", png_of(RGB, 2, before=chunk(b"tEXt", b"a\0" + bytes(33 << 20)))),
        "a chunk of 34,603,010 bytes beside the pixels"
    ),
    "jpeg cut": Bad(written("a.jpg", jpeg()[:400]), "is a truncated JPEG, its end is missing"),
    "jpeg with an end and yet cut": Bad(written("a.jpg", ends_early(jpeg(noise()))), "is a truncated JPEG"),
    "jpeg grey with an end and yet cut": Bad(
        written("a.jpg", ends_early(jpeg(noise()[..., 0]))), "is a truncated JPEG"
    ),
    "jpeg progressive with an end and yet cut": Bad(
        written("a.jpg", ends_early(jpeg(noise(), progressive=True))), "is a truncated JPEG"
    ),
    "jpeg progressive, its last scan cut": Bad(
        written("a.jpg", ends_early(jpeg(noise(), progressive=True), 0.98)), "is a truncated JPEG"
    ),
    "jpeg that zeros fill up": Bad(
        written("a.jpg", jpeg(noise())[:3000] + bytes(9000)), "is a truncated JPEG"
    ),
    "jpeg of 100 scans": Bad(written("a.jpg", many_scans()), "is a JPEG that cannot be read .more than 64 scans"),
    "jpeg marker alone": Bad(written("a.jpg", b"\xff\xd8\xff"), "is a truncated JPEG"),
    "jpeg of nothing": Bad(written("a.jpg", b"\xff\xd8\xff\xd9"), "is a JPEG that cannot be read"),
    "webp cut": Bad(written("a.webp", encoded(Image.fromarray(noise()), "WEBP")[:500]), "truncated WebP"),
    "webp damaged": Bad(
        written("a.webp", encoded(Image.fromarray(noise()), "WEBP").replace(b"VP8 ", b"VP9 ")),
        "is a WebP that cannot be read"
    ),
    "webp huge": Bad(written("a.webp", large_webp()), "has 16383x16383 pixels"),
    "gif cut": Bad(written("a.gif", encoded(paletted(), "GIF")[:-20]), "truncated GIF"),
    "gif huge": Bad(written("a.gif", of_screen(encoded(paletted(), "GIF"), 65535)), "has 65535x65535 pixels"),
    "gif of a huge frame": Bad(
        written("a.gif", b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + b"," + bytes(4) + b"\xff" * 4 + b"\0\2\1\0\0;"),
        "has 65535x65535 pixels"
    ),
    "bmp of no pixels": Bad(
        written("a.bmp", top_down_bmp()[:18] + bytes(8) + top_down_bmp()[26:]), "is a BMP that cannot be read"
    ),
    "bmp cut": Bad(written("a.bmp", top_down_bmp()[:500]), "truncated BMP"),
    "bmp packed, cut": Bad(written("a.bmp", rle_bmp()[:-60]), "is a BMP that cannot be read|truncated BMP"),
    "tiff cut": Bad(written("a.tif", encoded(Image.fromarray(RGB), "TIFF", compression="tiff_lzw")[:200]), "TIFF"),
    "tiff huge": Bad(written("a.tif", tiff_of(GREY, 1, tags={256: 50_000, 257: 50_000})), "has 50000x50000 pixels"),
    "tiff floats": Bad(saved(Image.fromarray(GREY / np.float32(255)), "TIFF"), "signed or floating-point numbers.*PNG"),
    "tiff of 32 bits": Bad(
        written("a.tif", tiff_of(GREY.astype("<u4"), 1, 32)), "is a TIFF of 32 bits a channel, expected 1 to 8, or 16"
    ),
    "tiff signed": Bad(written("a.tif", tiff_of(GREY, 1, tags={339: 2})), "signed or floating-point"),
    "tiff of 12 bits": Bad(written("a.tif", tiff_of(np.dstack([GREY, GREY])[..., :1], 1, 12)), "is a TIFF of 12 bits"),
    "tiff of five inks": Bad(written("a.tif", tiff_of(np.dstack([CMYK, GREY]), 9)), "TIFF that cannot be read"),
    "pfm": Bad(saved(Image.fromarray(GREY / np.float32(255)), "PPM"), "holds 32 bits a channel"),
    "ppm cut": Bad(written("a.ppm", encoded(Image.fromarray(RGB), "PPM")[:-9]), "truncated PPM"),
}  # fmt: skip
