"""Videos of every format, as readers that are not ours see them: the colours, the pixels, the times, the mark."""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from engine.compare.frames import read_frames
from engine.compare.similarity import psnr
from engine.output import media
from engine.output.encoders import ENCODERS, encode
from engine.output.reading import comment_of
from presets.output.formats import FORMATS

MARK = f"modiff sha256:{'a1' * 32}"
LOSSLESS = ("ffv1", "x264rgb")
SUBSAMPLED = [name for name, each in ENCODERS.items() if each.pixels.startswith("yuv420p")]
FPS = 24
# ffmpeg's own shortcuts from YUV to RGB cost more than the encoders do
EXACT = ("-sws_flags", "bicubic+accurate_rnd+full_chroma_int")


@pytest.fixture
def noise() -> Tensor:
    """uint8 [5,48,80,3]: every pixel of its own."""
    return torch.randint(
        0, 256, (5, 48, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.fixture
def patches() -> Tensor:
    """uint8 [3,64,96,3]: patches of 32x32, each of a random colour."""
    colours = torch.randint(
        0, 256, (3, 2, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return colours.repeat_interleave(32, 1).repeat_interleave(32, 2)


def written(folder: Path, name: str, frames: Tensor, comment: str = "") -> Path:
    path = folder / f"clip{FORMATS[name].ending}"
    media.write_video(path, frames, format=name, fps=FPS, comment=comment)
    return path


def told(path: Path) -> str:
    """What ffmpeg says of a file."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, check=False).stderr.decode()


def decoded(path: Path, frames: Tensor, *filters: str, pixels: str = "rgb24") -> np.ndarray:
    """All of a video's frames as ffmpeg decodes them, uint8 [T, -1]."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), "-fps_mode", "passthrough",
        *filters, "-pix_fmt", pixels, "-f", "rawvideo", "-",
    ]  # fmt: skip
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(data, np.uint8).reshape(len(frames), -1)


def inside(frames: np.ndarray) -> np.ndarray:
    """What of `patches` lies away from their edges, where colours run at half the resolution."""
    height, width = frames.shape[1:3]
    rows, columns = (np.arange(size) % 32 for size in (height, width))
    keep = np.ix_((rows >= 8) & (rows < 24), (columns >= 8) & (columns < 24))
    return frames[:, *keep].astype(float)


def distance(found: np.ndarray, frames: Tensor) -> float:
    """PSNR in dB of the patches' insides."""
    shape = tuple(frames.shape)
    return psnr(float(((inside(found.reshape(shape)) - inside(frames.numpy())) ** 2).mean()))


def rec709(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """yuv420p of limited range [T, -1] -> RGB [T,H,W,3], by the formulas of ITU-R BT.709."""
    height, width = size
    luma = planes[:, : height * width].reshape(-1, height, width)
    chroma = planes[:, height * width :].reshape(-1, 2, height // 2, width // 2)
    blue, red = (chroma[:, i].repeat(2, 1).repeat(2, 2) for i in (0, 1))
    y, b_minus_y, r_minus_y = (
        (luma - 16) / 219,
        (blue - 128) / 224 * 1.8556,
        (red - 128) / 224 * 1.5748,
    )
    r, b = y + r_minus_y, y + b_minus_y
    g = (y - 0.2126 * r - 0.0722 * b) / 0.7152
    return np.clip(np.rint(np.stack([r, g, b], axis=-1) * 255), 0, 255)


@pytest.mark.parametrize("name", SUBSAMPLED)
def test_colours_are_tagged_and_come_back(tmp_path: Path, patches: Tensor, name: str) -> None:
    path = written(tmp_path, name, patches)
    # one word where matrix, primaries and transfer are all BT.709
    assert re.search(r"Video: .*yuv420p(10le)?\(tv, bt709, progressive\)", told(path))
    assert distance(decoded(path, patches, *EXACT), patches) >= 45
    planes = decoded(path, patches, pixels="yuv420p10le").view("<u2") / 4
    found = rec709(planes, (64, 96))
    assert distance(found, patches) >= 45


def test_a_comparison_has_the_same_colours(tmp_path: Path, patches: Tensor) -> None:
    path = tmp_path / "clip.mp4"
    frames = [frame.numpy().tobytes() for frame in patches]
    encode(path, frames, size=(64, 96), fps=8)
    assert path.read_bytes() == media.encode_video(patches, fps=8, size=(64, 96), comment="")


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_is_without_loss(tmp_path: Path, noise: Tensor, name: str) -> None:
    path = written(tmp_path, name, noise)
    assert np.array_equal(decoded(path, noise), noise.reshape(5, -1).numpy())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(5, 48, 80, 3), (1, 16, 16, 3), (2, 16, 48, 3)])
def test_every_frame_is_there_and_is_read(tmp_path: Path, noise: Tensor, name, shape) -> None:
    frames = noise[: shape[0], : shape[1], : shape[2]].contiguous()
    path = written(tmp_path, name, frames)
    found = [np.frombuffer(each.pixels, np.uint8) for each in read_frames(path)]
    assert [(each.height, each.width) for each in read_frames(path)] == [shape[1:3]] * shape[0]
    if name in LOSSLESS:
        assert np.array_equal(np.stack(found), frames.reshape(shape[0], -1).numpy())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("comment", [MARK, "", "气球; a = b\\c, 'd' " * 40])
def test_the_comment_is_in_it(tmp_path: Path, patches: Tensor, name: str, comment: str) -> None:
    path = written(tmp_path, name, patches, comment)
    assert comment_of(path) == comment
    assert len(list(read_frames(path))) == len(patches)


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_frames_are_the_same_bytes(tmp_path: Path, patches: Tensor, name: str) -> None:
    first = written(tmp_path, name, patches, MARK).read_bytes()
    assert written(tmp_path, name, patches, MARK).read_bytes() == first


@pytest.mark.parametrize("name", ["gif", "webp"])
def test_what_loops_loops_and_lasts_as_long(tmp_path: Path, patches: Tensor, name: str) -> None:
    path = written(tmp_path, name, patches.repeat(8, 1, 1, 1))
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        shown = []
        for picture in ImageSequence.Iterator(image):
            picture.load()
            shown.append(picture.info["duration"])
    assert len(shown) == 24
    assert sum(shown) == pytest.approx(1000, abs=20)
    assert all(abs(a - b) <= 10 for a, b in pairwise(shown))


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".gif", ".webp"])
@pytest.mark.parametrize("cut", [20, 200])
def test_what_ends_too_early_has_no_comment(tmp_path: Path, patches: Tensor, ending, cut) -> None:
    name = next(name for name, each in FORMATS.items() if each.ending == ending)
    path = written(tmp_path, name, patches, MARK)
    path.write_bytes(path.read_bytes()[:cut])
    assert comment_of(path) in ("", MARK)
