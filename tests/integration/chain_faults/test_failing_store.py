"""A store that fails for a while gets what it missed, and each trouble is told once."""

from __future__ import annotations

import contextlib
import itertools
import re
import signal
import sys
from collections.abc import Callable, Iterator

from engine import client
from engine.chain import journal
from presets.encoding import encode_spec
from store.blobs.blobs import blob_path
from store.index.index import open_index
from store.index.previews import get_preview
from store.lineage.events import (
    Event,
    Message,
    StepFinished,
)
from store.lineage.records import RunRecord, Segment
from store.store import Store
from tests.benchmark.storm import check_store
from tests.integration.chain_runs import (
    NUM_TEXTS,
    QUICK,
    STEPS,
    VIDEO,
    assert_same,
    computed,
    done,
    enqueue,
    gated,
    held,
    last_plan,
    no_room,
    of_stage,
    spec_of,
    steps,
    told,
    wait_for,
    wait_until,
    warnings,
)


@contextlib.contextmanager
def away(store: Store) -> Iterator[None]:
    """A store without the folder for its drafts: no blob can be written, the database can."""
    drafts = store.root / "tmp"
    aside = drafts.rename(store.root / "aside")
    try:
        yield
    finally:
        aside.rename(drafts)


class Failing:
    """A store that takes no blob from a step of a run on to another one; what is seen then.

    until: the store works again before that step is told of. look: called with each step meanwhile and after."""

    def __init__(
        self, store: Store, first: int, until: int, look: Callable[[int], None] = lambda step: None
    ) -> None:
        self.store = store
        self.first, self.until = first, until
        self.look = look
        self._stack = contextlib.ExitStack()

    def __call__(self, run: RunRecord, event: Event) -> None:
        if not isinstance(event, StepFinished):
            return
        if event.step == self.first - 1:
            wait_until(lambda: len(steps(self.store, run.id)) == event.step, "stored")
            self._stack.enter_context(away(self.store))
        if event.step == self.until - 1:
            self._stack.close()
        self.look(event.step)


def stored_steps(store: Store, run_id: str) -> list[int]:
    """The steps of which the store has bytes, from 1."""
    links = {link.index: link.key for link in store.links_of(run_id) if link.stage == "step"}
    found = store.find_links(list(links.values()))
    return [
        index + 1
        for index, key in sorted(links.items())
        if any(
            d and blob_path(store.root, d).is_file() for d in (found[key].digest, found[key].state)
        )
    ]


def infos(store: Store, run_id: str) -> list[str]:
    return [event.text for event in told(store, run_id, Message) if event.level == "info"]


def test_a_store_that_fails_for_a_while_gets_what_it_missed_before_the_run_ends(here, calm):
    """Told when it begins and when it ends, while the run goes on."""
    store, spec = here.store, spec_of("scheduler.steps=16")
    run_id = enqueue(store, spec)

    def look(step: int) -> None:
        if step == 5:
            wait_until(lambda: len(warnings(store, run_id)) == 1, "told")
            assert len(steps(store, run_id)) == 2
        if step == 9:
            wait_until(lambda: len(steps(store, run_id)) == 9, "caught up")

    here.work(Failing(store, 3, 8, look))
    [warning] = warnings(store, run_id)
    assert warning.startswith("step 3 could not be stored yet (reading or writing ")
    assert any(
        re.match("steps are stored again, [1-9] of them late$", t) for t in infos(store, run_id)
    )
    assert stored_steps(store, run_id) == list(range(1, 17))
    assert_same(store, run_id, calm, spec)
    check_store(store)


def test_each_trouble_of_a_store_is_told_once(here, calm):
    store, spec = here.store, spec_of("scheduler.steps=16")
    run_id = enqueue(store, spec)
    troubles = Failing(store, 3, 6), Failing(store, 9, 12)

    def look(run: RunRecord, event: Event) -> None:
        for each in troubles:
            each(run, event)

    here.work(look)
    assert [text[:7].strip() for text in warnings(store, run_id)] == ["step 3", "step 9"]
    assert stored_steps(store, run_id) == list(range(1, 17))
    assert_same(store, run_id, calm, spec)


def test_a_store_that_fails_to_the_end_costs_the_steps_and_says_how_many(here, calm):
    store, spec = here.store, spec_of(kinds=VIDEO)
    run_id = enqueue(store, spec)
    stack = contextlib.ExitStack()

    def look(run: RunRecord, event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == 2:
            wait_until(lambda: len(steps(store, run_id)) == 2, "stored")
            stack.enter_context(away(store))

    with stack:
        here.work(look)
    assert done(store, run_id)
    assert (
        len(warnings(store, run_id)) == 4
    )  # the first step, the rest of them, the latents, the video
    assert warnings(store, run_id)[1].startswith("6 of the steps could not be stored: ")
    assert stored_steps(store, run_id) == [1, 2]
    again = here.make(spec)
    assert last_plan(store, again).reused_steps == 2
    assert_same(store, again, calm, spec)


def test_what_is_kept_in_memory_is_bounded_and_the_newest_of_it_can_be_gone_on_from(
    here, calm, monkeypatch
):
    store, spec = here.store, spec_of("scheduler.steps=16")
    first = here.make(spec_of("scheduler.steps=2"))
    key = of_stage(store, first, "step").key
    step_bytes = store.find_links([key])[key].num_bytes
    monkeypatch.setattr(journal, "HELD_BYTES", 3 * step_bytes)
    run_id = enqueue(store, spec)
    here.work(Failing(store, 3, 12))
    assert done(store, run_id)
    assert [index for index, _, _ in steps(store, run_id)] == list(range(16))
    kept = stored_steps(store, run_id)
    assert kept[:2] == [1, 2]
    assert kept[-1] == 16
    assert 4 < 16 - len(kept) < 11
    assert [text for text in warnings(store, run_id) if "could not be kept in memory" in text]
    assert store.run(run_id).latents == calm.store.run(calm.make(spec)).latents
    base, branched = (
        [Segment(13, encode_spec(spec))],
        spec_of("scheduler.steps=16", "guidance.scale=6"),
    )
    branch = here.make(branched, base)
    assert computed(store, branch) == [14, 15, 16]
    assert store.run(branch).latents == calm.store.run(calm.make(branched, base)).latents
    lost = [Segment(5, encode_spec(spec))]
    earlier = here.make(branched, lost)
    assert computed(store, earlier) == list(range(3, 17))
    assert store.run(earlier).latents == calm.store.run(calm.make(branched, lost)).latents
    check_store(store)


def test_a_killed_run_goes_on_from_what_was_stored_after_the_trouble(store, engines, calm):
    spec = spec_of("scheduler.steps=16")
    run_id = enqueue(store, spec)
    trouble = no_room("os:write", "ENOSPC", "/store/tmp/", NUM_TEXTS + 3, NUM_TEXTS + 8)
    death = {
        "fault": "kill",
        "target": "store.lineage.queue:set_latents",
        "call": 1,
        "when": "before",
    }
    assert engines.serve(store.root, trouble, death) == -signal.SIGKILL
    assert store.recover() == [run_id]
    assert len(warnings(store, run_id)) == 1
    assert "no space left" in warnings(store, run_id)[0]
    client.resume(store, run_id)
    assert engines.serve(store.root) == 0
    assert last_plan(store, run_id).reused_steps == 16
    assert_same(store, run_id, calm, spec)
    check_store(store)


def test_a_database_that_is_held_for_long_gets_the_steps_once_it_is_free(
    store, engines, calm, gate
):
    spec = spec_of()
    run_id = enqueue(store, spec)
    engine = engines.start(store.root, gated(gate), QUICK)
    log = store.root / "logs" / f"engine-{engine}.log"
    wait_for(store, run_id, StepFinished)
    with held(store) as viewer:
        gate.touch()
        wait_until(lambda: "could not be stored yet" in log.read_text(), "told")
        if sys.platform == "linux":
            assert f"is locked by process {viewer.pid} (" in log.read_text()
    assert engines.wait(engine) == 0
    assert stored_steps(store, run_id) == list(range(1, STEPS + 1))
    assert_same(store, run_id, calm, spec)
    check_store(store)


def test_a_preview_that_cannot_be_made_costs_that_one(here, monkeypatch):
    calls = itertools.count(1)
    put = journal.put_preview

    def put_preview(*given):
        if next(calls) == 3:
            raise ValueError("no picture of that")
        put(*given)

    monkeypatch.setattr(journal, "put_preview", put_preview)
    run_id = here.make(spec_of())
    with open_index(here.store.root) as index:
        has = [get_preview(index, key) is not None for _, key, _ in steps(here.store, run_id)]
    assert has == [True, True, False, True, True, True, True, True]
