"""The formats that a video is written in, by name, and the names that their files have.

Checks, default names, help and docs read the table here; `engine.output.encoders` says how each is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

AUTO = "auto"
DEFAULT = "h264"


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """ending: of the names of its files. max_fps: frames a second that players show. min_width: of its frames, in
    pixels."""

    ending: str
    description: str
    max_fps: int = 120
    min_width: int = 16


# The first of several with one ending is the one that the ending stands for.
FORMATS = {
    "h264": VideoFormat(".mp4", "H.264, 8 bits: plays everywhere"),
    # libx265 writes beyond its memory at 48 pixels: it crashes there, and 16 and 32 only seem to do
    "h265": VideoFormat(
        ".mp4", "H.265, 10 bits: smaller, no bands in smooth colours", min_width=64
    ),
    "av1": VideoFormat(".mp4", "AV1, 10 bits: smallest, for players of today"),
    "x264rgb": VideoFormat(".mp4", "H.264 of RGB, lossless: for editors, few players show it"),
    "webm": VideoFormat(".webm", "AV1, 10 bits, in WebM: for web pages"),
    "ffv1": VideoFormat(".mkv", "FFV1 of RGB, lossless: for archives and further work"),
    "gif": VideoFormat(".gif", "GIF, 256 colours, loops", max_fps=50),
    "webp": VideoFormat(".webp", "WebP, 8 bits, loops"),
}
# What every one of the encoders takes.
MAX_SIDE = 8192
ENDINGS = tuple(dict.fromkeys(each.ending for each in FORMATS.values()))


def named_by(path: str) -> str:
    """The format that the ending of a path stands for; "" where it stands for none."""
    ending = PurePath(path).suffix.lower()
    return next((name for name, each in FORMATS.items() if each.ending == ending), "")


def misfit(name: str, path: str) -> str:
    """Why a format is not written to a path, with what fits; "" where it is."""
    ending = FORMATS[name].ending
    if not path or PurePath(path).suffix.lower() == ending:
        return ""
    others = [AUTO] if named_by(path) else []
    others += [
        each
        for each, about in FORMATS.items()
        if about.ending == PurePath(path).suffix.lower() and each != name
    ]
    instead = f", or take another format ({', '.join(others)})" if others else ""
    return (
        f"{name} needs a name that ends in {ending}, got {PurePath(path).name}; rename it{instead}"
    )


def choice_of_endings() -> str:
    """The endings in words."""
    return f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
