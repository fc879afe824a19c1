"""What runs take against what was told of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.fit import learned as module
from engine.fit.learned import CONTEXT_BYTES, Learned, compared, expected, learn, learned
from engine.fit.work import Memory, Use
from store.index.index import open_index
from store.paths import prepare

GB = 10**9


def test_nothing_is_known_at_first_and_a_tenth_assumed() -> None:
    assert Learned().needed(10 * GB) == 11 * GB + CONTEXT_BYTES
    assert Learned().needed(0) == 0


def test_the_most_of_the_last_runs_counts_and_what_is_less_than_told_does_not(
    tmp_path: Path,
) -> None:
    prepare(tmp_path)
    with open_index(tmp_path) as index:
        learn(index, "cpu", 2 * GB, CONTEXT_BYTES + 1 * GB)
        assert learned(index)["cpu"].ratio == 1.0
        learn(index, "cpu", 2 * GB, CONTEXT_BYTES + 2 * GB + GB // 10)
        learn(index, "cuda:0", 2 * GB, CONTEXT_BYTES + 3 * GB)
        assert learned(index)["cpu"].ratio == 1.05
        assert learned(index)["cuda:0"].ratio == 1.5
        # what says nothing: too little, and far too much
        learn(index, "cpu", 1000, 5 * GB)
        learn(index, "cpu", 1 * GB, 9 * GB)
        assert learned(index)["cpu"].ratios == (0.5, 1.05)
        for _ in range(20):
            learn(index, "cpu", 2 * GB, CONTEXT_BYTES + 2 * GB)
        assert learned(index)["cpu"] == Learned((1.0,) * 12)


def test_what_a_run_is_expected_to_take_is_what_fit_says() -> None:
    uses = [
        Use("text_encode", "cuda:0", 4 * GB, GB, 0, "mul", ""),
        Use("denoise", "cuda:0", 9 * GB, GB, 2 * GB, "mul", ""),
        Use("denoise", "cpu", GB, 0, 0, "mul", ""),
        Use("decode", "cuda:0", 9, 0, 0, "polar", ""),
    ]
    assert expected(Memory(tuple(uses)), {"cuda:0": Learned((1.2, 1.05))}) == {
        "text_encode": {"cuda:0": 4_800_000_000 + CONTEXT_BYTES},
        "denoise": {"cuda:0": 10_800_000_000 + CONTEXT_BYTES, "cpu": 1_100_000_000 + CONTEXT_BYTES},
    }


def test_a_run_that_fails_teaches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_reached", lambda device: CONTEXT_BYTES + 3 * GB)
    memory = Memory((Use("denoise", "cpu", 2 * GB, GB, 0, "mul", ""),))
    prepare(tmp_path)
    with open_index(tmp_path) as index:
        with pytest.raises(ValueError, match="stopped"), compared(memory, index):
            raise ValueError("stopped")
        assert learned(index) == {}
        with compared(memory, index):
            pass
        assert learned(index)["cpu"].ratio == 1.5
