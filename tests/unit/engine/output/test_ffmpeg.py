"""An ffmpeg that does not work is told before anything is computed, in words."""

from __future__ import annotations

import os
from pathlib import Path

import imageio_ffmpeg
import pytest

from engine.errors import ComponentError
from engine.output import encoders, ffmpeg
from presets.output.formats import FORMATS


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
    encoders.check("h264")
    assert os.access(ffmpeg.program(), os.X_OK) or ffmpeg.program() == "ffmpeg"
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", ffmpeg.program())
    encoders.check("h264")


@pytest.mark.parametrize("path", ["/nonexistent", "/dev/null", "/tmp", "no-such-program"])
def test_what_is_no_program_is_named_with_what_to_do(monkeypatch, path: str) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", path)
    for ask in (ffmpeg.program, ffmpeg.encoders):
        with pytest.raises(ComponentError, match=f"is no program at {path}; unset IMAGEIO_FFMPEG"):
            ask()


def test_a_program_that_may_not_be_started(chosen) -> None:
    chosen("#!/bin/sh\n", mode=0o600)
    with pytest.raises(ComponentError, match="is no program at"):
        encoders.check("h264")


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
        encoders.check("h264")


def test_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    monkeypatch.setattr(imageio_ffmpeg._utils, "_get_ffmpeg_exe", lambda: None)
    with pytest.raises(ComponentError, match="there is no ffmpeg"):
        encoders.check("h264")


def test_it_writes_every_format() -> None:
    assert encoders.writable() == list(FORMATS)
    for name in FORMATS:
        encoders.check(name)


ENCODERS = """\
 V....D libx264              libx264 H.264 / AVC
 V....D libx265              libx265 H.265 / HEVC
 V....D gif                  GIF (Graphics Interchange Format)
"""
SMALL = f"""#!/bin/sh
case "$2" in
-encoders) cat <<END
{ENCODERS}END
;;
-h) echo "    Supported pixel formats: yuv420p pal8" ;;
esac
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ffv1", "has no ffv1, which ffv1 needs; take another output.format (h264, h265, gif, webp)"),
        ("webm", "has no libsvtav1, which webm needs; take another output.format (h264, h265, gif, webp)"),
        ("h265", "has libx265 without yuv420p10le, which h265 needs; take another output.format (h264, gif, webp)"),
    ],
)  # fmt: skip
def test_an_encoder_that_it_lacks_is_named_with_what_to_take_instead(chosen, name, words) -> None:
    path = chosen(SMALL)
    encoders.check("h264")
    encoders.check("gif")
    encoders.check("webp")
    with pytest.raises(ComponentError) as caught:
        encoders.check(name)
    assert str(caught.value).startswith(f"ffmpeg at {path} {words}")
