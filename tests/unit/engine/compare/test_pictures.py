"""The side-by-side video and the contact sheet, decoded again: what is where, and that nothing is overwritten."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.compare.frames import Frame, read_frames
from engine.compare.pictures import ACCENTS, PAPER, Clip, write_sheet, write_side_by_side
from engine.compare.similarity import similarity
from engine.errors import EngineError
from engine.output.media import encode_video
from tests.stores.recorded_runs import wave

RUN_A, RUN_B = "aaaaaaaaaa", "bbbbbbbbbb"


def clip(folder: Path, run: str, *shape: int, phase: float = 0.0, **facts: object) -> Clip:
    path = folder / run
    path.write_bytes(encode_video([wave(*shape, phase=phase)], fps=8, size=shape[1:], comment=""))
    return Clip(run, path, **facts)


def pixels(frame: Frame) -> np.ndarray:
    return np.frombuffer(frame.pixels, np.uint8).reshape(frame.height, frame.width, 3).astype(int)


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Of text: its strokes are thin, and a codec blurs them."""
    return bool((np.abs(picture - colour).max(axis=-1) < 60).any())


def test_side_by_side(tmp_path):
    a, b = clip(tmp_path, RUN_A, 5, 64, 64), clip(tmp_path, RUN_B, 5, 64, 64, phase=1.0)
    path = tmp_path / "both.mp4"
    write_side_by_side(path, a, b, fps=8)
    found = [pixels(frame) for frame in read_frames(path)]
    assert len(found) == 5
    height, width, _ = found[0].shape
    assert width == 2 * 256 + 10
    for picture, *sides in zip(found, read_frames(a.path), read_frames(b.path), strict=True):
        for left, side in zip((0, width - 256), sides, strict=True):
            panel = picture[height - 256 :, left : left + 256]
            enlarged = pixels(side).repeat(4, axis=0).repeat(4, axis=1)
            assert np.abs(panel - enlarged)[2:-2].mean() < 4
    top = found[0][: height - 260]
    assert has_colour(top[:, :250], ACCENTS[0])
    assert not has_colour(top[:, :250], ACCENTS[1])
    assert has_colour(top[:, 270:], ACCENTS[1])


def test_the_shorter_one_stands_still_and_sizes_may_differ(tmp_path):
    a, b = clip(tmp_path, RUN_A, 2, 64, 64), clip(tmp_path, RUN_B, 5, 32, 96)
    path = tmp_path / "both.mp4"
    write_side_by_side(path, a, b, fps=8)
    found = [pixels(frame) for frame in read_frames(path)]
    assert len(found) == 5
    assert found[0].shape[1] == 256 + 10 + 288
    left = [picture[-200:, :250] for picture in found]
    assert np.abs(left[1] - left[4]).mean() < 2 < np.abs(left[0] - left[1]).mean()


def test_a_large_video_is_not_enlarged(tmp_path):
    a, b = clip(tmp_path, RUN_A, 1, 272, 400), clip(tmp_path, RUN_B, 1, 272, 400)
    write_side_by_side(tmp_path / "both.mp4", a, b, fps=8)
    (found,) = read_frames(tmp_path / "both.mp4")
    assert found.width == 810
    assert 272 < found.height < 350


def test_the_sheet(tmp_path):
    a, b = clip(tmp_path, RUN_A, 17, 64, 64), clip(tmp_path, RUN_B, 17, 64, 64, phase=0.1)
    told = similarity(read_frames(a.path), read_frames(b.path))
    path = tmp_path / "sheet.png"
    write_sheet(path, a, b, told)
    sheet = np.asarray(Image.open(path)).astype(int)
    assert tuple(sheet[0, 0]) == PAPER
    frames = [[pixels(frame) for frame in read_frames(each.path)] for each in (a, b)]
    moments = [0, 2, 5, 7, 9, 11, 14, 16]  # eight of seventeen, the first and the last among them
    for row, each in enumerate(frames):
        for column, moment in enumerate(moments):
            left, top = 16 + 176 + column * 138, 16 + row * (128 + 27)
            enlarged = each[moment].repeat(2, axis=0).repeat(2, axis=1)
            assert np.array_equal(sheet[top : top + 128, left : left + 128], enlarged)
    difference = np.abs(frames[0][0] - frames[1][0])
    cell = sheet[16 + 2 * 155 : 16 + 2 * 155 + 128 : 2, 192 : 192 + 128 : 2]
    gains = cell[difference == difference.max()] / difference.max()
    gain = int(gains.max())
    assert gain in (2, 4, 8, 16)
    assert np.array_equal(cell, np.minimum(255, difference * gain))


def test_equal_videos_have_black_differences(tmp_path):
    a, b = clip(tmp_path, RUN_A, 3, 64, 64), clip(tmp_path, RUN_B, 3, 64, 64)
    told = similarity(read_frames(a.path), read_frames(b.path))
    write_sheet(tmp_path / "sheet.png", a, b, told)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert not sheet[16 + 2 * 155 : 16 + 2 * 155 + 128, 192 : 192 + 128].any()


def test_without_similarity_there_is_no_difference(tmp_path):
    a, b = clip(tmp_path, RUN_A, 1, 64, 64), clip(tmp_path, RUN_B, 9, 64, 64)
    write_sheet(tmp_path / "sheet.png", a, b, None)
    width, height = Image.open(tmp_path / "sheet.png").size
    assert height == 2 * 16 + 2 * 155 - 10
    assert width == 16 + 176 + 8 * 138 - 10 + 16  # of the longer one


@pytest.mark.parametrize("shape", [(1, 480, 832), (1, 832, 480), (1, 16, 256), (1, 256, 16)])
def test_every_shape_has_its_place(tmp_path, shape):
    a, b = clip(tmp_path, RUN_A, *shape), clip(tmp_path, RUN_B, *shape)
    told = similarity(read_frames(a.path), read_frames(b.path))
    write_sheet(tmp_path / "sheet.png", a, b, told)
    write_side_by_side(tmp_path / "both.mp4", a, b, fps=1)
    assert Image.open(tmp_path / "sheet.png").width >= 16 + 176 + 112 + 16
    (found,) = read_frames(tmp_path / "both.mp4")
    assert found.width >= 2 * 256 + 10


def test_a_long_caption_stays_beside_its_row(tmp_path):
    captions = ["prompt: " + "very " * 200, "unbroken" * 40]
    a = clip(tmp_path, RUN_A, 1, 64, 64, captions=captions)
    b = clip(tmp_path, RUN_B, 1, 64, 64)
    write_sheet(tmp_path / "sheet.png", a, b, None)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    assert (sheet[:, 182:192] == 255).all()  # the gap before the pictures
    assert (sheet[158:171, :182] == 255).all()  # that between the rows


@pytest.mark.parametrize("name", ["both.mp4", "sheet.png"])
def test_nothing_is_overwritten(tmp_path, name):
    a, b = clip(tmp_path, RUN_A, 1, 64, 64), clip(tmp_path, RUN_B, 1, 64, 64)
    path = tmp_path / name
    path.write_bytes(b"mine")
    write = (
        partial(write_side_by_side, fps=8)
        if path.suffix == ".mp4"
        else partial(write_sheet, similarity=None)
    )
    with pytest.raises(EngineError, match="is there already; nothing is overwritten"):
        write(path, a, b)
    assert path.read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == [RUN_A, RUN_B, name]


def test_a_failing_encoder_leaves_nothing(tmp_path, monkeypatch):
    a, b = clip(tmp_path, RUN_A, 9, 64, 64), clip(tmp_path, RUN_B, 9, 64, 64)
    frames = list(read_frames(a.path))
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho 'no room on the tape' >&2; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr("engine.compare.pictures.read_frames", lambda path: iter(frames))
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    with pytest.raises(EngineError, match="ffmpeg could not encode the video: no room on the tape"):
        write_side_by_side(tmp_path / "both.mp4", a, b, fps=8)
    assert sorted(os.listdir(tmp_path)) == [RUN_A, RUN_B, "ffmpeg"]


def test_a_damaged_video_leaves_nothing(tmp_path):
    a, b = clip(tmp_path, RUN_A, 17, 64, 64), clip(tmp_path, RUN_B, 17, 64, 64)
    b.path.write_bytes(b.path.read_bytes()[:4000])
    with pytest.raises(EngineError, match="ffmpeg could not read"):
        write_side_by_side(tmp_path / "both.mp4", a, b, fps=8)
    assert sorted(os.listdir(tmp_path)) == [RUN_A, RUN_B]


def test_a_folder_that_is_not_there(tmp_path):
    a, b = clip(tmp_path, RUN_A, 1, 64, 64), clip(tmp_path, RUN_B, 1, 64, 64)
    with pytest.raises(EngineError, match=r"cannot write .*: No such file or directory"):
        write_sheet(tmp_path / "gone" / "sheet.png", a, b, None)
