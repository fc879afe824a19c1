"""Writes what a run made: an H.264 video, PNG frames, raw latents. A file appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imageio_ffmpeg
from PIL import Image
from torch import Tensor

from engine.errors import EngineError

VIDEO_QUALITY = 8  # of 10, as published


def to_uint8(video: Tensor) -> Tensor:
    """video fp32 [3,T,H,W] in [-1,1] -> uint8 [T,H,W,3]; truncated, not rounded, as published."""
    return video.clamp(-1, 1).add(1).mul(127.5).byte().permute(1, 2, 3, 0).cpu().contiguous()


def write_video(path: Path, frames: Tensor, *, fps: int, comment: str) -> None:
    """frames uint8 [T,H,W,3] -> an mp4 (H.264, yuv420p) with `comment` in its metadata.

    Raises EngineError with ffmpeg's own last line where it fails, OSError where the file cannot be placed.
    """
    _, height, width, _ = frames.shape
    with _whole(path) as part:
        writer = imageio_ffmpeg.write_frames(
            str(part),
            (width, height),
            fps=fps,
            codec="libx264",
            pix_fmt_in="rgb24",
            pix_fmt_out="yuv420p",
            quality=VIDEO_QUALITY,
            macro_block_size=2,  # yuv420p needs even sides, nothing more
            output_params=["-metadata", f"comment={comment}", "-movflags", "+faststart"],
            ffmpeg_log_level="error",
        )
        try:
            writer.send(None)
            for frame in frames:
                writer.send(frame.numpy())
        except OSError as error:
            reason = str(error).strip().splitlines()[-1:] or ["it gave no reason"]
            raise EngineError(f"ffmpeg could not write {path}: {reason[0]}") from None
        finally:
            writer.close()
        if not part.stat().st_size:
            raise EngineError(f"ffmpeg wrote nothing to {path}; is the disk full?")


def write_frames(folder: Path, frames: Tensor) -> None:
    """frames uint8 [T,H,W,3] -> `folder`/00000.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        with _whole(folder / f"{i:05d}.png") as part:
            Image.fromarray(frame.numpy()).save(part, format="PNG")


def write_bytes(path: Path, data: bytes) -> None:
    with _whole(path) as part:
        part.write_bytes(data)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place at the end, or is removed on an error."""
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(
            0o666 & ~umask
        )  # mkstemp makes it private; a result is as public as any new file
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
