"""The frames of a stored video, one after another, decoded by ffmpeg or Pillow. Torch-free."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from engine.errors import EngineError
from engine.output.encoders import last_line
from engine.output.ffmpeg import program
from engine.output.reading import container, ffmpeg_input

MAX_SIDE = 16384
_HEADER_LINES = 3
# its shortcuts cost more than an encoder does
_TO_RGB = ("-sws_flags", "bicubic+accurate_rnd+full_chroma_int", "-pix_fmt", "rgb24")


class Frame(NamedTuple):
    """pixels: RGB, 8 bits a channel, row by row."""

    width: int
    height: int
    pixels: bytes


def read_frames(path: Path) -> Iterator[Frame]:
    """Every frame of a video, whatever its times say. Raises EngineError where it cannot be read."""
    return _read_webp(path) if container(path) == "webp" else _read_video(path)


def _read_webp(path: Path) -> Iterator[Frame]:
    from PIL import Image, ImageSequence

    try:
        with Image.open(path, formats=["WEBP"]) as image:
            if max(image.size) > MAX_SIDE:
                raise EngineError(f"{path} is larger than {MAX_SIDE} pixels: {image.size}")
            for picture in ImageSequence.Iterator(image):
                yield Frame(*picture.size, picture.convert("RGB").tobytes())
    except (OSError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise EngineError(f"Pillow could not read {path}: {error}") from error


def _read_video(path: Path) -> Iterator[Frame]:
    command = [
        program(), "-hide_banner", "-loglevel", "error", "-nostdin", "-xerror", *ffmpeg_input(path),
        "-map", "0:v:0", "-fps_mode", "passthrough", *_TO_RGB, "-c:v", "ppm", "-f", "image2pipe", "pipe:1",
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
                reason = last_line(errors, ffmpeg.returncode)
                raise EngineError(f"ffmpeg could not read {path}: {reason}")
        finally:
            ffmpeg.stdout.close()
            with suppress(ProcessLookupError):
                ffmpeg.kill()
            ffmpeg.wait()


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
