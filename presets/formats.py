"""The formats that a video is written in, by name, and the names that their files have.

Checks, default names, help and docs read the table here; `engine.output.encoders` says how each is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from msgspec import structs

if TYPE_CHECKING:
    from presets.spec import OutputSpec

AUTO = "auto"
DEFAULT = "h264"


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """ending: of the names of its files. max_fps: frames a second that players show."""

    ending: str
    description: str
    max_fps: int = 120


# The first of several with one ending is the one that the ending stands for.
FORMATS = {
    "h264": VideoFormat(".mp4", "H.264, 8 bits: plays everywhere"),
    "h265": VideoFormat(".mp4", "H.265, 10 bits: smaller, no bands in smooth colours"),
    "av1": VideoFormat(".mp4", "AV1, 10 bits: smallest, for players of today"),
    "x264rgb": VideoFormat(".mp4", "H.264 of RGB, lossless: for editors, few players show it"),
    "webm": VideoFormat(".webm", "AV1, 10 bits, in WebM: for web pages"),
    "ffv1": VideoFormat(".mkv", "FFV1 of RGB, lossless: for archives and further work"),
    "gif": VideoFormat(".gif", "GIF, 256 colours, loops", max_fps=50),
    "webp": VideoFormat(".webp", "WebP, 8 bits, loops"),
}
ENDINGS = tuple(dict.fromkeys(each.ending for each in FORMATS.values()))


def named_by(path: str) -> str:
    """The format that the ending of a path stands for; "" where it stands for none."""
    ending = PurePath(path).suffix.lower()
    return next((name for name, each in FORMATS.items() if each.ending == ending), "")


def format_of(output: OutputSpec) -> str:
    """The name of the format of an output's video."""
    return (named_by(output.path) or DEFAULT) if output.format == AUTO else output.format


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


def moved(output: OutputSpec, path: str) -> OutputSpec:
    """An output at another path, "" for one that is named later; it keeps its format unless that path names another."""
    name = format_of(output)
    if path:
        name = AUTO if output.format == AUTO or misfit(name, path) else name
    return structs.replace(output, path=path, format=AUTO if name == DEFAULT else name)


def of_branch(before: OutputSpec, after: OutputSpec, path: str = "") -> OutputSpec:
    """The output of a branch. before: its parent's; after: what its settings make of that; path: one that was given.
    It never takes its parent's path, and has its parent's format where nothing names another."""
    if not path and after.path != before.path:
        return after
    if after.format != before.format:
        return structs.replace(after, path=path)
    return moved(after, path)


def choice_of_endings() -> str:
    """The endings in words."""
    return f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
