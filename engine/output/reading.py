"""Reads videos that may come from elsewhere. Torch-free.

By the first bytes of a file one reader is chosen; no other is let at it, and it may open no other file.
"""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path
from typing import BinaryIO

import msgspec

from engine.output.ffmpeg import program
from engine.output.marking import MARK
from store.blobs.videos import HEAD_BYTES, container_of

_MAX_METADATA_BYTES = 1 << 20
_DEMUXERS = {"mp4": "mov", "matroska": "matroska", "gif": "gif"}


def container(path: Path) -> str:
    """mp4, matroska, gif or webp; "" for what is none of them, or cannot be read."""
    try:
        with path.open("rb") as file:
            return container_of(file.read(HEAD_BYTES))
    except OSError:
        return ""


def ffmpeg_input(path: Path) -> list[str]:
    """What ffmpeg is to read, as its arguments. What is no video at all is refused as an mp4."""
    demuxer = _DEMUXERS.get(container(path), "mov")
    return ["-protocol_whitelist", "file", "-f", demuxer, "-i", f"file:{path.absolute()}"]


def comment_of(path: Path) -> str:
    """The comment in the metadata of a video or a PNG, the mark in those of a safetensors file; "" where there is none,
    or no such file. Raises ComponentError."""
    kind = container(path)
    if not kind:
        return _comment_of_other(path)
    if kind in ("gif", "webp"):
        return _comment_of_image(path, kind.upper())
    return _comment_of_video(path) if kind else ""


def _comment_of_other(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(8)
            if head == b"\x89PNG\r\n\x1a\n":
                return _comment_of_png(file)
            length = int.from_bytes(head, "little")
            if 2 <= length <= _MAX_METADATA_BYTES:
                header = msgspec.json.decode(file.read(length), type=_Header)
                return header.metadata.get(MARK, "")
    except (OSError, msgspec.MsgspecError, RecursionError, UnicodeError):
        pass
    return ""


class _Header(msgspec.Struct):
    metadata: dict[str, str] = msgspec.field(name="__metadata__", default_factory=dict)


def _comment_of_png(file: BinaryIO) -> str:
    """Its chunks before the pixels; Pillow would read those of an unbounded size too."""
    left = _MAX_METADATA_BYTES
    while True:
        size, name = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
        left -= size + 12
        if name in (b"IDAT", b"IEND", b"\0\0\0\0") or left < 0:
            return ""
        data = file.read(size)
        file.read(4)
        keyword, _, rest = data.partition(b"\0")
        if name == b"iTXt" and keyword == b"Comment" and rest[:2] == b"\0\0":
            *_, text = rest[2:].split(b"\0", 2)
            return text.decode("utf-8", "replace")


def _comment_of_image(path: Path, format: str) -> str:
    from PIL import ExifTags, Image

    try:
        with Image.open(path, formats=[format]) as image:
            if format == "GIF":
                found = image.info.get("comment", b"")
            else:
                # Pillow takes the bytes for Latin-1, which they were not
                found = str(image.getexif().get(ExifTags.Base.ImageDescription, "")).encode(
                    "latin-1"
                )
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return ""
    return bytes(found).decode("utf-8", "replace")


def _comment_of_video(path: Path) -> str:
    command = [
        program(), "-hide_banner", "-loglevel", "quiet", "-nostdin", *ffmpeg_input(path),
        "-f", "ffmetadata", "pipe:1",
    ]  # fmt: skip
    reader = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with reader:
        assert reader.stdout is not None
        data = reader.stdout.read(_MAX_METADATA_BYTES)
        reader.kill()
    told = re.search(
        rb"^comment=((?:[^\\\n]|\\.)*)", data, re.MULTILINE | re.DOTALL | re.IGNORECASE
    )
    if told is None:
        return ""
    return re.sub(rb"\\(.)", rb"\1", told[1], flags=re.DOTALL).decode("utf-8", "replace")
