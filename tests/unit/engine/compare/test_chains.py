"""Where two chains part, and what the times of a run come to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.compare.chains import chain, timings
from store.lineage.records import RunLink
from store.store import open_store
from tests.stores.recorded_runs import micro, record_run


def links(keys: str, **facts: object) -> list[RunLink]:
    return [
        RunLink(
            **{
                "run": "r", "stage": "step", "index": i, "key": key, "digest": f"d{key}",
                "latents": f"l{key}", "sigma": 1 - i / 10, "timestep": None,
                "source": "computed", "seconds": 1.0, **facts,
            }
        )
        for i, key in enumerate(keys)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("a", "b", "shared"),
    [("abc", "abc", 3), ("abc", "abd", 2), ("abc", "xbc", 0), ("ab", "abc", 2), ("", "abc", 0)],
)
def test_leading_steps_with_equal_keys(a, b, shared):
    told = chain(links(a), links(b))
    assert (told.shared, len(told.sigmas_a), len(told.sigmas_b)) == (shared, len(a), len(b))
    assert told.strays == ()


def test_a_key_that_comes_back_is_not_shared():
    assert chain(links("abcd"), links("abxd")).shared == 2


def test_equal_keys_with_other_bytes_are_told():
    a, b = links("abcde"), links("abcdx")
    b[1] = replace(b[1], digest="other")
    b[2] = replace(b[2], digest="")  # thinned: nothing to tell
    b[3] = replace(b[3], digest="", latents="other")
    b[4] = replace(b[4], digest="other")  # another key
    assert chain(a, b).strays == (1, 3)


def test_timings(tmp_path: Path):
    with open_store(tmp_path / "store") as store:
        made = record_run(store, micro())
        run, stages = store.run(made.id), store.stages(made.id)
    steps = links("abcde")
    steps = [replace(step, seconds=float(number)) for number, step in enumerate((*steps,))]
    steps[:2] = [replace(step, source="reused", seconds=0.0) for step in steps[:2]]
    told = timings(run, stages, steps)
    assert (told.computed, told.reused, told.step) == (3, 2, 3.0)
    assert [(stage.name, stage.seconds) for stage in told.stages] == [("denoise", 0.25)]
    assert told.total == run.seconds
    assert timings(run, [], steps[:2]).step is None
