"""What is told of memory while somebody types."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from engine.fit.answering import newest


def test_what_is_overtaken_while_something_is_computed_is_left_out() -> None:
    may_go = [threading.Event() for _ in range(2)]
    are_there = [threading.Event() for _ in range(2)]

    def lines() -> Iterator[str]:
        for some, go, there in zip(("12", "3456"), may_go, are_there, strict=True):
            assert go.wait(60)
            yield from some
            there.set()

    told = newest(lines())
    found = []
    for go, there in zip(may_go, are_there, strict=True):
        go.set()
        assert there.wait(60)
        found.append(next(told))
    assert found == ["2", "6"]
    assert list(told) == []


def test_what_stands_at_the_end_is_answered() -> None:
    assert list(newest(["1"])) == ["1"]
    assert list(newest([])) == []
