"""A run that is ended after any step goes on to the same bits; what runs share is computed once."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from engine import client
from presets.encoding import encode_spec
from store.database.database import immediate
from store.lineage.events import (
    Event,
    StepFinished,
)
from store.lineage.records import RunRecord, Segment
from store.store import Store
from tests.benchmark.storm import check_store
from tests.integration.chain_runs import (
    SCHEDULERS,
    STEPS,
    THINNED,
    assert_same,
    computed,
    enqueue,
    last_plan,
    spec_of,
    warnings,
)


def stop_at(store: Store, step: int, request: str) -> Callable[[RunRecord, Event], None]:
    """Ask for the end of a run at the moment when it has finished that step."""

    def look(run: RunRecord, event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == step and event.source == "computed":
            getattr(store, f"request_{request}")(run.id)

    return look


def forget_all(store: Store) -> None:
    """As if nothing had been made yet."""
    with immediate(store.lineage) as connection:
        connection.execute("DELETE FROM links")


# Where the history of a solver is empty, short, whole and over; by a pause and a cancel in turn.
STOPS = {"unipc": (1, 2, 3, 6, STEPS), "dpm++": (1, 2, 5, STEPS), "euler": (1, 4)}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_run_stopped_after_any_step_goes_on_to_the_same_bits(here, calm, scheduler):
    store, spec = here.store, spec_of(f"scheduler.name={scheduler}")
    for step in STOPS[scheduler]:
        forget_all(store)
        pauses = (step + SCHEDULERS.index(scheduler)) % 2 == 0
        run_id = enqueue(store, spec)
        here.work(stop_at(store, step, "pause" if pauses else "cancel"))
        assert store.run(run_id).status == ("paused" if pauses else "cancelled")
        assert computed(store, run_id) == list(range(1, step + 1))
        client.resume(store, run_id)
        here.work()
        assert last_plan(store, run_id).reused_steps == step
        assert computed(store, run_id) == list(range(1, STEPS + 1))
        assert_same(store, run_id, calm, spec)
    check_store(store)


@pytest.mark.parametrize(
    ("scheduler", "keep"),
    [
        *(("unipc", keep) for keep in THINNED),
        ("dpm++", "keep.every=0 keep.steps=[2,5]"),
        ("euler", "keep.every=3"),
    ],
)
def test_a_thinned_run_goes_on_from_the_nearest_keyframe(here, calm, scheduler, keep):
    """One run that is stopped again and again."""
    store = here.store
    spec = spec_of(f"scheduler.name={scheduler}", *keep.split())
    run_id = enqueue(store, spec)
    reached = 0
    for step in (2, 3, 5, 8):
        here.work(stop_at(store, step, "pause"))
        assert store.run(run_id).status == "paused"
        keyframe = max((kept for kept in THINNED[keep] if kept <= reached), default=0)
        assert last_plan(store, run_id).reused_steps == keyframe
        client.resume(store, run_id)
        reached = step
    here.work()
    assert last_plan(store, run_id).reused_steps == max(THINNED[keep], default=0)
    assert_same(store, run_id, calm, spec)
    assert warnings(store, run_id) == []
    check_store(store)


def test_a_branch_may_encode_the_same_prompt_elsewhere(here, calm):
    """Where an encoder runs is in no key: both parts of the run have one prompt between them."""
    base, spec = spec_of(), spec_of("components.text_encoder.device=auto", "guidance.scale=6")
    segments = [Segment(4, encode_spec(base))]
    run_id = here.make(spec, segments)
    elsewhere = spec_of("guidance.scale=6")
    assert_same(here.store, run_id, calm, elsewhere, segments)


def test_a_sweep_computes_what_its_runs_share_once(here, calm):
    """2 seeds x 3 scales of guidance that differ from step 4 on: 2 prefixes of 4 steps."""
    store, total, at = here.store, 5, 4
    runs = []
    for seed, scale in itertools.product(range(2), (2.5, 4, 6)):
        base = spec_of(f"scheduler.steps={total}", f"seed={seed}")
        spec = spec_of(f"scheduler.steps={total}", f"seed={seed}", f"guidance.scale={scale}")
        segments = [Segment(at, encode_spec(base))]
        output = str(store.root.parent / f"{seed}-{scale}.safetensors")
        runs.append((client.submit(store, spec, output=output, segments=segments), spec, segments))
    here.work()
    counts = [len(computed(store, run_id)) for run_id, _, _ in runs]
    assert sum(counts) == 2 * at + 6 * (total - at)
    assert sorted(counts) == [total - at] * 4 + [total] * 2
    for run_id, spec, segments in (runs[1], runs[-1]):
        assert_same(store, run_id, calm, spec, segments)
