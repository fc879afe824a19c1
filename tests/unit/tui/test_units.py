"""Sizes, ages and durations, read and written."""

from __future__ import annotations

import pytest

from tui.units import age, duration, lasting, read_age, read_size, size


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0.00 s"), (9.994, "9.99 s"), (12.34, "12.3 s"), (245, "4:05"), (3729.4, "1:02:09")],
)
def test_durations(seconds, expected):
    assert duration(seconds) == expected


def test_a_size_as_people_read_it():
    assert [size(812 << 20), size(int(11.4 * 2**30))] == ["812 MiB", "11.4 GiB"]


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("0", 0),
        ("512", 512),
        ("20GB", 20 * 10**9),
        ("1.5 gib", 3 * 2**29),
        ("3k", 3000),
        ("2TiB", 2**41),
    ],
)
def test_sizes_that_are_typed(text, num_bytes):
    assert read_size(text) == num_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5min", 300), ("2h", 7200), ("30d", 2592000), ("2W", 1209600)],
)
def test_ages_that_are_typed(text, seconds):
    assert read_age(text) == seconds * 10**9


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-5, "now"), (59, "now"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_ages(seconds, told):
    assert age(seconds * 10**9) == told


@pytest.mark.parametrize(
    ("seconds", "told"), [(-5, "0 s"), (59.9, "59 s"), (943, "15 min"), (200_000, "2 d")]
)
def test_how_long_something_lasts(seconds, told):
    assert lasting(seconds) == told
