"""The examples run as they stand, from any folder."""

from __future__ import annotations

import runpy
from pathlib import Path

import imageio_ffmpeg
import pytest

ROOT = Path(__file__).parents[2]


def test_basic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / "basic.py"), run_name="__main__")
    assert capsys.readouterr().out.strip() == "star.mp4"
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "star.mp4"))[0] == 17
