"""Pictures and clips that somebody gives, for people: what a file is, what becomes of it, and a look at it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from engine.errors import EngineError
from presets.errors import PresetError
from presets.library.loading import load_preset
from presets.settings.by_key import changed_keys, settings_of
from presets.spec.pictures import ClipSpec, PictureSpec
from presets.tasks import PICTURES
from tui.describe.inputs import file_name, inputs_of, strength_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from presets.spec.run import RunSpec
    from store.index.index import Index

Kind = Literal["picture", "clip", "file"]

# By the endings that people give them; what is in a file is looked at when it is read.
PICTURE_ENDINGS = frozenset(
    {
        *(".png", ".jpg", ".jpeg", ".jpe", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    }
)
CLIP_ENDINGS = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".webp", ".mpg", ".mpeg"),
        *(".ts", ".m2ts", ".flv", ".ogv", ".wmv", ".asf", ".y4m"),
    }
)
UNREAD_ENDINGS = frozenset(
    {".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd", ".exr", ".dng", ".cr2", ".nef", ".arw"}
)
"""Pictures, too, for people; what is done about them is said where they are read."""
_LARGEST = 384
"""Pixels a side of what is shown of a picture."""
_CLIP_SIDE, _CLIP_FRAMES = 128, 81


@dataclass(frozen=True, slots=True)
class Pixels:
    """uint8 RGB frames, each row by row."""

    num_frames: int
    height: int
    width: int
    pixels: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Look:
    """lines: what it is and what becomes of it. fps: at which its frames play, 0 for a picture. pixels: None where
    there is nothing to be seen."""

    lines: tuple[str, ...] = ()
    pixels: Pixels | None = None
    fps: float = 0.0


def endings_of(kind: Kind) -> frozenset[str]:
    """Of the files that fit; empty for any."""
    return {"picture": PICTURE_ENDINGS, "clip": CLIP_ENDINGS, "file": frozenset[str]()}[kind]


def kind_of(path: Path) -> Literal["picture", "clip", ""]:
    """What a file is by its ending; an animation in a GIF is a clip, a WebP is a picture."""
    ending = path.suffix.lower()
    if ending in UNREAD_ENDINGS or (ending in PICTURE_ENDINGS and ending != ".gif"):
        return "picture"
    return "clip" if ending in CLIP_ENDINGS else ""


def field_for(spec: RunSpec, kind: Literal["picture", "clip"]) -> str:
    """The name of the setting that such a file is for: the first picture, then the last one; "" for none."""
    if kind == "clip":
        return "video"
    names = PICTURES[spec.task]
    return next((name for name in names if not getattr(spec, name).path), names[0] if names else "")


def is_shown(spec: RunSpec, key: str) -> bool:
    """Whether a run's task has a use for a setting of what is given: the path, and the rest once there is one."""
    name, _, part = key.partition(".")
    path = getattr(spec, name).path
    is_taken = name == "video" or name in PICTURES[spec.task]
    return bool(path) or (is_taken and part == "path")


def about_given(spec: RunSpec) -> str:
    """What a run can begin from, in a line; "" where it begins from something."""
    if inputs_of(spec):
        return ""
    if not PICTURES[spec.task]:
        return "A video to begin from; presets of image to video take pictures."
    if "last_image" in PICTURES[spec.task]:
        return "The first picture of the video, and the last one."
    return "The first picture of the video."


def given_told(spec: RunSpec) -> str:
    """The names of the files, in a few words."""
    return ", ".join(map(file_name, inputs_of(spec).values())) or "none"


def picture_preset(spec: RunSpec) -> str:
    """The preset that makes a video from a picture with the models of a run's family."""
    if spec.components.denoiser.checkpoint.startswith("builtin:micro"):
        return "micro-i2v"
    is_large = spec.width * spec.height > 600_000
    return "wan2.1-i2v-14b-720p" if is_large else "wan2.1-i2v-14b-480p"


def continued(spec: RunSpec, preset: str, frame: Path) -> tuple[RunSpec, str]:
    """The run that begins with the last frame of another one, and its preset: that one's own where it takes a picture,
    else one of pictures, with what was changed of how that one was sampled. Raises PresetError where the preset cannot
    be read."""
    if PICTURES[spec.task]:
        base = msgspec.structs.replace(
            spec,
            output=msgspec.structs.replace(spec.output, path=""),
            last_image=PictureSpec(),
            video=ClipSpec(),
        )
    else:
        own, preset = preset, picture_preset(spec)
        names = ("prompt", "seed", "width", "height", "frames", "fps")
        values = {name: getattr(spec, name) for name in names}
        base = load_preset(preset, values={**values, **_sampling_changes(spec, own)})
    return msgspec.structs.replace(base, image=PictureSpec(path=str(frame))), preset


def _sampling_changes(spec: RunSpec, preset: str) -> dict[str, object]:
    """What a run has of its own in how it is sampled, by key; nothing where its preset is gone."""
    try:
        before = load_preset(preset)
    except PresetError:
        return {}
    settings = settings_of(spec)
    of_sampling = ("negative_prompt", "scheduler.", "guidance.")
    changed = [key for key in changed_keys(before, spec) if key in settings]
    return {key: settings[key] for key in changed if key.startswith(of_sampling)}


def look_at(spec: RunSpec, name: str, index: Index | None = None) -> Look:
    """What is given under a name. One whose file is gone, or cannot be read, is what the store knows of it, if
    anything: what is wrong with it is told where the run is planned. index: the store's own."""
    given = getattr(spec, name)
    if not given.path:
        return Look()
    path = Path(os.path.abspath(os.path.expanduser(given.path)))
    try:
        facts = os.stat(path)
        known = (facts.st_size, facts.st_mtime_ns, facts.st_ino)
        if name != "video":
            return _picture(path, given.background, known, _wanted(spec), spec.max_area)
        look = _clip(path, known, _wanted(spec), spec.fps, spec.frames, spec.max_area)
        return replace(look, lines=(*look.lines, *_strength(spec)))
    except (OSError, ValueError, EngineError):
        return _stored(spec, name, index)


def _strength(spec: RunSpec) -> Iterator[str]:
    try:
        yield strength_line(spec)
    except PresetError:  # told with its field
        return


def _wanted(spec: RunSpec) -> tuple[int, int]:
    return spec.width, spec.height


def look_at_file(path: Path, kind: Kind) -> Look:
    """A file by itself. Raises InputError."""
    facts = os.stat(path)
    known = (facts.st_size, facts.st_mtime_ns, facts.st_ino)
    if kind == "picture":
        return _picture(path, "#000000", known, None, 0)
    return _clip(path, known, None, 8, 33, 0)


@lru_cache(8)
def _picture(
    path: Path, background: str, known: object, wanted: tuple[int, int] | None, area: int
) -> Look:
    """known: what changes with the file."""
    width, height, pixels, notes = _small_picture(path, background, known)
    told = _becoming((width, height), wanted, area)
    return Look((f"{width}x{height}", *notes, *told), pixels)


@lru_cache(8)
def _small_picture(
    path: Path, background: str, known: object
) -> tuple[int, int, Pixels, tuple[str, ...]]:
    from PIL import Image

    from engine.inputs.pictures.reading import read_picture

    picture = read_picture(path, background)
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.rgb)
    image.thumbnail((_LARGEST, _LARGEST))
    small = Pixels(1, image.height, image.width, image.tobytes())
    return picture.width, picture.height, small, picture.notes


@lru_cache(8)
def _clip(
    path: Path, known: object, wanted: tuple[int, int] | None, fps: int, frames: int, area: int
) -> Look:
    from engine.inputs.clips.reading import examine_clip, read_clip

    facts = examine_clip(path)
    scale = min(1.0, _CLIP_SIDE / max(facts.width, facts.height))
    width, height = max(1, round(facts.width * scale)), max(1, round(facts.height * scale))
    read, resampled = read_clip(
        path, fps=fps, frames=frames, width=width, height=height, fit="stretch"
    )
    seconds = f"{facts.seconds:.1f} s" if facts.seconds else ""
    rate = f"{facts.fps:g} frames a second" if facts.fps else ""
    lines = [", ".join(filter(None, (f"{facts.width}x{facts.height}", rate, seconds)))]
    if wanted is not None:
        lines += [f"{len(read)} frames of it at {fps} a second", *resampled.notes]
        lines += _becoming((facts.width, facts.height), wanted, area, is_clip=True)
    else:
        lines += facts.notes
    shown = read[:_CLIP_FRAMES]
    return Look(tuple(lines), Pixels(len(shown), height, width, shown.tobytes()), float(fps))


def _becoming(
    given: tuple[int, int], wanted: tuple[int, int] | None, area: int, *, is_clip: bool = False
) -> Iterator[str]:
    """What is cut or scaled, and the size that the video gets."""
    from engine.inputs.sizes import fitting, size_of

    if wanted is None:
        return
    size = wanted
    if not all(wanted):
        size = size_of(*wanted, given, area, key="image.path")
        yield f"the video gets {size[0]}x{size[1]}"
    if fits := fitting(given, size, 0 if is_clip else area):
        yield fits


def _stored(spec: RunSpec, name: str, index: Index | None) -> Look:
    """What a run that had it stored of it."""
    from engine.graph import key_of
    from engine.tasks.wan import picture_node
    from store.index.previews import get_preview

    given = getattr(spec, name)
    if index is None or not given.digest or name == "video":
        return Look()
    preview = get_preview(index, key_of(picture_node(spec, name), {}, None))
    if preview is None:
        return Look()
    pixels = Pixels(preview.num_frames, preview.height, preview.width, preview.pixels)
    return Look(("its file is gone; the store has the picture",), pixels)
