"""Pictures of every format, changed: each is read whole, or refused."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

from engine.errors import InputError
from engine.inputs.pictures.reading import read_picture
from tests.fuzz import mutating
from tests.fuzz.running import Fault
from tests.given_pictures import BAD, GOOD, chunk

_PNG = b"\x89PNG\r\n\x1a\n"
# One of each kind that Pillow may be let at; the largest has 30 kB.
_LIKE = (
    "png huge",
    "jpeg of 100 scans",
    "gif of a huge frame",
    "webp huge",
    "tiff floats",
    "pfm",
    "heic",
)
_CHUNKS = (
    b"tRNS",
    b"iCCP",
    b"eXIf",
    b"acTL",
    b"fcTL",
    b"zTXt",
    b"iTXt",
    b"PLTE",
    b"fdAT",
    b"cICP",
    b"gAMA",
)
MAX_BYTES = 40_000


def make(folder: Path) -> Callable[[Random, Path], str]:
    paths = [case.make(_new(folder)) for case in (*GOOD.values(), *(BAD[name] for name in _LIKE))]
    contents = [path.read_bytes() for path in paths if path.stat().st_size < MAX_BYTES]
    shutil.rmtree(folder)  # which is looked through after each case

    def attempt(random: Random, place: Path) -> str:
        content = random.choice(contents)
        way = random.random()
        if way < 0.1:
            return _cut(random, content, place)
        path = place / "picture"
        path.write_bytes(_changed(random, content) if way < 0.97 else random.randbytes(600))
        return _read(path)[0]

    return attempt


def _new(folder: Path) -> Path:
    place = folder / str(len(os.listdir(folder)))
    place.mkdir()
    return place


def _read(path: Path) -> tuple[str, bytes]:
    before = path.stat().st_mtime_ns, os.listdir(path.parent)
    try:
        picture = read_picture(path)
    except InputError as error:
        return str(error).replace(str(path), "It"), b""
    finally:
        if (path.stat().st_mtime_ns, os.listdir(path.parent)) != before:
            raise Fault("something was written")
    if len(picture.rgb) != 3 * picture.width * picture.height or not picture.rgb:
        raise Fault("other pixels than the size says")
    if not all(note.isprintable() and len(note) < 120 for note in picture.notes):
        raise Fault(f"a note that is not one line: {picture.notes!r:.300}")
    return "", picture.rgb


def _cut(random: Random, content: bytes, place: Path) -> str:
    """Whatever is missing at the end, the pixels that come are those of the whole file."""
    for name in ("whole", "cut"):
        (place / name).mkdir()
    whole, cut = place / "whole" / "picture", place / "cut" / "picture"
    whole.write_bytes(content)
    cut.write_bytes(content[: random.randrange(len(content))])
    reason, pixels = _read(cut)
    if pixels and pixels != _read(whole)[1]:
        raise Fault("half a picture")
    return reason


def _changed(random: Random, content: bytes) -> bytes:
    if content.startswith(_PNG) and random.random() < 0.7:
        return _of_png(random, content)
    return mutating.of_bytes(random, content, within=random.choice((0, 60, 400)))


def _of_png(random: Random, content: bytes) -> bytes:
    """Chunks that go, come, or hold something else, with sums that are right."""
    chunks, place = [], 8
    while place + 8 <= len(content):
        size, name = struct.unpack_from(">I4s", content, place)
        chunks.append((name, content[place + 8 : place + 8 + size]))
        place += 12 + size
    for _ in range(random.choice((1, 1, 2))):
        at = random.randrange(len(chunks))
        name, data = chunks[at]
        match random.randrange(7):
            case 0 if len(chunks) > 1:
                del chunks[at]
            case 1:
                chunks.insert(random.randrange(len(chunks) + 1), (name, data))
            case 2:
                other = random.choice(
                    (
                        b"tRNS",
                        b"iCCP",
                        b"eXIf",
                        b"acTL",
                        b"fcTL",
                        b"zTXt",
                        b"iTXt",
                        b"PLTE",
                        b"fdAT",
                    )
                )
                chunks.insert(
                    at, (other, random.randbytes(random.choice((0, 1, 2, 6, 8, 26, 300))))
                )
            case 3 if name in (b"IDAT", b"iCCP", b"fdAT"):
                chunks[at] = name, _packed_anew(random, data)
            case _:
                chunks[at] = name, mutating.of_bytes(random, data)
    return _PNG + b"".join(chunk(name, data) for name, data in chunks)


def _packed_anew(random: Random, data: bytes) -> bytes:
    start = data.find(b"\x78")
    try:
        held = zlib.decompress(data[start:]) if start >= 0 else b""
    except zlib.error:
        return mutating.of_bytes(random, data)
    return data[: max(0, start)] + zlib.compress(mutating.of_bytes(random, held))
