"""Which frames of a video are shown at another rate. Plain numbers, torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from math import floor
from typing import NamedTuple


class SourceFrame(NamedTuple):
    """start, seconds: when it is shown, and for how long (0 where that is not told). pixels: whatever they are.
    shape: the size that it was stored in, with the shape of its pixels."""

    start: Fraction
    seconds: Fraction
    pixels: bytes
    shape: str = ""


def resampled(frames: Iterable[SourceFrame], fps: int) -> Iterator[tuple[int, bytes]]:
    """For each frame at `fps` the number of the source's frame that it shows (from 0), and its pixels.

    As ffmpeg's filter `fps` does: a frame is shown from the place next to its time on until the next one is; of
    several that come to one place the last is shown; the last frame of all is shown as long as it lasts. What ffmpeg
    would leave empty, as it is shorter than half a place, is one frame. A frame is asked for when it is needed.
    """
    place = 0
    held: tuple[int, SourceFrame] | None = None
    shown = False
    for number, frame in enumerate(frames):
        start = _place(frame.start, fps)
        if held is None:
            place = start
        else:
            while place < start:
                yield held[0], held[1].pixels
                place, shown = place + 1, True
        held = number, frame
    if held is None:
        return
    end = _place(held[1].start + held[1].seconds, fps)
    while place < end or not shown:
        yield held[0], held[1].pixels
        place, shown = place + 1, True


def _place(seconds: Fraction, fps: int) -> int:
    """Next to it; halves away from zero."""
    exact = seconds * fps
    return floor(exact + Fraction(1, 2)) if exact >= 0 else -floor(-exact + Fraction(1, 2))
