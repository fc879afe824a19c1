"""Real files through the real ffmpeg: what is written is what was meant, or nothing is there."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from engine.errors import EngineError
from engine.output import media


@pytest.fixture
def frames() -> torch.Tensor:
    """uint8 [9,48,80,3]: a smooth ramp that moves, so that a codec keeps it."""
    t, y, x = torch.meshgrid(torch.arange(9), torch.arange(48), torch.arange(80), indexing="ij")
    return torch.stack([x * 3, y * 5, t * 20 + 40], dim=-1).clamp(0, 255).byte()


def test_pixels_are_truncated_as_published() -> None:
    video = torch.tensor([-1.5, -1.0, -0.001, 0.0, 0.999, 1.0, 2.0])
    pixels = media.to_uint8(video.view(1, 1, 1, 7).expand(3, 1, 1, 7))
    assert pixels.shape == (1, 1, 7, 3)
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 127, 127, 254, 255, 255]


def test_video(frames: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    media.write_video(path, frames, fps=8, comment="modiff run abc123")
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    decoded = np.stack([np.frombuffer(f, np.uint8).reshape(48, 80, 3) for f in reader])
    assert (meta["codec"], meta["pix_fmt"].split("(")[0], meta["size"]) == (
        "h264",
        "yuv420p",
        (80, 48),
    )
    assert meta["fps"] == 8
    assert decoded.shape == tuple(frames.shape)
    assert np.abs(decoded.astype(int) - frames.numpy().astype(int)).mean() < 4
    assert b"crf=10.0" in path.read_bytes()  # x264 writes its settings into the stream
    assert b"modiff run abc123" in path.read_bytes()
    assert os.listdir(tmp_path) == ["out.mp4"]


def whole_at_once(frames: torch.Tensor, path: Path) -> bytes:
    """The same video by one ffmpeg that is given all frames at once."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "80x48",
        "-r", "8", "-i", "pipe:", "-an", "-vf", "scale=out_color_matrix=bt709:out_range=tv,setparams="
        "color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv", "-c:v", "libx264", "-crf", "10",
        "-pix_fmt", "yuv420p", "-fflags", "+bitexact", "-metadata", "comment=run", "-movflags", "+faststart", str(path),
    ]  # fmt: skip
    subprocess.run(command, input=frames.numpy().tobytes(), check=True)
    return path.read_bytes()


@pytest.mark.parametrize("counts", [[9], [1, 4, 4], [1] * 9])
def test_frames_may_come_in_any_portions(frames: torch.Tensor, tmp_path: Path, counts) -> None:
    expected = whole_at_once(frames, tmp_path / "whole.mp4")
    portions = (part for part in frames.split(counts))
    assert media.encode_video(portions, fps=8, size=(48, 80), comment="run") == expected


def test_a_video_is_a_portion_of_single_frames(frames: torch.Tensor, tmp_path: Path) -> None:
    expected = media.encode_video([frames], fps=8, size=(48, 80), comment="")
    assert media.encode_video(frames, fps=8, size=(48, 80), comment="") == expected
    media.write_frames(tmp_path / "f", (part for part in frames.split([1, 4, 4])))
    assert len(os.listdir(tmp_path / "f")) == 9


def test_pixels_take_one_copy_and_leave_the_video_as_it_was() -> None:
    video = torch.randn(3, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    before = video.clone()
    expected = video.clamp(-1, 1).add(1).mul(127.5).byte().permute(1, 2, 3, 0)
    assert torch.equal(media.to_uint8(video), expected)
    assert torch.equal(video, before)
    channels_last = video[None].to(memory_format=torch.channels_last_3d)[0]
    assert torch.equal(media.to_uint8(channels_last), expected)


@pytest.fixture
def ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a shell script in the place of ffmpeg."""

    def replaced(script: str) -> None:
        program = tmp_path / "ffmpeg"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))

    return replaced


def encode(frames, size: tuple[int, int] = (48, 80)) -> bytes:
    return media.encode_video(frames, fps=8, size=size, comment="")


def test_an_encoder_that_goes_away_says_why(ffmpeg) -> None:
    ffmpeg("echo 'unknown codec' >&2; exit 3")
    asked = 0

    def portions():
        nonlocal asked
        for asked in range(1, 1000):  # noqa: B007
            yield torch.zeros(100, 48, 80, 3, dtype=torch.uint8)

    with pytest.raises(EngineError, match="ffmpeg could not encode the video: unknown codec"):
        encode(portions())
    assert asked < 999


def test_an_encoder_that_complains_a_lot_does_not_hang(ffmpeg, frames: torch.Tensor) -> None:
    ffmpeg("yes 'a complaint that fills every pipe' | head -c 2000000 >&2; cat > /dev/null; exit 1")
    with pytest.raises(EngineError, match="could not encode the video: a complaint"):
        encode([frames])


def test_what_makes_the_frames_may_fail(ffmpeg, frames: torch.Tensor, tmp_path: Path) -> None:
    ffmpeg(f"echo $$ > {tmp_path}/pid; exec cat > /dev/null")

    def portions():
        yield frames
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text().strip():
            time.sleep(0.01)
        raise BrokenPipeError("the engine on the other machine went away")

    with pytest.raises(BrokenPipeError, match="the other machine"):
        encode(portions())
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_frames_of_another_size_are_refused(frames: torch.Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"frames of shape \(9, 48, 80, 3\), expected \[t,48,64,3\]"
    ):
        encode([frames], size=(48, 64))


def test_an_image_is_a_video_of_one_frame(frames: torch.Tensor, tmp_path: Path) -> None:
    media.write_video(tmp_path / "one.mp4", frames[:1], fps=16, comment="")
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "one.mp4"))[0] == 1


def test_frames(frames: torch.Tensor, tmp_path: Path) -> None:
    media.write_frames(tmp_path / "f", frames)
    assert sorted(os.listdir(tmp_path / "f")) == [f"{i:05d}.png" for i in range(9)]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "f" / "00003.png")), frames[3].numpy())


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'no room on the tape' >&2; exit 3", "no room on the tape"),
        ('for last; do :; done; echo half > "${last#file:}"; exit 1', "exit status 1"),
        ("exit 0", "exit status 0"),
    ],
)
def test_a_failing_encoder_leaves_the_old_file(
    frames, tmp_path: Path, monkeypatch, script: str, message: str
) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"the old one")
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\ncat > /dev/null\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    with pytest.raises(EngineError, match=f"ffmpeg could not encode the video: {message}"):
        media.write_video(path, frames, fps=8, comment="")
    assert path.read_bytes() == b"the old one"
    assert sorted(os.listdir(tmp_path)) == ["ffmpeg", "out.mp4"]


def test_old_frames_go_and_other_files_stay(frames: torch.Tensor, tmp_path: Path) -> None:
    media.write_frames(tmp_path / "f", frames)
    (tmp_path / "f" / "notes.txt").write_text("mine")
    media.write_frames(tmp_path / "f", frames[:2])
    assert sorted(os.listdir(tmp_path / "f")) == ["00000.png", "00001.png", "notes.txt"]


def test_nearest_makes_a_square_of_each_pixel(frames: torch.Tensor) -> None:
    large = media.enlarged(frames, (3, "nearest"))
    expected = np.kron(frames.numpy(), np.ones((1, 3, 3, 1), np.uint8))
    assert np.array_equal(large.numpy(), expected)
    assert media.enlarged(frames, (1, "lanczos")) is frames


def test_lanczos_is_that_of_ffmpeg(frames: torch.Tensor, tmp_path: Path) -> None:
    """Two programs round otherwise, and ffmpeg's filter has other taps at the borders."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "80x48",
        "-i", "pipe:", "-vf", "scale=160:96:flags=lanczos+accurate_rnd", "-f", "rawvideo", "-pix_fmt", "rgb24", "-",
    ]  # fmt: skip
    made = subprocess.run(command, input=frames.numpy().tobytes(), capture_output=True, check=True)
    other = np.frombuffer(made.stdout, np.uint8).reshape(9, 96, 160, 3)
    large = media.enlarged(frames, (2, "lanczos")).numpy()
    inside = np.s_[:, 8:-8, 8:-8]
    assert np.abs(large[inside].astype(int) - other[inside]).max() <= 2


def test_a_video_and_its_frames_are_written_larger(frames: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "large.mkv"
    media.write_video(path, frames, format="ffv1", fps=8, scale=(2, "nearest"), comment="")
    reader = imageio_ffmpeg.read_frames(str(path))
    assert next(reader)["size"] == (160, 96)
    expected = media.enlarged(frames, (2, "nearest")).numpy()
    assert np.frombuffer(next(reader), np.uint8).tobytes() == expected[0].tobytes()
    media.write_frames(tmp_path / "shots", [frames[0]], scale=(2, "nearest"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "shots/00000.png")), expected[0])
