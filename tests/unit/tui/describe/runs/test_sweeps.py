"""Variants of a run: which there are, what they come to together, and that all of them are queued or none."""

from __future__ import annotations

import pytest

from engine.runs import sweep
from engine.runs.sweep import new_tag, parse_axes, queue_members
from presets.errors import PresetError
from presets.library.loading import load_preset
from store.errors import StoreFull
from store.store import open_store
from tui.describe.runs.sweeps import PlannedSweep, planned_sweep, range_lines, sweep_lines, variants


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store() as opened:
        yield opened


def micro(*overrides: str):
    return load_preset("micro", ["scheduler.steps=6", *overrides])


def test_a_variant_is_the_run_with_other_values(store):
    found = variants(store, micro("guidance.scale=3"), ["seed=1..2"], stop_at=4)
    assert [(member.spec.seed, member.spec.guidance.scale) for member in found] == [(1, 3), (2, 3)]


def test_an_output_of_its_own_is_a_pattern(store):
    found = variants(store, micro('output.path="{index}.mp4"'), ["seed=1..2"], stop_at=None)
    assert [member.spec.output.path for member in found] == ["1.mp4", "2.mp4"]
    with pytest.raises(PresetError, match="would be written by several runs"):
        variants(store, micro('output.path="one.mp4"'), ["seed=1..2"], stop_at=None)


@pytest.mark.parametrize(
    ("over", "stop_at", "words"),
    [
        (["seed=1..1001"], None, "this would be 1001 runs; expected at most 1000"),
        (["seed=1,1"], None, "is the same run as"),
        (["sede=1"], None, "sede"),
        (["seed=1..3"], 7, "expected to stop at one of 6 steps, got 7"),
        (["scheduler.steps=0,5"], None, "scheduler.steps"),
    ],
)
def test_what_cannot_be_is_refused(store, over, stop_at, words):
    with pytest.raises(PresetError, match=words):
        variants(store, micro(), over, stop_at=stop_at)


def test_what_a_range_comes_to_is_told():
    axes = parse_axes(["seed=1..81..8", "guidance.scale=1..2..0.5,4", "frames=5,9"])
    assert range_lines(axes) == [
        "seed: 11 values, 1, 9, 17, 25, 33, 41, …, 81",
        "guidance.scale: 4 values, 1, 1.5, 2, 4",
    ]


def test_shared_steps_count_once(store):
    """From step 4 on the scale differs: each of two seeds has 4 steps in common and twice 2 of its own."""
    from functools import partial

    from engine import client
    from engine.runs.sweep import make_members, parse_axes
    from presets.library.loading import override

    axes = parse_axes(["seed=1,2", "guidance.scale=3,4"])
    load, check = partial(override, micro()), partial(client.check, store)
    members = make_members(axes, load, check, from_step=4)
    found = planned_sweep(store, members)
    assert (found.num_runs, found.total_steps, found.stored_steps) == (4, 24, 0)
    assert (found.fresh_steps, found.shared_steps) == (16, 8)
    assert found.seconds is None  # no like run was made here
    assert found.bytes > 0


def test_runs_that_differ_from_the_noise_on_share_nothing(store):
    members = variants(store, micro(), ["seed=1..3"], stop_at=2)
    found = planned_sweep(store, members, stop_at=2)
    assert (found.total_steps, found.fresh_steps, found.shared_steps) == (6, 6, 0)


def test_a_plan_in_words():
    assert sweep_lines(PlannedSweep(4, 24, 3, 13, 2.0, 3 << 20)) == [
        "4 runs",
        "steps   13 of 24 steps to compute, 8 shared among them, 3 stored",
        "time    2.00 s",
        "disk    3 MiB",
    ]
    assert sweep_lines(PlannedSweep(1, 6, 6, 0, None, 0)) == [
        "1 run",
        "steps   0 of 6 steps to compute, 6 stored",
        "time    not known: no like run yet",
        "disk    nothing",
    ]


def test_all_are_queued_in_order_under_one_tag(store):
    members = variants(store, micro(), ["seed=1..3"], stop_at=2)
    tag = new_tag()
    ids = queue_members(store, members, preset="micro", stop_at=2, tag=tag)
    assert [run.id for run in store.queued()] == ids
    assert [run.id for run in store.search(limit=9, tags=[tag])] == ids[::-1]
    assert {(run.preset, run.stop_at) for run in store.queued()} == {("micro", 2)}


def test_where_one_cannot_be_queued_none_is(store, monkeypatch):
    queue_one, calls = sweep.queue_member, []

    def failing(*given, **named):
        calls.append(given)
        if len(calls) == 3:
            raise StoreFull("the disk is full")
        return queue_one(*given, **named)

    monkeypatch.setattr(sweep, "queue_member", failing)
    members = variants(store, micro(), ["seed=1..4"], stop_at=None)
    with pytest.raises(StoreFull):
        queue_members(store, members, preset="micro", stop_at=None, tag=new_tag())
    assert [run.status for run in store.runs(limit=9)] == ["cancelled", "cancelled"]
