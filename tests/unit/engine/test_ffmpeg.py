"""An ffmpeg that does not work is told before anything is computed, in words."""

from __future__ import annotations

import os
from pathlib import Path

import imageio_ffmpeg
import pytest

from engine.errors import ComponentError
from engine.output import ffmpeg


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a file in the place of ffmpeg."""

    def write(text: str, mode: int = 0o700) -> Path:
        path = tmp_path / "ffmpeg"
        path.write_text(text)
        path.chmod(mode)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))
        return path

    return write


def test_the_one_that_is_installed_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    ffmpeg.check()
    assert os.access(ffmpeg.program(), os.X_OK) or ffmpeg.program() == "ffmpeg"
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", ffmpeg.program())
    ffmpeg.check()


@pytest.mark.parametrize("path", ["/nonexistent", "/dev/null", "/tmp", "no-such-program"])
def test_what_is_no_program_is_named_with_what_to_do(monkeypatch, path: str) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", path)
    for ask in (ffmpeg.program, ffmpeg.check):
        with pytest.raises(ComponentError, match=f"is no program at {path}; unset IMAGEIO_FFMPEG"):
            ask()


def test_a_program_that_may_not_be_started(chosen) -> None:
    chosen("#!/bin/sh\n", mode=0o600)
    with pytest.raises(ComponentError, match="is no program at"):
        ffmpeg.check()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#!/bin/sh\nexit 127\n", "exit status 127"),
        ("#!/no/such/shell\n", "No such file or directory"),
        ("\x7fELF of another machine", "Exec format error"),
    ],
)
def test_a_program_that_does_not_start(chosen, text: str, reason: str) -> None:
    path = chosen(text)
    with pytest.raises(ComponentError, match=f"cannot be started \\({path}: {reason}\\); unset"):
        ffmpeg.check()


def test_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    monkeypatch.setattr(imageio_ffmpeg._utils, "_get_ffmpeg_exe", lambda: None)
    with pytest.raises(ComponentError, match="there is no ffmpeg"):
        ffmpeg.check()
