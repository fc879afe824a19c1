"""Videos that somebody gives: what they are, and their frames at the rate and the size of a run. Torch-free."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.inputs.clips.decoding import Told, decoded
from engine.inputs.clips.filters import command_of, filters_of
from engine.inputs.clips.resampling import SourceFrame, resampled
from engine.inputs.clips.stream import (
    ClipFacts,
    Stream,
    check_unchanged,
    examined,
    identity,
    refused,
    short,
)
from engine.output import ffmpeg

if TYPE_CHECKING:
    from numpy import ndarray

# An end that comes so much earlier than the container says is a cut.
_MISSING_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Resampled:
    """What became of a video's frames: of `read`, from its first on, `dropped` are not shown at this rate; `doubled`
    are those added by showing one again; `cut` are those left out at the end, after that, as a clip has 4n+1. What is
    left are read - dropped + doubled - cut. told: what else was changed or left out."""

    read: int
    dropped: int
    doubled: int
    cut: int
    fps: int
    told: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """All of it for people, a line each."""
        rate = f"for {self.fps} frames a second"
        lines = [
            f"{self.dropped} of {self.read} frames dropped {rate}" if self.dropped else "",
            f"{self.doubled} frames doubled {rate}" if self.doubled else "",
            f"{self.cut} cut from the end: a clip has 4n+1 frames" if self.cut else "",
        ]
        return (*filter(None, lines), *self.told)


@dataclass
class _Read:
    """What was read of a video. shows: for each frame at the new rate the number of the source's; pixels: of these.
    ends: of the source's frames, in seconds."""

    told: Told = field(default_factory=Told)
    shows: list[int] = field(default_factory=list)
    pixels: bytearray = field(default_factory=bytearray)
    ends: list[Fraction] = field(default_factory=list)


class _OtherSize(Exception):
    """Frames are not of the size that the container tells, as where it cuts their edges. size: (W, H), stored."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(size)
        self.size = size


def examine_clip(path: Path, *, key: str = "video.path") -> ClipFacts:
    """Raises InputError, under `key`, where the file is no video that can be read, ComponentError where ffmpeg does
    not work."""
    return examined(path, key, lambda: None)[0]


def clip_digest(path: Path, *, key: str = "video.path") -> str:
    """Of the file's bytes, as "sha256:...". Raises InputError where it cannot be read, or changes meanwhile."""
    before = identity(path, key)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise refused(path, f"cannot be read: {error.strerror}", key) from None
    check_unchanged(path, before, key)
    return f"sha256:{digest}"


def num_frames(available: int) -> int:
    """The largest 4n+1 that is at most `available` (at least 1)."""
    if available < 1:
        raise ValueError(f"{available} frames, expected at least 1")
    return (available - 1) // 4 * 4 + 1


def read_clip(
    path: Path,
    *,
    fps: int,
    frames: int,
    width: int,
    height: int,
    fit: str = "crop",
    key: str = "video.path",
    stop: Callable[[], None] = lambda: None,
) -> tuple[ndarray[Any, Any], Resampled]:
    """The first frames of a video at `fps`, uint8 RGB [T,height,width,3], full range.

    frames: the most that are wanted. T is the largest 4n+1 up to that, and up to what there is. fit: "crop" scales
    in proportion until a frame covers width x height and cuts it in the middle, "stretch" does not keep the
    proportion. stop: asked all the while, also while ffmpeg says nothing; what it raises ends the reading.
    No more is decoded than the wanted frames take, nor held. Raises InputError, under `key`, where the file is no
    video that can be read, ends early as it is damaged, or changes while it is read; ComponentError where ffmpeg does
    not work.
    """
    if fit not in ("crop", "stretch") or min(fps, frames, width, height) < 1:
        raise ValueError(f"{frames} frames of {width}x{height} at {fps} a second, fit {fit!r}")
    import numpy

    before = identity(path, key)
    facts, stream = examined(path, key, stop)
    wanted = num_frames(frames)

    def read(stream: Stream) -> _Read:
        filters = filters_of(path, stream, (width, height), fit, key)
        command = command_of(path, facts.container, stream, filters)
        taken = _Read()
        with closing(decoded(command, width * height * 3, taken.told, stop)) as source:
            checked = _of_one_shape(source, stream, taken.ends, path, key)
            for number, data in islice(resampled(checked, fps), wanted):
                taken.shows.append(number)
                taken.pixels += data
        return taken

    try:
        taken = read(stream)
    except _OtherSize as other:
        taken = read(replace(stream, size=other.size))
    check_unchanged(path, before, key)
    shows = taken.shows
    has_ended = len(shows) < wanted
    if has_ended:
        _check_whole(path, facts, taken, (wanted, fps), key)
    num, distinct = num_frames(len(shows)), len(set(shows))
    num_read = len(taken.ends) if has_ended else shows[-1] + 1
    came = Resampled(
        read=num_read,
        dropped=num_read - distinct,
        doubled=len(shows) - distinct,
        cut=len(shows) - num,
        fps=fps,
        told=(*_used(facts, num, fps, has_ended), *facts.notes, *_spoilt(taken.told)),
    )
    del taken.pixels[num * width * height * 3 :]
    return numpy.frombuffer(taken.pixels, numpy.uint8).reshape(num, height, width, 3), came


def _used(facts: ClipFacts, num: int, fps: int, has_ended: bool) -> list[str]:
    if has_ended or facts.seconds < num / fps + _MISSING_SECONDS:
        return []
    return [f"its first {num / fps:.1f} of {facts.seconds:.1f} s are used"]


def _spoilt(told: Told) -> list[str]:
    if not told.damage:
        return []
    return [f"parts of it are damaged ({short(told.damage)}): look at what comes of it"]


def _of_one_shape(
    frames: Iterable[SourceFrame], stream: Stream, ends: list[Fraction], path: Path, key: str
) -> Iterator[SourceFrame]:
    """The frames, whose ends in seconds go to `ends`. Raises _OtherSize where the first has another size than the
    stream, InputError where a later one has another than the first, or pixels of another shape."""
    expected = ""
    for frame in frames:
        if not expected:
            expected = frame.shape
            width, height = map(int, expected.split()[0].split("x"))
            if (width, height) != stream.turned:
                raise _OtherSize((height, width) if stream.is_on_its_side else (width, height))
        elif frame.shape != expected:
            then = f"from {expected.replace(' ', ' with pixels of ')} to {frame.shape.replace(' ', ' with ')}"
            raise refused(
                path,
                f"changes its size at frame {len(ends)}, {then}; convert it to one size first",
                key,
            )
        ends.append(frame.start + frame.seconds)
        yield frame


def _check_whole(
    path: Path, facts: ClipFacts, taken: _Read, asked: tuple[int, int], key: str
) -> None:
    """Raise InputError where a video that ended early is not whole. asked: for how many frames, at which rate."""
    wanted, fps = asked
    num, ends = len(taken.shows), taken.ends
    reason = short(taken.told.damage) if taken.told.damage else ""
    if "No such filter" in reason:
        raise refused(
            path, "is HDR or has wide colours, which this ffmpeg cannot convert (no zscale); convert it to bt709", key
        )  # fmt: skip
    if not ends:
        ffmpeg.encoders()  # which raises where it is ffmpeg that does not work
        raise refused(
            path,
            f"has no frame that can be read{f' ({reason})' if reason else ''}; give another",
            key,
        )
    end = float(ends[-1])
    # with sound, the seconds may be the sound's
    if not reason and not facts.has_audio and end + _MISSING_SECONDS < facts.seconds:
        reason = f"it ends after {end:.1f} of {facts.seconds:.1f} s"
    if reason:
        raise refused(
            path,
            f"is damaged or cut off ({reason}): {len(ends)} frames of it can be read, {num} at {fps} a second, and "
            f"{wanted} are wanted; repair it, or ask for at most {num_frames(num)}",
            key,
        )
