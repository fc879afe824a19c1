"""What is told of a run that was followed to its end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from tui.cli.following.follow import _split

NS = 10**9


def test_of_a_cold_engine_its_start_and_its_imports_are_told_of_a_warm_one_the_queue():
    record = cast(Any, SimpleNamespace(seconds=5.0, created_ns=1 * NS, started_ns=3 * NS))
    stages = cast(
        Any,
        [SimpleNamespace(name="load", seconds=1.0), SimpleNamespace(name="denoise", seconds=2.5)],
    )
    cold = "7.00 s (cold engine): start 2.00 s, imports 1.50 s, load 1.00 s, denoise 2.50 s"
    assert _split(record, stages, 0, is_warm=False) == cold
    warm = "6.00 s (warm engine): queue 1.00 s, other 1.50 s, load 1.00 s, denoise 2.50 s"
    assert _split(record, stages, 2 * NS, is_warm=True) == warm
