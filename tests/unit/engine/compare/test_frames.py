"""Frames as another reader decodes them; PSNR and SSIM against closed forms and independent implementations."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import psutil
import pytest
import torch
from scipy.ndimage import gaussian_filter

from engine.compare.frames import Frame, read_frames
from engine.compare.similarity import psnr, similarity, ssim
from engine.errors import EngineError
from engine.output.media import encode_video
from tests.stores.recorded_runs import wave


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "a blob: 01"  # as a blob it has no suffix, and a colon is no protocol
    path.write_bytes(encode_video([wave(9, 48, 80)], fps=8, size=(48, 80), comment=""))
    return path


def frame(pixels: np.ndarray) -> Frame:
    height, width, _ = pixels.shape
    return Frame(width, height, pixels.astype(np.uint8).tobytes())


def grey(value: int, size: tuple[int, int] = (32, 48)) -> Frame:
    return frame(np.full((*size, 3), value))


# Reading


def test_frames_as_another_reader_has_them(video):
    flags = ["-sws_flags", "bicubic+accurate_rnd+full_chroma_int"]
    reader = imageio_ffmpeg.read_frames(str(video), output_params=flags)
    assert next(reader)["size"] == (80, 48)
    assert [found.pixels for found in read_frames(video)] == [bytes(found) for found in reader]
    assert {(found.width, found.height) for found in read_frames(video)} == {(80, 48)}


@pytest.mark.parametrize(
    ("within", "size"), [((40, 40), (40, 24)), ((20, 6), (10, 6)), ((160, 200), (160, 96))]
)
@pytest.mark.parametrize("format", ["h264", "webp", "gif"])
def test_frames_that_fit_a_screen(tmp_path, within, size, format):
    path = tmp_path / "video"
    clip = torch.full((3, 48, 80, 3), 200, dtype=torch.uint8)
    path.write_bytes(encode_video([clip], format=format, fps=8, size=(48, 80), comment=""))
    found = list(read_frames(path, within))
    assert [(each.width, each.height) for each in found] == [size] * len(found)
    assert found
    assert all(
        np.abs(np.frombuffer(each.pixels, np.uint8).astype(int) - 200).max() < 8 for each in found
    )


def test_what_is_no_video_is_refused_in_one_line(tmp_path):
    path = tmp_path / "blob"
    for data in (b"", b"not a video", wave(2, 16, 16).numpy().tobytes()):
        path.write_bytes(data)
        with pytest.raises(EngineError, match=r"ffmpeg could not read .*blob: .+") as caught:
            list(read_frames(path))
        assert "\n" not in str(caught.value)


def test_a_truncated_video_is_refused(video):
    video.write_bytes(video.read_bytes()[:-2000])
    with pytest.raises(EngineError, match="ffmpeg could not read"):
        list(read_frames(video))


def test_a_playlist_reaches_no_other_file(video, tmp_path):
    video.rename(tmp_path / "video.mp4")
    playlist = tmp_path / "list"
    playlist.write_text("ffconcat version 1.0\nfile video.mp4\n")
    with pytest.raises(EngineError, match="ffmpeg could not read"):
        list(read_frames(playlist))


def test_a_reader_that_stops_leaves_no_process(video):
    before = set(psutil.Process().children())
    frames = read_frames(video)
    next(frames)
    assert set(psutil.Process().children()) - before
    frames.close()
    assert set(psutil.Process().children()) <= before


# PSNR


def test_psnr_in_closed_form():
    assert psnr(0.0) == math.inf
    assert psnr(255**2) == 0.0
    assert psnr(1.0) == pytest.approx(48.1308, abs=1e-4)


def test_the_overall_psnr_is_of_the_mean_error():
    told = similarity([grey(100), grey(100), grey(100)], [grey(100), grey(104), grey(98)])
    assert told.psnr == (math.inf, pytest.approx(psnr(16)), pytest.approx(psnr(4)))
    assert told.psnr_overall == pytest.approx(psnr(20 / 3))


def test_psnr_is_over_all_three_channels():
    a, b = np.zeros((16, 16, 3)), np.zeros((16, 16, 3))
    b[..., 1] = 30
    assert similarity([frame(a)], [frame(b)]).psnr[0] == pytest.approx(psnr(300))


# SSIM


def pattern() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:40, 0:56].astype(float)
    a = np.floor(127.5 + 100 * np.sin(x / 5 + y / 9))
    return a, np.clip(np.floor(a * 0.8 + 20 + 15 * np.cos(x * y / 37)), 0, 255)


def test_ssim_is_that_of_scikit_image():
    """skimage.metrics.structural_similarity 0.26 with gaussian_weights, sigma 1.5 and population covariance."""
    a, b = pattern()
    assert ssim(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(
        0.8133651201542821, abs=1e-12
    )


def test_ssim_is_that_of_the_definition_on_scipys_windows():
    def windowed(picture: np.ndarray) -> np.ndarray:
        return gaussian_filter(picture, 1.5, radius=5)[5:-5, 5:-5]

    x, y = pattern()
    mean_x, mean_y = windowed(x), windowed(y)
    covariance = windowed(x * y) - mean_x * mean_y
    variances = windowed(x * x) - mean_x**2 + windowed(y * y) - mean_y**2
    c1, c2 = 2.55**2, 7.65**2
    expected = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    expected /= (mean_x**2 + mean_y**2 + c1) * (variances + c2)
    found = ssim(torch.from_numpy(x), torch.from_numpy(y))
    assert found == pytest.approx(expected.mean(), abs=1e-12)


def test_ssim_in_closed_form():
    a, b = 50.0, 200.0
    c1 = (0.01 * 255) ** 2
    flat = ssim(torch.full((20, 30), a).double(), torch.full((20, 30), b).double())
    assert flat == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-12)
    noise = torch.rand(20, 30, dtype=torch.float64) * 255
    assert ssim(noise, noise) == pytest.approx(1.0, abs=1e-12)
    assert ssim(noise, 255 - noise) < 0


def test_ssim_is_of_luma():
    """Two colours of one luma: 0.299 x 95 and 0.114 x 249 are 28.4."""
    a, b = np.zeros((16, 16, 3)), np.zeros((16, 16, 3))
    a[..., 0], b[..., 2] = 95, 249
    told = similarity([frame(a)], [frame(b)])
    assert told.ssim[0] > 0.9999
    assert told.psnr[0] < 15


# Two videos


def test_a_video_is_like_itself_and_less_like_another():
    frames = [frame(each.numpy()) for each in wave(4, 32, 48)]
    same = similarity(frames, list(frames))
    assert (same.psnr, same.ssim_mean) == ((math.inf,) * 4, pytest.approx(1.0))
    other = [frame(each.numpy()) for each in wave(4, 32, 48, phase=0.3)]
    far = [frame(each.numpy()) for each in wave(4, 32, 48, phase=1.5)]
    near, further = similarity(frames, other), similarity(frames, far)
    assert further.psnr_overall < near.psnr_overall
    assert further.ssim_mean < near.ssim_mean < 1


def test_other_sizes_and_lengths_are_said():
    with pytest.raises(EngineError, match="frames of 48x32 and of 32x48 cannot be compared"):
        similarity([grey(1)], [grey(1, (48, 32))])
    with pytest.raises(EngineError, match="videos of 3 and of 1 frames cannot be compared"):
        similarity([grey(1)] * 3, [grey(1)])
    with pytest.raises(EngineError, match="videos of 2 and of 5 frames cannot be compared"):
        similarity([grey(1)] * 2, itertools.repeat(grey(1), 5))


def test_the_number_of_threads_is_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        similarity([grey(1)], [grey(2)])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
