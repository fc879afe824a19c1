"""What is typed into the form of variants, in the words of `modiff sweep`."""

from __future__ import annotations

import itertools

import pytest

from presets.errors import PresetError
from tui.app.compose.variants.axes import SeedsKept, over_of, stop_of


def seeds() -> SeedsKept:
    counter = itertools.count(100)
    return SeedsKept(lambda: next(counter))


@pytest.mark.parametrize(
    ("typed", "settings", "over"),
    [
        ("1..8", (), ["seed=1..8"]),
        (" seed=3, 5 ", ("", " "), ["seed=3, 5"]),
        ("3 random", ("guidance.scale=2,4",), ["seed=100,101,102", "guidance.scale=2,4"]),
        ("7, random, -1", (), ["seed=7,100,101"]),
        ("", ("seed=2 random", "scheduler.shift=3..5"), ["seed=100,101", "scheduler.shift=3..5"]),
        ("many random", (), ["seed=many random"]),  # refused where its values are read
    ],
)
def test_what_is_varied(typed, settings, over):
    assert over_of(typed, settings, seeds()) == over


def test_drawn_seeds_stay_while_one_types():
    kept = seeds()
    first = over_of("4 random", (), kept)
    assert over_of("8 random", (), kept)[0].startswith(first[0])
    assert over_of("4 random", ("guidance.scale=2",), kept)[:1] == first


def test_nothing_is_said_to_be_nothing():
    with pytest.raises(PresetError, match="nothing is varied yet"):
        over_of(" ", ("", ""), seeds())


def test_where_to_stop():
    assert [stop_of(text) for text in ("", " ", "5", " 12 ")] == [None, None, 5, 12]
    for text in ("0", "-1", "half", "1.5", "9" * 40):
        with pytest.raises(PresetError, match="expected a step from 1 on"):
            stop_of(text)
