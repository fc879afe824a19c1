"""A run's pictures and clip, looked at once, when it is planned or queued: digests, and the size that they decide.

Torch-free. What was found out of a file is remembered in the store's index as long as the file stays the same.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from engine.errors import ComponentError, InputError
from engine.graph import key_of
from engine.inputs.refusal import printable
from engine.inputs.sizes import fitting, size_of
from engine.tasks.wan import picture_node
from presets.errors import PresetError
from presets.spec.values import SIZE_STEP
from presets.tasks import PICTURES
from presets.validation import validate

if TYPE_CHECKING:
    from engine.graph import Node
    from presets.spec.run import RunSpec
    from store.index.index import Index

IsStored = Callable[[str], bool]
"""Whether the result of a key is stored."""

_VERSION = 1  # of what is remembered
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class PictureFacts(msgspec.Struct, frozen=True):
    """width, height: in pixels, upright. notes: what was done to the file's pixels, for people."""

    digest: str
    width: int
    height: int
    notes: tuple[str, ...]


class ClipLength(msgspec.Struct, frozen=True):
    """frames: how many a run takes of it. notes: what became of the others."""

    frames: int
    notes: tuple[str, ...]


class ClipDigest(msgspec.Struct, frozen=True):
    digest: str


_Found = TypeVar("_Found", PictureFacts, ClipLength, ClipDigest)


@dataclass(frozen=True)
class Settled:
    """notes: lines for people on what was given and what becomes of it."""

    spec: RunSpec
    notes: tuple[str, ...] = ()


def settle(spec: RunSpec, index: Index, is_stored: IsStored) -> Settled:
    """The same run with what it begins from by absolute path and digest, and with its size.

    A picture whose digest is known already and that is stored is not looked at again, wherever its file is by now.
    Raises PresetError where what the task begins from is missing, InputError for a file that cannot be used.
    """
    notes: list[str] = []
    for name in PICTURES[spec.task]:
        spec = _with_picture(spec, name, index, is_stored, notes)
    if spec.video.path:
        spec = _with_clip(spec, index, notes)
    return Settled(validate(spec), tuple(notes))


def picture_facts(path: Path, background: str, index: Index, *, key: str) -> PictureFacts:
    """What a file holds. Raises InputError."""

    def look() -> PictureFacts:
        from engine.inputs.pictures.reading import read_picture

        picture = read_picture(path, background, key=key)
        return PictureFacts(picture.digest, picture.width, picture.height, picture.notes)

    return _remembered(path, f"picture {background}", PictureFacts, look, index)


def holds_given(spec: RunSpec, name: str, index: Index) -> bool:
    """Whether the file of a picture or a clip still is what a run was queued with. name: of the setting."""
    given, key = getattr(spec, name), f"{name}.path"
    path = Path(given.path)
    try:
        if name == "video":
            return _clip_digest(path, index, key) == given.digest
        return picture_facts(path, given.background, index, key=key).digest == given.digest
    except InputError:
        return False


def another_clip(path: Path | str) -> InputError:
    """Of a clip that is to be encoded and whose file is no longer what the run was queued with."""
    return InputError(
        f"{path} is another file now than when the run was queued; run it again to use the new one",
        key="video.path",
    )


def _clip_digest(path: Path, index: Index, key: str) -> str:
    from engine.inputs.clips.reading import clip_digest

    def look() -> ClipDigest:
        return ClipDigest(clip_digest(path, key=key))

    return _remembered(path, "file", ClipDigest, look, index).digest


def _with_picture(
    spec: RunSpec, name: str, index: Index, is_stored: IsStored, notes: list[str]
) -> RunSpec:
    picture = getattr(spec, name)
    if not picture.path:
        option = f"--{name.replace('_', '-')}"
        beside = ", beside the video" if spec.video.path else ""
        raise PresetError(
            f"is empty, and the task {spec.task} begins from a picture; give a file with {option}{beside}",
            key=f"{name}.path",
        )
    is_sized = bool(spec.width and spec.height)
    if picture.digest and is_sized and is_stored(_key(picture_node(spec, name))):
        return spec
    path = _absolute(picture.path, f"{name}.path")
    facts = picture_facts(path, picture.background, index, key=f"{name}.path")
    if picture.digest not in ("", facts.digest):
        raise InputError(
            f"{path} holds another picture than the one of this run, which is no longer stored; set {name}.path anew "
            "to take it",
            key=f"{name}.path",
        )
    settled = msgspec.structs.replace(picture, path=str(path), digest=facts.digest)
    told = "; ".join((f"{facts.width}x{facts.height}", *_maker(path), *facts.notes))
    changed: dict[str, Any] = {name: settled}
    if not is_sized:
        width, height = size_of(
            spec.width,
            spec.height,
            (facts.width, facts.height),
            spec.max_area,
            key=f"{name}.path",
        )
        changed |= {"width": width, "height": height}
        told += f"; the video gets {width}x{height}"
    elif fits := fitting((facts.width, facts.height), (spec.width, spec.height), spec.max_area):
        told += f"; {fits}"
    notes.append(f"{name}: {path.name}, {told}")
    return msgspec.structs.replace(spec, **changed)


def _with_clip(spec: RunSpec, index: Index, notes: list[str]) -> RunSpec:
    clip = spec.video
    if clip.digest and spec.width and spec.height:
        # what reads the file holds it to its digest; settings from a file of a run have its name alone
        path = _absolute(clip.path, "video.path")
        if not path.is_file():
            return spec
        named = msgspec.structs.replace(clip, path=str(path))
        return msgspec.structs.replace(spec, video=named)
    from engine.inputs.clips.reading import examine_clip, read_clip

    key = "video.path"
    path = _absolute(clip.path, key)
    about = examine_clip(path, key=key)
    digest = _clip_digest(path, index, key)

    def count() -> ClipLength:
        # as small as they get: only what is there, and what becomes of it, matters here
        frames, resampled = read_clip(
            path, fps=spec.fps, frames=spec.frames, width=SIZE_STEP, height=SIZE_STEP, key=key
        )
        return ClipLength(len(frames), resampled.notes)

    what = f"clip {spec.fps} {spec.frames}"
    length = _remembered(path, what, ClipLength, count, index)
    width, height = spec.width, spec.height
    if not (width and height):
        shown = (about.width, about.height)
        width, height = size_of(width, height, shown, spec.max_area, key=key)
    told = [f"{about.width}x{about.height}", *_maker(path)]
    frames = "1 frame" if length.frames == 1 else f"{length.frames} frames"
    told.append(f"{frames} at {spec.fps} a second")
    told += length.notes
    if fits := fitting((about.width, about.height), (width, height)):
        told.append(fits)
    notes.append(f"video: {path.name}, {'; '.join(told)}")
    return msgspec.structs.replace(
        spec,
        video=msgspec.structs.replace(clip, path=str(path), digest=digest),
        width=width,
        height=height,
        frames=length.frames,
    )


def _maker(path: Path) -> list[str]:
    """Which run wrote a file, where a mark in it says so."""
    from engine.output.mark import read_mark
    from engine.output.reading import comment_of

    try:
        mark = read_mark(comment_of(path))
    except (PresetError, ComponentError):
        return []
    return [f"made by run {mark.run}"] if mark is not None and mark.run else []


def _key(node: Node) -> str:
    return key_of(node, {}, None)


def _absolute(given: str, key: str) -> Path:
    path = Path(os.path.abspath(os.path.expanduser(given)))
    if _ADDRESS.match(given) and not path.exists():
        raise InputError(
            f"{printable(given)} is an address, expected the path of a file; download it first, and give where it is",
            key=key,
        )
    return path


def _remembered(
    path: Path, what: str, kind: type[_Found], look: Callable[[], _Found], index: Index
) -> _Found:
    """What `look` finds out of a file, or found once while the file was the same."""
    facts = _facts(path)
    place = f"given/{_VERSION}/{what}/{path}"
    if facts is not None and (known := index.get(place)) is not None:
        try:
            before, found = msgspec.msgpack.decode(known, type=tuple[tuple[int, ...], kind])  # type: ignore[valid-type]
        except msgspec.MsgspecError:
            before = ()
        if before == facts:
            return found  # type: ignore[no-any-return]
    found = look()
    if facts is not None and _facts(path) == facts:
        index.put(place, msgspec.msgpack.encode((facts, found)))
    return found


def _facts(path: Path) -> tuple[int, ...] | None:
    """What changes with every write to a file; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
