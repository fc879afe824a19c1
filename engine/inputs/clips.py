"""Videos that somebody gives: what they are, and their frames at the rate and the size of a run. Torch-free.

A file is read by the one reader of ffmpeg's that its first bytes call for; that opens no other file and no address.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.inputs.containers import DEMUXERS, HEAD_BYTES, container_of, refusal
from engine.inputs.decoding import Told, damage_in, decoded, words
from engine.inputs.resampling import SourceFrame, resampled
from engine.output import ffmpeg

if TYPE_CHECKING:
    from numpy import ndarray

MAX_PIXELS = 8192 * 8192
MAX_SIDE = 16384
_ANSWER_SECONDS = 30.0
_MAX_REASON = 120
_CUT_WORDS = ("Packet corrupt", "partial file", "ended prematurely")
# An end that comes so much earlier than the container says is a cut.
_MISSING_SECONDS = 0.5

_SCALING = "bicubic+accurate_rnd+full_chroma_int"
_MATRICES = frozenset(
    {
        *("bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "bt2020nc", "bt2020c", "gbr"),
        *("unknown", "reserved"),
    }
)
_HDR = frozenset({"smpte2084", "arib-std-b67"})
_WIDE = frozenset({"bt2020", "smpte431", "smpte432"})
_UNLIKE_A_SCREEN = frozenset({"linear", "log100", "log316", "smpte428"})
_RGB = ("rgb", "bgr", "gbr", "argb", "abgr", "0rgb", "0bgr", "x2", "pal8", "gray", "ya", "mono")
_ALPHA = ("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya8", "ya16", "ayuv", "vuya", "pal8")
# VP8 and VP9 keep it in a second stream, which ffmpeg's own decoders do not read
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# white of paper is at 203 of the 1000 cd/m² that the brightest parts have (ITU-R BT.2408)
_WHITE, _PEAK = 203, 1000 / 203


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """What the container says of a video; nothing is decoded for it.

    width, height: in pixels as it is shown, after `rotation`; pixels that are not square are made so in the width of
    the stored picture. fps: on average; 0.0 where it is not told. seconds: of the whole file; 0.0 where that is not
    told. container: of `engine.inputs.containers.DEMUXERS`. codec: as ffmpeg calls it. rotation: degrees clockwise in
    [0, 360) by which its flag turns it. notes: what of it is changed or left out when it is read, a line each.
    """

    width: int
    height: int
    fps: float
    seconds: float
    container: str
    codec: str
    has_audio: bool
    rotation: int
    notes: tuple[str, ...] = ()


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


@dataclass(frozen=True, slots=True)
class _Stream:
    """The stream that is shown, as ffmpeg tells of it. number: in the file. size: (W, H), stored. sar: width of a
    pixel by its height. pixels: their format. colours: matrix, primaries and transfer, "unknown" where not told."""

    number: int
    codec: str
    size: tuple[int, int]
    sar: Fraction
    pixels: str
    colours: tuple[str, str, str]
    interlaced: bool
    hidden_alpha: bool
    rotation: int
    fps: float

    @property
    def is_on_its_side(self) -> bool:
        return self.rotation in (90, 270)

    @property
    def turned(self) -> tuple[int, int]:
        """Its size after the rotation flag."""
        return self.size[::-1] if self.is_on_its_side else self.size

    @property
    def shown(self) -> tuple[int, int]:
        """Its size after the rotation flag, of square pixels."""
        size = max(1, round(self.size[0] * self.sar)), self.size[1]
        return size[::-1] if self.is_on_its_side else size

    @property
    def has_alpha(self) -> bool:
        return self.hidden_alpha or self.pixels.startswith(_ALPHA)

    @property
    def is_wide(self) -> bool:
        """Whether its colours are not those of an ordinary screen (BT.709, BT.601)."""
        matrix, primaries, transfer = self.colours
        return matrix.startswith("bt2020") or primaries in _WIDE or transfer in _HDR


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
    return _examined(path, key, lambda: None)[0]


def clip_digest(path: Path, *, key: str = "video.path") -> str:
    """Of the file's bytes, as "sha256:...". Raises InputError where it cannot be read, or changes meanwhile."""
    before = _identity(path, key)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}", key) from None
    _check_unchanged(path, before, key)
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

    before = _identity(path, key)
    facts, stream = _examined(path, key, stop)
    wanted = num_frames(frames)

    def read(stream: _Stream) -> _Read:
        filters = _filters(path, stream, (width, height), fit, key)
        command = _command(path, facts, stream, filters)
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
    _check_unchanged(path, before, key)
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
    return [f"parts of it are damaged ({_short(told.damage)}): look at what comes of it"]


# --- the file


def _refused(path: Path, what: str, key: str) -> InputError:
    return InputError(f"{_printable(str(path))} {what}", key=key)


def _printable(text: str) -> str:
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _identity(path: Path, key: str) -> tuple[int, int, int, int]:
    """Of a regular file that can be opened. Raises InputError."""
    try:
        # a pipe would be waited for
        opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise _refused(path, "is no file; check its path", key) from None
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}", key) from None
    try:
        status = os.fstat(opened)
    finally:
        os.close(opened)
    if stat.S_ISDIR(status.st_mode):
        raise _refused(path, "is a folder; give a video in it", key)
    if not stat.S_ISREG(status.st_mode):
        raise _refused(path, "is a pipe or a device; save the video as a file first", key)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _check_unchanged(path: Path, before: tuple[int, int, int, int], key: str) -> None:
    if _identity(path, key) != before:
        raise _refused(path, "changed while it was read; wait until it is written", key)


def _container(path: Path, key: str) -> str:
    _identity(path, key)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}", key) from None
    found = container_of(head)
    if not found:
        raise _refused(path, refusal(head), key)
    return found


# --- what ffmpeg tells of it


def _examined(path: Path, key: str, stop: Callable[[], None]) -> tuple[ClipFacts, _Stream]:
    container = _container(path, key)
    seconds, stream, has_audio = _told_of(path, container, (), key, stop)
    if stream.hidden_alpha and stream.codec in _ALPHA_DECODERS:
        decoder = ("-c:v", _ALPHA_DECODERS[stream.codec])
        stream = _told_of(path, container, decoder, key, stop)[1]
    if stream.size[0] * stream.size[1] > MAX_PIXELS:
        raise _too_large(path, "x".join(map(str, stream.size)), key)
    facts = ClipFacts(
        *stream.shown,
        fps=stream.fps,
        seconds=seconds,
        container=container,
        codec=stream.codec,
        has_audio=has_audio,
        rotation=stream.rotation,
        notes=tuple(_notes(stream, has_audio)),
    )
    _check_colours(path, stream, key)
    return facts, stream


def _notes(stream: _Stream, has_audio: bool) -> Iterator[str]:
    if stream.rotation:
        yield f"turned by {stream.rotation} degrees clockwise, as its flag says"
    if stream.sar != 1:
        yield f"its pixels are {stream.sar.numerator}:{stream.sar.denominator}, made square"
    if stream.interlaced:
        yield "it is interlaced, and its lines are left as they are"
    if stream.has_alpha:
        yield "what is transparent in it is shown over black"
    if stream.colours[2] in _HDR:
        yield f"its HDR ({stream.colours[2]}) is brought to the range of an ordinary screen (BT.709)"
    elif stream.is_wide:
        yield "its wide colours are brought to those of an ordinary screen (BT.709)"
    if has_audio:
        yield "its sound is left out"


def _check_colours(path: Path, stream: _Stream, key: str) -> None:
    matrix, _, transfer = stream.colours
    lacks = matrix if matrix not in _MATRICES else transfer if transfer in _UNLIKE_A_SCREEN else ""
    if lacks:
        raise _refused(
            path, f"has colours that are not read ({lacks}); convert it to bt709 first", key
        )


def _told_of(
    path: Path, container: str, options: tuple[str, ...], key: str, stop: Callable[[], None]
) -> tuple[float, _Stream, bool]:
    """Seconds of the file, its stream that is shown, whether it has sound. Raises InputError."""
    command = [
        ffmpeg.program(), "-hide_banner", "-loglevel", "level+info", "-nostdin", *options, *_input(path, container),
    ]  # fmt: skip
    try:
        told = words(command, _ANSWER_SECONDS, stop)
    except TimeoutError:
        raise _refused(
            path, f"cannot be read: ffmpeg did not answer in {_ANSWER_SECONDS:.0f} s", key
        ) from None
    before, begun, about = told.partition("[info] Input #0")
    if large := re.search(r"\[error\] Picture size (\d+x\d+) is invalid", before):
        raise _too_large(path, large[1], key)
    if not begun:
        raise _unreadable(path, before, key)
    duration = re.search(r"^\[info\] +Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)", about, re.MULTILINE)
    seconds = 0.0
    if duration:
        seconds = int(duration[1]) * 3600 + int(duration[2]) * 60 + float(duration[3])
    parts = re.split(r"^\[info\] +Stream #0:", about, flags=re.MULTILINE)[1:]
    has_audio = any(re.match(r"\d+[^:]*: Audio:", part) for part in parts)
    for part in parts:
        first = part.partition("\n")[0]
        if re.match(r"\d+[^:]*: Video:", part) and "(attached pic)" not in first:
            return seconds, _stream(path, part, key), has_audio
    what = "has sound and no pictures" if has_audio else "has no video in it that can be read"
    raise _refused(path, f"{what}; give another file", key)


def _too_large(path: Path, size: str, key: str) -> InputError:
    return _refused(path, f"is {size}, at most 8192x8192 pixels are read; scale it first", key)


def _unreadable(path: Path, told: str, key: str) -> InputError:
    damage = next(filter(None, map(damage_in, told.splitlines())), "")
    ffmpeg.encoders()  # which raises where it is ffmpeg that does not work
    return _refused(path, f"cannot be read as a video: {_short(damage)}", key)


def _stream(path: Path, told: str, key: str) -> _Stream:
    """told: from its number on, what ffmpeg says of a video stream and all that follows."""
    line = told.partition("\n")[0]
    named = re.match(r"(\d+)[^:]*: Video: (\w+)", line)
    form = re.search(r", (\w+)(?:\(([^)]*)\))?, (\d+)x(\d+)", line)
    if named is None or form is None:
        raise _refused(path, "has an empty video stream: no frame is in it; give another", key)
    traits = [each.strip() for each in (form[2] or "").split(",")]
    colours = next((each for each in traits if "/" in each), "")
    if not colours:
        colours = next((each for each in traits if each in _MATRICES), "unknown")
    triple = (colours.split("/") * 3)[:3]
    sars = re.findall(r"SAR (\d+):(\d+)", line)
    sar = Fraction(int(sars[-1][0]), int(sars[-1][1])) if sars and int(sars[-1][1]) else Fraction(1)
    turn = _line_of(told, r"display ?matrix: rotation of (-?\d+(?:\.\d+)?)")
    if _line_of(told, r"DOVI configuration record:.* profile: 5\b"):
        triple = ["dolby-vision-5"] * 3  # it has no other colours beside its own
    rate = re.search(r"([\d.]+)(k?) fps", line) or re.search(r"([\d.]+)(k?) tbr", line)
    return _Stream(
        number=int(named[1]),
        codec=named[2],
        size=(int(form[3]), int(form[4])),
        sar=sar or Fraction(1),
        pixels=form[1],
        colours=(triple[0], triple[1], triple[2]),
        interlaced=any(" first" in each for each in traits),
        hidden_alpha=bool(_line_of(told, r"alpha_mode *: 1\s*$")),
        # it is told counterclockwise
        rotation=-round(float(turn[1])) % 360 if turn else 0,
        fps=float(rate[1]) * (1000 if rate[2] else 1) if rate else 0.0,
    )


def _line_of(told: str, pattern: str) -> re.Match[str] | None:
    """The line of its own that what ffmpeg says has for a thing."""
    return re.search(rf"^\[info\] +{pattern}", told, re.IGNORECASE | re.MULTILINE)


def _short(reason: str) -> str:
    """What ffmpeg says, as far as it fits into a line."""
    if "moov atom not found" in reason:
        return "its index (moov) is missing, it was cut off or is still being written"
    if "Unknown input format" in reason:
        return "this ffmpeg has no reader for it, another may (IMAGEIO_FFMPEG_EXE)"
    if any(words in reason for words in _CUT_WORDS):
        return "it ends within a frame"
    line = _printable(reason.removeprefix("Error opening input: ")) or "ffmpeg finds nothing in it"
    return line if len(line) <= _MAX_REASON else f"{line[: _MAX_REASON - 3]}..."


# --- its frames


def _input(path: Path, container: str) -> list[str]:
    return [
        "-fflags", "+discardcorrupt", "-max_pixels", str(MAX_PIXELS), "-protocol_whitelist", "file",
        "-f", DEMUXERS[container], "-i", f"file:{path.absolute()}",
    ]  # fmt: skip


def _command(path: Path, facts: ClipFacts, stream: _Stream, filters: list[str]) -> list[str]:
    decoder = []
    if stream.hidden_alpha and stream.codec in _ALPHA_DECODERS:
        decoder = ["-c:v", _ALPHA_DECODERS[stream.codec]]
    return [
        ffmpeg.program(), "-hide_banner", "-loglevel", "level+info", "-nostats", "-nostdin", *decoder,
        *_input(path, facts.container), "-map", f"0:{stream.number}", "-fps_mode", "passthrough",
        "-vf", ",".join(filters), "-enc_time_base", "1/1000",
        "-pix_fmt", "rgb24", "-c:v", "rawvideo", "-f", "rawvideo", "pipe:1",
    ]  # fmt: skip


def _filters(path: Path, stream: _Stream, size: tuple[int, int], fit: str, key: str) -> list[str]:
    """Times are told first, of every frame. Raises InputError where a frame would become too large on the way."""
    width, height = size
    covering = size if fit == "stretch" else _covering(stream.shown, size)
    if max(covering) > MAX_SIDE:
        shown = "x".join(map(str, stream.shown))
        raise _refused(
            path, f"is {shown}, too long for {width}x{height}; crop it first, or stretch it", key
        )
    to_rgb = f"flags={_SCALING}{_matrix(stream)}"
    # what comes out is counted, as equal times would be complained of
    filters = ["showinfo=checksum=0", "settb=1/1000", "setpts=N"]
    if stream.has_alpha:
        # of 8 bits it would not leave alone what is opaque
        filters += [f"scale={to_rgb}", "format=gbrap16le", "premultiply=inplace=1"]
        to_rgb = f"flags={_SCALING}"
    if stream.is_wide:
        filters += _to_bt709(stream)
        to_rgb = f"flags={_SCALING}"
    filters.append(f"scale={covering[0]}:{covering[1]}:{to_rgb}")
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    return [*filters, "format=rgb24", f"crop={width}:{height}:{left}:{top}"]


def _covering(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """size in proportion, as small as covers `target`; both (W, H)."""
    scale = max(Fraction(target[0], size[0]), Fraction(target[1], size[1]))
    return max(target[0], round(size[0] * scale)), max(target[1], round(size[1] * scale))


def _matrix(stream: _Stream) -> str:
    """How YUV is told to become RGB where the video does not say so itself: by its size, as players do."""
    if stream.colours[0] not in ("unknown", "reserved") or stream.pixels.startswith(_RGB):
        return ""
    if stream.is_wide:
        return ":in_color_matrix=bt2020"
    is_high = stream.size[0] >= 1280 or stream.size[1] > 576
    return f":in_color_matrix={'bt709' if is_high and stream.codec != 'mjpeg' else 'bt601'}"


def _to_bt709(stream: _Stream) -> list[str]:
    """To RGB of BT.709, HDR through linear light. What was transparent is RGB before."""
    matrix, primaries, transfer = stream.colours
    is_rgb = stream.has_alpha or stream.pixels.startswith(_RGB)
    known = [
        *(["min=bt2020nc"] if matrix == "unknown" and not is_rgb else []),
        *(["pin=bt2020"] if primaries == "unknown" else []),
        *(["tin=bt709"] if transfer == "unknown" else []),
    ]
    start = [f"scale=flags={_SCALING}", "format=gbrp16le" if is_rgb else "format=yuv444p10le"]
    if transfer not in _HDR:
        return [*start, ":".join(["zscale=m=gbr:p=bt709:t=bt709:r=full", *known]), "format=gbrp"]
    return [
        *start,
        ":".join([f"zscale=t=linear:npl={_WHITE}", *known]),
        "format=gbrpf32le",
        "zscale=p=bt709",
        f"tonemap=mobius:peak={_PEAK:.4f}:desat=0",
        "zscale=t=bt709:r=full",
        "format=gbrp",
    ]


def _of_one_shape(
    frames: Iterable[SourceFrame], stream: _Stream, ends: list[Fraction], path: Path, key: str
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
            raise _refused(
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
    reason = _short(taken.told.damage) if taken.told.damage else ""
    if "No such filter" in reason:
        raise _refused(
            path, "is HDR or has wide colours, which this ffmpeg cannot convert (no zscale); convert it to bt709", key
        )  # fmt: skip
    if not ends:
        ffmpeg.encoders()  # which raises where it is ffmpeg that does not work
        raise _refused(
            path,
            f"has no frame that can be read{f' ({reason})' if reason else ''}; give another",
            key,
        )
    end = float(ends[-1])
    # with sound, the seconds may be the sound's
    if not reason and not facts.has_audio and end + _MISSING_SECONDS < facts.seconds:
        reason = f"it ends after {end:.1f} of {facts.seconds:.1f} s"
    if reason:
        raise _refused(
            path,
            f"is damaged or cut off ({reason}): {len(ends)} frames of it can be read, {num} at {fps} a second, and "
            f"{wanted} are wanted; repair it, or ask for at most {num_frames(num)}",
            key,
        )
