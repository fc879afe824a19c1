"""Reads videos that may come from elsewhere. Torch-free.

By the first bytes of a file one reader is chosen; no other is let at it, and it may open no other file.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from engine.output.ffmpeg import program
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
    """The comment in the metadata of a video; "" where there is none, or no video. Raises ComponentError."""
    kind = container(path)
    if kind in ("gif", "webp"):
        return _comment_of_image(path, kind.upper())
    return _comment_of_video(path) if kind else ""


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
