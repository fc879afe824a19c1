"""The frames of a stored video, one after another, decoded by ffmpeg. Torch-free."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from engine.errors import EngineError
from engine.output.ffmpeg import program

MAX_SIDE = 16384
_HEADER_LINES = 3


class Frame(NamedTuple):
    """pixels: RGB, 8 bits a channel, row by row."""

    width: int
    height: int
    pixels: bytes


def read_frames(path: Path) -> Iterator[Frame]:
    """Every frame of an mp4, whatever its times say. Raises EngineError where it cannot be read.

    Only ffmpeg's reader of mp4 is let at it, and it may open no other file: the video may come from elsewhere.
    """
    command = [
        program(), "-hide_banner", "-loglevel", "error", "-nostdin", "-xerror",
        "-protocol_whitelist", "file", "-f", "mov", "-i", f"file:{path.absolute()}",
        "-map", "0:v:0", "-fps_mode", "passthrough", "-c:v", "ppm", "-f", "image2pipe", "pipe:1",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as errors:
        ffmpeg = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        assert ffmpeg.stdout is not None
        try:
            num_frames = 0
            while frame := _read_ppm(ffmpeg.stdout):
                yield frame
                num_frames += 1
            if ffmpeg.wait() or not num_frames:
                raise EngineError(f"ffmpeg could not read {path}: {last_line(errors, ffmpeg)}")
        finally:
            ffmpeg.stdout.close()
            with suppress(ProcessLookupError):
                ffmpeg.kill()
            ffmpeg.wait()


def last_line(errors: IO[bytes], ffmpeg: subprocess.Popen[bytes]) -> str:
    """What ffmpeg said last before it ended."""
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit status {ffmpeg.returncode}"


def _read_ppm(stream: IO[bytes]) -> Frame | None:
    """The next picture of a stream of binary PPMs; None at its end, also where that is within a picture."""
    lines = [stream.readline(64) for _ in range(_HEADER_LINES)]
    size = lines[1].split()
    if lines[0] != b"P6\n" or lines[2] != b"255\n" or len(size) != 2:
        return None
    width, height = int(size[0]), int(size[1])
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        return None
    pixels = stream.read(width * height * 3)
    return Frame(width, height, pixels) if len(pixels) == width * height * 3 else None
