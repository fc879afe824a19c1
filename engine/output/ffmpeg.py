"""The program that writes and reads videos. Torch-free."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from engine.errors import ComponentError

_ANSWER_SECONDS = 30.0
_MAX_METADATA_BYTES = 1 << 20
_MEND = "`pip install --force-reinstall imageio-ffmpeg` brings one"


def program() -> str:
    """The ffmpeg to start: what IMAGEIO_FFMPEG_EXE names, or the one that imageio-ffmpeg brings or finds. Raises
    ComponentError where that is no program."""
    import imageio_ffmpeg

    try:
        found: str = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise ComponentError(f"there is no ffmpeg, which writes videos; {_MEND}") from None
    if shutil.which(found) is None:
        raise ComponentError(f"ffmpeg, which writes videos, is no program at {found}; {_mend()}")
    return found


def chosen() -> str:
    """What IMAGEIO_FFMPEG_EXE names, "" where that is not set."""
    return os.environ.get("IMAGEIO_FFMPEG_EXE", "")


def check() -> None:
    """Start ffmpeg, which takes some hundredths of a second. Raises ComponentError where it does not work."""
    command = [program(), "-version"]
    if not chosen():
        return  # the library has started it to find it
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_SECONDS
        )
        reason = f"exit status {ended.returncode}" if ended.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or f"no answer in {_ANSWER_SECONDS:.0f} s"
    if reason:
        raise ComponentError(
            f"ffmpeg, which writes videos, cannot be started ({command[0]}: {reason}); {_mend()}"
        )


def comment_of(path: Path) -> str:
    """The comment in the metadata of an mp4; "" where there is none, or no mp4. Raises ComponentError.

    Only ffmpeg's reader of mp4 is let at it, and it may open no other file: the video may come from elsewhere.
    """
    command = [
        program(), "-hide_banner", "-loglevel", "quiet", "-nostdin", "-protocol_whitelist", "file", "-f", "mov",
        "-i", f"file:{path.absolute()}", "-f", "ffmetadata", "pipe:1",
    ]  # fmt: skip
    reader = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with reader:
        assert reader.stdout is not None
        data = reader.stdout.read(_MAX_METADATA_BYTES)
        reader.kill()
    told = re.search(rb"^comment=((?:[^\\\n]|\\.)*)", data, re.MULTILINE | re.DOTALL)
    if told is None:
        return ""
    return re.sub(rb"\\(.)", rb"\1", told[1], flags=re.DOTALL).decode("utf-8", "replace")


def _mend() -> str:
    return "unset IMAGEIO_FFMPEG_EXE, or correct it" if chosen() else _MEND
