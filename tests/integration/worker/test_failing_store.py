"""A store that fails for a while costs events, never a run or the queue; one that grows is cleaned."""

from __future__ import annotations

import contextlib
import os

import pytest

from engine.process.version import installed_version
from engine.process.worker import FINISH_PAUSES_SECONDS, RETRY_SECONDS, Worker
from store.blobs.files import FULL_ADVICE
from store.errors import FileTooLarge, StoreFailing, StoreUnwritable
from store.lineage.events import (
    Message,
    RunFinished,
)
from store.store import Store, open_store
from store.upkeep.gc import writing
from tests.integration.worker_runs import enqueue
from tests.stores.made_stores import STEP_BYTES, make_run, on_disk

# A store that fails


class Ready:
    """A runner that does what it is told, in this process."""

    def __init__(self, act):
        self.act = act

    def execute(self, run, spec, *, emit, cancelled, paused, between):
        self.act(emit)
        return run.output


class Asked:
    is_set = False


@contextlib.contextmanager
def full(store):
    """A disk without space for more pages of the database."""
    connection = store.lineage.db.conn
    connection.execute(
        f"PRAGMA max_page_count={connection.execute('PRAGMA page_count').fetchone()[0]}"
    )
    yield
    connection.execute("PRAGMA max_page_count=1000000")


def work(store, act):
    """Execute the queue by a worker of this process until nothing is left."""
    with store.register_engine("engineaaaa", pid=os.getpid(), version=installed_version()):
        Worker(store, "engineaaaa", lambda root: Ready(act), Asked()).work(idle_seconds=0)


def test_events_that_the_store_cannot_take_are_dropped_and_the_run_goes_on(store, caplog):
    def act(emit):
        emit(Message("info", "before"))
        with full(store):
            emit(Message("info", "x" * 1_000_000))
            emit(Message("info", "y" * 1_000_000))
        emit(Message("info", "after"))

    run_id = enqueue(store, "steps 1")
    work(store, act)
    told = [event.text for _, event in store.events(run_id) if isinstance(event, Message)]
    assert told == ["before", "after"]
    assert store.run(run_id).status == "done"
    assert [r.message for r in caplog.records if "events are dropped" in r.message] == [
        f"run {run_id}: events are dropped: no space left for {store.lineage.path} "
        f"(database or disk is full); {FULL_ADVICE}"
    ]


@pytest.fixture
def other(store):
    """Another connection that writes to the store, for as long as its transaction is open."""
    with open_store(store.root) as opened:
        yield opened.lineage.db.conn


def test_the_end_of_a_run_is_recorded_once_the_store_takes_it(store, other, monkeypatch):
    store.lineage.db.conn.execute("PRAGMA busy_timeout=1")
    run_id = enqueue(store, "steps 1")
    pauses = []

    def pause(worker, seconds):
        pauses.append(seconds)
        other.execute("ROLLBACK")

    monkeypatch.setattr(Worker, "_sleep", pause)
    work(store, lambda emit: other.execute("BEGIN IMMEDIATE"))
    assert store.run(run_id).status == "done"
    assert pauses == [FINISH_PAUSES_SECONDS[0]]


def test_the_end_of_a_run_that_cannot_be_recorded_is_before_the_next_one_starts(
    store, other, monkeypatch, caplog
):
    store.lineage.db.conn.execute("PRAGMA busy_timeout=1")
    first, second = enqueue(store, "steps 1"), enqueue(store, "steps 1")
    pauses = []

    def pause(worker, seconds):
        pauses.append(seconds)
        if seconds == RETRY_SECONDS:  # the store comes back while the queue waits
            other.execute("ROLLBACK")

    monkeypatch.setattr(Worker, "_sleep", pause)
    work(store, lambda emit: pauses or other.execute("BEGIN IMMEDIATE"))
    assert pauses == [*FINISH_PAUSES_SECONDS, RETRY_SECONDS]
    assert f"run {first}: its end (done) is not recorded" in caplog.text
    assert [store.run(run_id).status for run_id in (first, second)] == ["done", "done"]
    assert store.recover() == []


class Listening(Ready):
    """One that asks whether it is to stop."""

    def execute(self, run, spec, *, emit, cancelled, paused, between):
        assert not cancelled()
        assert not paused()
        return super().execute(
            run, spec, emit=emit, cancelled=cancelled, paused=paused, between=between
        )


@pytest.mark.parametrize("error", [StoreFailing, StoreUnwritable])
@pytest.mark.parametrize(
    "call", ["lease", "append", "finish", "retire_engine", "cancel_requested", "pause_requested"]
)
def test_a_disk_that_fails_for_a_moment_costs_neither_a_run_nor_the_engine(
    store, monkeypatch, caplog, call, error
):
    real, num_failed = getattr(Store, call), 0

    def fail(self, *arguments, **options):
        nonlocal num_failed
        if num_failed < 2:
            num_failed += 1
            raise error("disk I/O error")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Store, call, fail)
    monkeypatch.setattr(Worker, "_sleep", lambda worker, seconds: None)
    runs = [enqueue(store, "steps 1") for _ in range(2)]
    with store.register_engine("engineaaaa", pid=os.getpid(), version=installed_version()):
        runner = Listening(lambda emit: [emit(Message("info", "x")) for _ in range(3)])
        Worker(store, "engineaaaa", lambda root: runner, Asked()).work(idle_seconds=0)
    assert num_failed == 2
    assert [store.run(run_id).status for run_id in runs] == ["done", "done"]
    assert len([r for r in caplog.records if "disk I/O error" in r.message]) in (1, 2)


def test_an_engine_that_may_make_no_larger_files_ends_with_that(store, monkeypatch):
    def fail(self, *arguments, **options):
        raise FileTooLarge("lineage.db is larger than files may be here")

    monkeypatch.setattr(Store, "lease", fail)
    with pytest.raises(FileTooLarge):
        work(store, lambda emit: None)


def test_an_engine_whose_disk_does_not_come_back_leaves(store, monkeypatch):
    def fail(self, *arguments, **options):
        raise StoreFailing("disk I/O error")

    monkeypatch.setattr(Store, "lease", fail)
    monkeypatch.setattr(Store, "num_queued", fail)
    worker = Worker(store, "engineaaaa", lambda root: Ready(lambda emit: None), Asked())
    worker.owed.append(("a run", "done", "", ""))
    monkeypatch.setattr(Store, "finish", fail)
    worker.work(idle_seconds=0)


# A store that grows


def test_a_store_over_its_budget_is_cleaned_after_a_run_and_the_run_told(
    store, monkeypatch, caplog
):
    caplog.set_level("INFO", "engine.process.worker")
    old, kept = make_run(store, "old", age_days=9), make_run(store, "kept", pinned=True)
    paused = make_run(store, "paused", paused=True, age_days=9)
    own = make_run(store, "own", age_days=9)  # the steps that the run below makes, say
    monkeypatch.setattr("store.upkeep.gc.default_budget", lambda root: 5 * STEP_BYTES)
    run_id = enqueue(store, "steps 1")
    before = on_disk(store)

    def act(emit):
        for index, key in enumerate(own.keys):
            link = store.find_links([key])[key]
            given = {"stage": "step", "index": index, "source": "reused", "seconds": 0.0}
            store.record_link(run_id, link, **given)

    work(store, act)
    assert before - on_disk(store) == set(old.steps)
    assert {*kept.steps, *paused.steps, *own.steps} <= on_disk(store)
    text = "a clean-up freed 0.0 MB that can be computed again"
    told = [event for _, event in store.events(run_id)]
    assert told[-2:] == [Message("info", text), RunFinished("done")]
    assert text in caplog.text


def test_a_clean_up_that_cannot_be_costs_the_run_nothing(store, monkeypatch, caplog):
    make_run(store, "old")
    monkeypatch.setattr("store.upkeep.gc.default_budget", lambda root: 0)
    monkeypatch.setattr("store.upkeep.gc.COLLECTOR_SECONDS", 0.02)
    run_id = enqueue(store, "steps 1")
    before = on_disk(store)
    with writing(store.root):
        work(store, lambda emit: None)
    assert store.run(run_id).status == "done"
    assert on_disk(store) == before
    assert "no clean-up: a run is writing into the store" in caplog.text
