"""Which frames are shown at another rate, counted by hand and by the rule itself."""

from __future__ import annotations

from fractions import Fraction
from itertools import count, islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.inputs.clips.resampling import SourceFrame, resampled


def frames(starts: list[Fraction], seconds: Fraction) -> list[SourceFrame]:
    """Each lasts until the next, the last for `seconds`."""
    lengths = [*(later - start for start, later in pairwise(starts)), seconds]
    return [SourceFrame(start, length, b"") for start, length in zip(starts, lengths, strict=True)]


def shown(starts: list[Fraction], seconds: Fraction, fps: int) -> list[int]:
    return [number for number, _ in resampled(frames(starts, seconds), fps)]


@pytest.mark.parametrize(
    ("rate", "num", "fps", "expected"),
    [
        (16, 5, 16, [0, 1, 2, 3, 4]),
        (8, 3, 16, [0, 0, 1, 1, 2, 2]),
        (32, 6, 16, [0, 2, 4]),  # 0, 0.5 -> 1, 1, 1.5 -> 2, 2, 2.5 -> 3: and there it ends
        (10, 5, 16, [0, 0, 1, 2, 2, 3, 4, 4]),  # 0, 1.6, 3.2, 4.8, 6.4, end at 8
        (25, 10, 10, [1, 3, 6, 8]),  # 0 .4, .8 1.2, 1.6 2 2.4, 2.8 3.2, 3.6: and it ends at 4
        (60, 1, 16, [0]),  # shorter than half a place
    ],
)
def test_by_hand(rate: int, num: int, fps: int, expected: list[int]) -> None:
    starts = [Fraction(n, rate) for n in range(num)]
    assert shown(starts, Fraction(1, rate), fps) == expected


def test_halves_go_away_from_zero_and_times_may_begin_below_it() -> None:
    starts = [Fraction(-5, 20), Fraction(-1, 20), Fraction(3, 20)]
    # -2.5 -> -3, -0.5 -> -1, 1.5 -> 2, end 2.5 -> 3
    assert shown(starts, Fraction(1, 10), 10) == [0, 0, 1, 1, 1, 2]


def test_times_that_go_back_do_not_show_anything_twice() -> None:
    starts = [Fraction(0), Fraction(5, 10), Fraction(2, 10), Fraction(6, 10)]
    taken = [SourceFrame(start, Fraction(1, 10), b"") for start in starts]
    assert [number for number, _ in resampled(taken, 10)] == [0, 0, 0, 0, 0, 2, 3]


@given(
    st.lists(st.integers(1, 400), min_size=0, max_size=30),
    st.integers(-200, 200),
    st.integers(0, 400),
    st.integers(1, 60),
)
def test_a_place_shows_the_last_frame_that_has_come_by_then(gaps, start, last, fps) -> None:
    times = [start]
    for gap in gaps:
        times.append(times[-1] + gap)

    def place(milliseconds: int) -> int:
        """2 * x + 1 over 2, whole; halves away from zero."""
        doubled = 2 * abs(milliseconds) * fps + 1000
        return (1 if milliseconds >= 0 else -1) * (doubled // 2000)

    expected = [
        max(number for number, time in enumerate(times) if place(time) <= at)
        for at in range(place(times[0]), place(times[-1] + last))
    ] or [len(times) - 1]
    starts = [Fraction(time, 1000) for time in times]
    assert shown(starts, Fraction(last, 1000), fps) == expected


def test_of_no_frame_nothing_is_shown() -> None:
    assert list(resampled([], 16)) == []


def test_no_frame_is_asked_for_before_it_is_needed() -> None:
    asked: list[int] = []

    def source():
        for number in count():
            asked.append(number)
            yield SourceFrame(Fraction(number, 2), Fraction(1, 2), b"")

    assert [number for number, _ in islice(resampled(source(), 8), 6)] == [0, 0, 0, 0, 1, 1]
    assert asked == [0, 1, 2]
