"""Puts a mark into the bytes of a file, whose streams stay what they are. Torch-free."""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from engine.errors import EngineError
from engine.output.encoders import last_line, with_comment
from engine.output.ffmpeg import program
from store.blobs.leavings import temporary_folder
from store.blobs.videos import container_of

MARK = "modiff"
_SPECIAL = re.compile(r"([=;#\\\n])")
_WEBM_DOCTYPE = b"\x42\x82\x84webm"
_HEAD = 64
_MAX_HEADER_BYTES = 1 << 20


def marked(
    parts: Mapping[str, bytes | bytearray], mark: str, warn: Callable[[str], None]
) -> dict[str, bytes | bytearray]:
    """The files of a run by kind (`video`, `latents`), each with its mark. Where ffmpeg cannot do that, the video stays
    as it is stored, which is told: its comment still names the latents."""
    made = dict(parts)
    if "video" in made:
        try:
            made["video"] = marked_video(made["video"], mark)
        except (EngineError, OSError) as error:  # no ffmpeg, or no room for its files
            warn(f"the video is written without the settings of its run: {error}")
    if "latents" in made:
        made["latents"] = marked_latents(made["latents"], mark)
    return made


def marked_video(data: bytes | bytearray, mark: str) -> bytes | bytearray:
    """A video with `mark` as its comment; what is no video of a format that we write stays as it is.

    Raises EngineError or ComponentError where ffmpeg cannot.
    """
    kind = container_of(bytes(data[:_HEAD]))
    if kind == "gif":
        return with_comment(bytes(data), mark)
    if kind == "webp":
        return _webp_with(bytes(data), mark)
    if kind == "mp4":
        return _remuxed(data, mark, "mov", "mp4")
    if kind == "matroska":
        is_webm = _WEBM_DOCTYPE in data[:_HEAD]
        return _remuxed(data, mark, "matroska", "webm" if is_webm else "matroska")
    return data


def marked_latents(data: bytes | bytearray, mark: str) -> bytes | bytearray:
    """A safetensors file with `mark` in its metadata; what is none stays as it is."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(_MAX_HEADER_BYTES, len(data) - 8):
        return data
    try:
        header = msgspec.json.decode(data[8 : 8 + length], type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return data
    header.pop("__metadata__", None)
    text = msgspec.json.encode({"__metadata__": {MARK: mark}, **header})
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[8 + length :]])


def _remuxed(data: bytes | bytearray, mark: str, demuxer: str, muxer: str) -> bytes:
    """The same packets in a new file. The mark comes from a file: an argument has a largest length."""
    with temporary_folder() as folder:
        video, told, made = (folder / name for name in ("video", "comment", "marked"))
        video.write_bytes(data)
        comment = _SPECIAL.sub(r"\\\1", mark)
        told.write_text(f";FFMETADATA1\ncomment={comment}\n", encoding="utf-8")
        command = [
            program(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y",
            "-protocol_whitelist", "file", "-f", demuxer, "-i", f"file:{video}",
            "-protocol_whitelist", "file", "-f", "ffmetadata", "-i", f"file:{told}",
            "-map", "0", "-map_metadata", "1", "-c", "copy", "-fflags", "+bitexact",
            *(["-movflags", "+faststart"] if muxer == "mp4" else []),
            "-f", muxer, f"file:{made}",
        ]  # fmt: skip
        with tempfile.TemporaryFile() as errors:
            ended = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
            )
            if ended.returncode or not made.is_file():
                reason = last_line(errors, ended.returncode)
                raise EngineError(f"ffmpeg could not write the comment of the video: {reason}")
        return made.read_bytes()


def _webp_with(data: bytes, mark: str) -> bytes:
    """With another EXIF chunk, which the file of a run has; Pillow would encode the frames again."""
    from PIL import ExifTags, Image

    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = mark.encode()
    told = exif.tobytes().removeprefix(b"Exif\0\0")
    pieces, place = [], 12
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        end = place + 8 + size + size % 2
        if name != b"EXIF":
            pieces.append(data[place:end])
        place = end
    pieces.append(struct.pack("<4sI", b"EXIF", len(told)) + told + b"\0" * (len(told) % 2))
    body = b"WEBP" + b"".join(pieces)
    return struct.pack("<4sI", b"RIFF", len(body)) + body
