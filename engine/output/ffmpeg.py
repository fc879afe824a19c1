"""The program that encodes and decodes videos. Torch-free."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from engine.errors import ComponentError

_ANSWER_SECONDS = 30.0
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


def encoders() -> frozenset[str]:
    """The names of the encoders that it has. Raises ComponentError where it does not work."""
    return frozenset(re.findall(r"^ [A-Z.]{6} (\S+)", _told("-encoders"), re.MULTILINE))


def takes(encoder: str, pixels: str) -> bool:
    """Whether an encoder that it has takes a pixel format. Raises ComponentError where it does not work."""
    found = re.search(r"Supported pixel formats: (.*)", _told("-h", f"encoder={encoder}"))
    return found is None or pixels in found[1].split()


def _told(*arguments: str) -> str:
    """What it says when it is asked. Raises ComponentError where it does not work."""
    command = [program(), "-hide_banner", *arguments]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_SECONDS
        )
        reason = f"exit status {ended.returncode}" if ended.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or f"no answer in {_ANSWER_SECONDS:.0f} s"
    if reason:
        raise unusable(command[0], reason)
    return ended.stdout.decode(errors="replace")


def unusable(path: str, reason: str) -> ComponentError:
    return ComponentError(
        f"ffmpeg, which writes videos, cannot be started ({path}: {reason}); {_mend()}"
    )


def _mend() -> str:
    return "unset IMAGEIO_FFMPEG_EXE, or correct it" if chosen() else _MEND
