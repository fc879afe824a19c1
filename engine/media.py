"""Writes what a run made: an H.264 video, PNG frames, raw latents. A file appears whole or not at all. Torch-free
to import."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

VIDEO_CRF = 10  # what the published quality of 8 out of 10 means to imageio: (1 - 8/10) * 51


def to_uint8(video: Tensor) -> Tensor:
    """video fp32 [3,T,H,W] in [-1,1] -> uint8 [T,H,W,3]; truncated, not rounded, as published."""
    return video.clamp(-1, 1).add(1).mul(127.5).byte().permute(1, 2, 3, 0).cpu().contiguous()


def encode_video(frames: Tensor, *, fps: int, comment: str) -> bytes:
    """frames uint8 [T,H,W,3] -> the bytes of an mp4 (H.264, yuv420p) with `comment` in its metadata.

    Raises EngineError with ffmpeg's own last line where it fails, OSError where there is no room.
    """
    import imageio_ffmpeg

    _, height, width, _ = frames.shape
    with tempfile.TemporaryDirectory(prefix="modiff-") as folder:
        part = Path(folder) / "video.mp4"
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:",
            "-an", "-c:v", "libx264", "-crf", str(VIDEO_CRF), "-pix_fmt", "yuv420p",
            "-metadata", f"comment={comment}", "-movflags", "+faststart", str(part),
        ]  # fmt: skip
        ffmpeg = subprocess.run(command, input=frames.numpy().data.cast("B"), capture_output=True)
        if ffmpeg.returncode or not part.is_file() or not part.stat().st_size:
            lines = ffmpeg.stderr.decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"exit status {ffmpeg.returncode}"
            raise EngineError(f"ffmpeg could not encode the video: {reason}")
        return part.read_bytes()


def write_video(path: Path, frames: Tensor, *, fps: int, comment: str) -> None:
    """An mp4 of `encode_video` as a file; raises as it does, and OSError where the file cannot be placed."""
    write_bytes(path, encode_video(frames, fps=fps, comment=comment))


def write_frames(folder: Path, frames: Tensor) -> None:
    """frames uint8 [T,H,W,3] -> `folder`/00000.png and so on. Frames of an earlier run that were in the
    folder are removed, anything else in it stays."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for i, frame in enumerate(frames):
        with _whole(folder / f"{i:05d}.png") as part:
            Image.fromarray(frame.numpy()).save(part, format="PNG")
    for old in folder.glob("[0-9][0-9][0-9][0-9][0-9].png"):
        if int(old.stem) >= len(frames):
            old.unlink()


def write_bytes(path: Path, data: bytes | bytearray) -> None:
    with _whole(path) as part:
        part.write_bytes(data)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place at the end, or is removed on an error."""
    handle, name = tempfile.mkstemp(prefix=".modiff-", suffix=path.suffix, dir=path.parent)
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
