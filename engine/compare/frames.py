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

# even numbers of rows and columns are nobody's concern here, and averages are what a smaller picture is
_IN_PROPORTION = "force_original_aspect_ratio=decrease:flags=area"


class Frame(NamedTuple):
    """pixels: RGB, 8 bits a channel, row by row."""

    width: int
    height: int
    pixels: bytes


def read_frames(path: Path, within: tuple[int, int] | None = None) -> Iterator[Frame]:
    """Every frame of a video, whatever its times say. within: columns and rows that they are to fit into, enlarged or
    made smaller in proportion. Raises EngineError where it cannot be read."""
    if container(path) == "webp":
        return _read_webp(path, within)
    return _read_video(path, within)


def _read_webp(path: Path, within: tuple[int, int] | None) -> Iterator[Frame]:
    from PIL import Image, ImageSequence

    try:
        with Image.open(path, formats=["WEBP"]) as image:
            if max(image.size) > MAX_SIDE:
                raise EngineError(f"{path} is larger than {MAX_SIDE} pixels: {image.size}")
            for picture in ImageSequence.Iterator(image):
                shown = picture.convert("RGB")
                if within is not None:
                    shown = shown.resize(_fitted(shown.size, within), Image.Resampling.BOX)
                yield Frame(*shown.size, shown.tobytes())
    except (OSError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise EngineError(f"Pillow could not read {path}: {error}") from error


def _fitted(size: tuple[int, int], within: tuple[int, int]) -> tuple[int, int]:
    scale = min(within[0] / size[0], within[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _read_video(path: Path, within: tuple[int, int] | None) -> Iterator[Frame]:
    scaled = [] if within is None else ["-vf", f"scale={within[0]}:{within[1]}:{_IN_PROPORTION}"]
    command = [
        program(), "-hide_banner", "-loglevel", "error", "-nostdin", "-xerror", *ffmpeg_input(path),
        "-map", "0:v:0", "-fps_mode", "passthrough", *scaled, *_TO_RGB, "-c:v", "ppm", "-f", "image2pipe", "pipe:1",
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
