"""The examples run as they stand, from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg

ROOT = Path(__file__).parents[2]


def test_basic(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "basic.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "star.mp4"
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "star.mp4"))[0] == 17
