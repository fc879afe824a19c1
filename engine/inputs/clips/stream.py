"""A video file as it is before anything of it is decoded: what ffmpeg tells of it, and why it is refused. Torch-free.

A file is read by the one reader of ffmpeg's that its first bytes call for; that opens no other file and no address.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from engine.errors import InputError
from engine.inputs.clips.containers import DEMUXERS, HEAD_BYTES, container_of, refusal
from engine.inputs.clips.decoding import damage_in, words
from engine.inputs.refusal import printable
from engine.output import ffmpeg

MAX_PIXELS = 8192 * 8192
_ANSWER_SECONDS = 30.0
_MAX_REASON = 120
_CUT_WORDS = ("Packet corrupt", "partial file", "ended prematurely")

_MATRICES = frozenset(
    {
        *("bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "bt2020nc", "bt2020c", "gbr"),
        *("unknown", "reserved"),
    }
)
HDR = frozenset({"smpte2084", "arib-std-b67"})
WIDE = frozenset({"bt2020", "smpte431", "smpte432"})
_UNLIKE_A_SCREEN = frozenset({"linear", "log100", "log316", "smpte428"})
_ALPHA = ("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya8", "ya16", "ayuv", "vuya", "pal8")
# VP8 and VP9 keep it in a second stream, which ffmpeg's own decoders do not read
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """What the container says of a video; nothing is decoded for it.

    width, height: in pixels as it is shown, after `rotation`; pixels that are not square are made so in the
    width of the stored picture. fps: on average; 0.0 where it is not told. seconds: of the whole file; 0.0
    where that is not told. container: of `engine.inputs.clips.containers.DEMUXERS`. codec: as ffmpeg calls it.
    rotation: degrees clockwise in [0, 360) by which its flag turns it. notes: what of it is changed or left out
    when it is read, a line each.
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
class Stream:
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
        return matrix.startswith("bt2020") or primaries in WIDE or transfer in HDR


def examined(path: Path, key: str, stop: Callable[[], None]) -> tuple[ClipFacts, Stream]:
    container = _container(path, key)
    seconds, stream, has_audio = _told_of(path, container, (), key, stop)
    if stream.hidden_alpha and stream.codec in ALPHA_DECODERS:
        decoder = ("-c:v", ALPHA_DECODERS[stream.codec])
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
    check_colours(path, stream, key)
    return facts, stream


def _notes(stream: Stream, has_audio: bool) -> Iterator[str]:
    if stream.rotation:
        yield f"turned by {stream.rotation} degrees clockwise, as its flag says"
    if stream.sar != 1:
        yield f"its pixels are {stream.sar.numerator}:{stream.sar.denominator}, made square"
    if stream.interlaced:
        yield "it is interlaced, and its lines are left as they are"
    if stream.has_alpha:
        yield "what is transparent in it is shown over black"
    if stream.colours[2] in HDR:
        yield f"its HDR ({stream.colours[2]}) is brought to the range of an ordinary screen (BT.709)"
    elif stream.is_wide:
        yield "its wide colours are brought to those of an ordinary screen (BT.709)"
    if has_audio:
        yield "its sound is left out"


def check_colours(path: Path, stream: Stream, key: str) -> None:
    matrix, _, transfer = stream.colours
    lacks = matrix if matrix not in _MATRICES else transfer if transfer in _UNLIKE_A_SCREEN else ""
    if lacks:
        raise refused(
            path, f"has colours that are not read ({lacks}); convert it to bt709 first", key
        )


def _told_of(
    path: Path, container: str, options: tuple[str, ...], key: str, stop: Callable[[], None]
) -> tuple[float, Stream, bool]:
    """Seconds of the file, its stream that is shown, whether it has sound. Raises InputError."""
    command = [
        ffmpeg.program(), "-hide_banner", "-loglevel", "level+info", "-nostdin", *options,
        *input_arguments(path, container),
    ]  # fmt: skip
    try:
        told = words(command, _ANSWER_SECONDS, stop)
    except TimeoutError:
        raise refused(
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
            return seconds, stream_of(path, part, key), has_audio
    what = "has sound and no pictures" if has_audio else "has no video in it that can be read"
    raise refused(path, f"{what}; give another file", key)


def _too_large(path: Path, size: str, key: str) -> InputError:
    return refused(path, f"is {size}, at most 8192x8192 pixels are read; scale it first", key)


def _unreadable(path: Path, told: str, key: str) -> InputError:
    damage = next(filter(None, map(damage_in, told.splitlines())), "")
    ffmpeg.encoders()  # which raises where it is ffmpeg that does not work
    return refused(path, f"cannot be read as a video: {short(damage)}", key)


def stream_of(path: Path, told: str, key: str) -> Stream:
    """told: from its number on, what ffmpeg says of a video stream and all that follows."""
    line = told.partition("\n")[0]
    named = re.match(r"(\d+)[^:]*: Video: (\w+)", line)
    form = re.search(r", (\w+)(?:\(([^)]*)\))?, (\d+)x(\d+)", line)
    if named is None or form is None:
        raise refused(path, "has an empty video stream: no frame is in it; give another", key)
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
    return Stream(
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


def short(reason: str) -> str:
    """What ffmpeg says, as far as it fits into a line."""
    if "moov atom not found" in reason:
        return "its index (moov) is missing, it was cut off or is still being written"
    if "Unknown input format" in reason:
        return "this ffmpeg has no reader for it, another may (IMAGEIO_FFMPEG_EXE)"
    if any(words in reason for words in _CUT_WORDS):
        return "it ends within a frame"
    line = printable(reason.removeprefix("Error opening input: ")) or "ffmpeg finds nothing in it"
    return line if len(line) <= _MAX_REASON else f"{line[: _MAX_REASON - 3]}..."


def input_arguments(path: Path, container: str) -> list[str]:
    return [
        "-fflags", "+discardcorrupt", "-max_pixels", str(MAX_PIXELS), "-protocol_whitelist", "file",
        "-f", DEMUXERS[container], "-i", f"file:{path.absolute()}",
    ]  # fmt: skip


def refused(path: Path, what: str, key: str) -> InputError:
    return InputError(f"{printable(str(path))} {what}", key=key)


def identity(path: Path, key: str) -> tuple[int, int, int, int]:
    """Of a regular file that can be opened. Raises InputError."""
    try:
        # a pipe would be waited for
        opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise refused(path, "is no file; check its path", key) from None
    except OSError as error:
        raise refused(path, f"cannot be read: {error.strerror}", key) from None
    try:
        status = os.fstat(opened)
    finally:
        os.close(opened)
    if stat.S_ISDIR(status.st_mode):
        raise refused(path, "is a folder; give a video in it", key)
    if not stat.S_ISREG(status.st_mode):
        raise refused(path, "is a pipe or a device; save the video as a file first", key)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def check_unchanged(path: Path, before: tuple[int, int, int, int], key: str) -> None:
    if identity(path, key) != before:
        raise refused(path, "changed while it was read; wait until it is written", key)


def _container(path: Path, key: str) -> str:
    identity(path, key)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise refused(path, f"cannot be read: {error.strerror}", key) from None
    found = container_of(head)
    if not found:
        raise refused(path, refusal(head), key)
    return found
