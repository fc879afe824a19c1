"""Writes what a run made: a video, PNG frames, raw latents. A file appears whole or not at all. Torch-free
to import."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from engine.output.encoders import encode
from presets.output.formats import DEFAULT
from store.blobs.files import written_whole
from store.blobs.leavings import temporary_folder

if TYPE_CHECKING:
    from torch import Tensor


Scale = tuple[int, str]
"""How many times as large, and how: "nearest" or "lanczos"."""


def to_uint8(video: Tensor) -> Tensor:
    """video fp32 [3,T,H,W] in [-1,1], which is not changed -> uint8 [T,H,W,3] on the CPU; truncated, not rounded, as
    published. Takes one more copy of its size, so that of a long video it is given one chunk after the other."""
    pixels = video.clamp(-1, 1).add_(1).mul_(127.5).byte()
    return pixels.permute(1, 2, 3, 0).cpu().contiguous()


def enlarged(frames: Tensor, scale: Scale) -> Tensor:
    """frames uint8 [...,H,W,3] on the CPU -> [...,H*n,W*n,3]."""
    times, resample = scale
    if times == 1:
        return frames
    if resample == "nearest":
        return frames.repeat_interleave(times, -3).repeat_interleave(times, -2)
    import numpy
    import torch
    from PIL import Image

    height, width = frames.shape[-3] * times, frames.shape[-2] * times
    made = [
        numpy.asarray(
            Image.fromarray(frame.numpy()).resize((width, height), Image.Resampling.LANCZOS)
        )
        for frame in frames.reshape(-1, *frames.shape[-3:])
    ]
    return torch.from_numpy(numpy.stack(made)).reshape(*frames.shape[:-3], height, width, 3)


def encode_video(
    frames: Iterable[Tensor],
    *,
    format: str = DEFAULT,
    fps: int,
    size: tuple[int, int],
    scale: Scale = (1, "nearest"),
    comment: str,
) -> bytes:
    """The bytes of a video file with `comment` in its metadata.

    frames: uint8 [t,H,W,3] each ([H,W,3] too, so a whole video is fine), on the CPU; they are encoded as they come,
    and what making them raises is raised here. format: of `presets.output.formats.FORMATS`. size: (H, W), both even,
    of the frames as they come; scale makes them larger.
    Raises EngineError with the encoder's own last line where it fails, ValueError on frames of another size, OSError
    where there is no room.
    """
    with temporary_folder() as folder:
        part = folder / "video"
        pixels = _pixels(frames, (*size, 3), scale)
        written = (size[0] * scale[0], size[1] * scale[0])
        encode(part, pixels, format=format, size=written, fps=fps, comment=comment)
        return part.read_bytes()


def _pixels(
    frames: Iterable[Tensor], frame: tuple[int, int, int], scale: Scale
) -> Iterator[memoryview]:
    """The bytes of frames, each as `frame` says (height, width and 3), enlarged."""
    for chunk in frames:
        if tuple(chunk.shape[-3:]) != frame:
            raise ValueError(
                f"frames of shape {tuple(chunk.shape)}, expected [t,{frame[0]},{frame[1]},3]"
            )
        yield enlarged(chunk, scale).contiguous().numpy().data.cast("B")


def write_video(
    path: Path,
    frames: Tensor,
    *,
    format: str = DEFAULT,
    fps: int,
    scale: Scale = (1, "nearest"),
    comment: str,
) -> None:
    """A video of `encode_video` as a file; raises as it does, and OSError where the file cannot be placed."""
    _, height, width, _ = frames.shape
    size = (height, width)
    data = encode_video([frames], format=format, fps=fps, size=size, scale=scale, comment=comment)
    write_bytes(path, data)


def write_frames(
    folder: Path,
    frames: Iterable[Tensor],
    *,
    replaces: bool = True,
    scale: Scale = (1, "nearest"),
    comment: str = "",
) -> None:
    """frames uint8 [t,H,W,3] or [H,W,3] each -> `folder`/00000.png and so on, enlarged, as they come. Frames of an
    earlier run that were in the folder are removed at the end, anything else in it stays. comment: for each of them.
    Raises FileExistsError where there is such a folder and it may not take it."""
    folder.mkdir(exist_ok=replaces)
    count = 0
    for chunk in frames:
        for frame in chunk.reshape(-1, *chunk.shape[-3:]):
            large = enlarged(frame, scale).numpy()
            size = (large.shape[1], large.shape[0])
            with written_whole(folder / f"{count:05d}.png") as part:
                save_png(part, size, large.tobytes(), comment)
            count += 1
    for old in folder.glob("[0-9][0-9][0-9][0-9][0-9].png"):
        if int(old.stem) >= count:
            old.unlink()


def save_png(path: Path, size: tuple[int, int], pixels: bytes, comment: str) -> None:
    """size: (W, H). pixels: RGB, 8 bits a channel, row by row."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    if comment:
        about.add_itxt("Comment", comment)
    Image.frombytes("RGB", size, pixels).save(path, format="PNG", pnginfo=about)


def write_bytes(path: Path, data: bytes | bytearray, *, replaces: bool = True) -> None:
    """Raises FileExistsError where something has that name and it may not replace it, other OSErrors as they come."""
    with written_whole(path, replaces=replaces) as draft:
        draft.write_bytes(data)
