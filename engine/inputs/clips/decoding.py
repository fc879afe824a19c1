"""Runs ffmpeg on a video and takes its frames as they come, with their times. Torch-free."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction

from engine.inputs.clips.resampling import SourceFrame
from engine.output import ffmpeg

_PIECE_BYTES = 1 << 16
_ASKED_SECONDS = 0.1
_MAX_WORDS_BYTES = 1 << 20
_MAX_LINE_BYTES = 1 << 16
_MAX_UNTOLD_BYTES = 1 << 24

_CONFIG = re.compile(r"config in time_base: (\d+)/(\d+), frame_rate: (\d+)/(\d+)")
# Several threads write: it may follow half a line of another's.
_FRAME = re.compile(
    r"n: *\d+ pts: *(-?\d+|NOPTS) +pts_time:\S+ +(?:duration: *(\d+) )?.*? sar:(\d+/\d+) s:(\d+x\d+) "
)
_LEVEL = re.compile(r"^(?:\[[^]]* @ [^]]*\] )*\[(\w+)\] ?(.*)$")


@dataclass
class Told:
    """What ffmpeg says while it decodes through its filter `showinfo`.

    frames: of those that nobody took yet, start and length in seconds, and their size ("64x48 1/1", with the shape of
    their pixels). damage: the first that it said of a part that it could not read.
    """

    frames: deque[tuple[Fraction, Fraction, str]] = field(default_factory=deque)
    damage: str = ""
    _unit: Fraction = Fraction(0)
    _usual: Fraction = Fraction(0)
    _end: Fraction = Fraction(0)
    _begun: bytes = b""

    def add(self, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            self._add_line(line.decode(errors="replace"))
        if len(self._begun) > _MAX_LINE_BYTES:
            self._begun = b""

    def _add_line(self, line: str) -> None:
        if found := _CONFIG.search(line):
            unit, per, rate, per_rate = map(int, found.groups())
            self._unit = Fraction(unit, per or 1)
            self._usual = Fraction(per_rate, rate) if rate else Fraction(0)
            return
        frames = list(_FRAME.finditer(line))
        for found in frames:
            start = self._end if found[1] == "NOPTS" else int(found[1]) * self._unit
            seconds = int(found[2] or 0) * self._unit or self._usual
            self._end = start + seconds
            self.frames.append((start, seconds, f"{found[4]} {found[3]}"))
        if not frames and not self.damage:
            self.damage = damage_in(line)


def damage_in(line: str) -> str:
    """What a line of ffmpeg's says of a part that it could not read, "" where it says nothing of the kind."""
    found = _LEVEL.match(line)
    if found is None:
        return ""
    level, text = found.groups()
    cut = level == "warning" and text.startswith("Packet corrupt")
    is_damage = level in ("error", "fatal", "panic") and "to muxer" not in text
    return text.strip() if is_damage or cut else ""


def words(command: Sequence[str], seconds: float, stop: Callable[[], None]) -> str:
    """What a program says on its error output, at most the first MiB of it. Raises ComponentError where it cannot be
    started, TimeoutError where it does not end, and what `stop` raises, which is asked all the time."""
    data = bytearray()
    with _started(command) as process:
        assert process.stderr is not None
        for piece in _pieces(process, _limit(seconds, stop)):
            if piece[0] == "words":
                data += piece[1]
            if len(data) > _MAX_WORDS_BYTES:
                break
    return data[:_MAX_WORDS_BYTES].decode(errors="replace")


def decoded(
    command: Sequence[str], num_bytes: int, told: Told, stop: Callable[[], None]
) -> Generator[SourceFrame, None, None]:
    """The frames of `num_bytes` each that a command writes to its output, as they come, with the times that it tells.

    The program is ended when the iterator is closed, and when `stop`, which is asked all the time, raises. Raises
    ComponentError where it cannot be started.
    """
    pixels = bytearray()
    with _started(command) as process:
        for kind, data in _pieces(process, stop):
            if kind == "words":
                told.add(data)
            else:
                pixels += data
            while told.frames and len(pixels) >= num_bytes:
                frame = bytes(memoryview(pixels)[:num_bytes])
                del pixels[:num_bytes]
                start, seconds, shape = told.frames.popleft()
                yield SourceFrame(start, seconds, frame, shape)
            if len(pixels) > num_bytes + _MAX_UNTOLD_BYTES:
                told.damage = told.damage or "ffmpeg does not tell when its frames are shown"
                return
        told.add(b"\n")


@contextmanager
def _started(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise ffmpeg.unusable(command[0], error.strerror or str(error)) from None
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        process.wait()


def _pieces(
    process: subprocess.Popen[bytes], stop: Callable[[], None]
) -> Iterator[tuple[str, bytes]]:
    """What it writes, as "pixels" and "words", until it closes both."""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, "pixels")  # type: ignore[arg-type]
        selector.register(process.stderr, selectors.EVENT_READ, "words")  # type: ignore[arg-type]
        while selector.get_map():
            stop()
            for key, _ in selector.select(_ASKED_SECONDS):
                data = os.read(key.fd, _PIECE_BYTES)
                if data:
                    yield key.data, data
                else:
                    selector.unregister(key.fileobj)


def _limit(seconds: float, stop: Callable[[], None]) -> Callable[[], None]:
    end = time.monotonic() + seconds

    def check() -> None:
        stop()
        if time.monotonic() > end:
            raise TimeoutError

    return check
