"""The queue under one process, under several at once, and after deaths."""

from __future__ import annotations

import re

import pytest

from store import queue
from store.database import immediate
from store.errors import StoreError, UnknownRun
from store.events import RunFinished, RunQueued, RunStarted
from store.records import FINAL_STATUSES
from store.store import open_store


def enqueue(store, output="/videos/v.mp4", spec=b"{}"):
    return store.enqueue(spec, preset="micro", output=output)


def kinds(store, run_id):
    return [type(event) for _, event in store.events(run_id)]


def test_a_queued_run_keeps_what_was_asked_for(store):
    spec = '{"prompt":"ein roter Kreis ünd \\u0000"}'.encode()
    run_id = enqueue(store, spec=spec)
    assert re.fullmatch(r"[a-z2-7]{10}", run_id)
    run = store.run(run_id)
    assert (run.status, run.preset, run.spec_json, run.output) == (
        "queued",
        "micro",
        spec,
        "/videos/v.mp4",
    )
    assert (run.engine, run.error, run.cancel_requested, run.seconds) == ("", "", False, None)
    assert not run.is_finished
    assert kinds(store, run_id) == [RunQueued]


def test_the_output_may_name_the_run(store):
    run_id = enqueue(store, output="/videos/modiff-{run}.mp4")
    assert store.run(run_id).output == f"/videos/modiff-{run_id}.mp4"


def test_runs_are_leased_oldest_first_and_once(store, engine):
    queued = [enqueue(store) for _ in range(3)]
    leased = [store.lease(engine) for _ in range(3)]
    assert [run.id for run in leased] == queued
    assert store.lease(engine) is None
    assert {run.status for run in leased} == {"running"}
    assert store.events(queued[0])[-1][1].engine == engine
    assert kinds(store, queued[0]) == [RunQueued, RunStarted]


def test_an_engine_must_be_registered_to_lease(store):
    enqueue(store)
    with pytest.raises(StoreError, match="not registered"):
        store.lease("stranger")


@pytest.mark.parametrize("status", FINAL_STATUSES)
def test_a_run_ends_once_with_its_last_event(store, engine, status):
    run_id = enqueue(store)
    store.lease(engine)
    store.finish(run_id, status, error="a reason", output="/elsewhere.mp4")
    run = store.run(run_id)
    assert (run.status, run.error, run.output) == (status, "a reason", "/elsewhere.mp4")
    assert run.is_finished
    assert run.seconds >= 0
    assert store.events(run_id)[-1][1] == RunFinished(status, "a reason")
    with pytest.raises(StoreError, match=f"is {status}"):
        store.finish(run_id, "done")
    assert kinds(store, run_id).count(RunFinished) == 1


def test_a_run_that_was_not_leased_or_does_not_exist_cannot_end(store):
    run_id = enqueue(store)
    with pytest.raises(StoreError, match="is queued"):
        store.finish(run_id, "done")
    with pytest.raises(UnknownRun):
        store.finish("nothing", "done")
    with pytest.raises(ValueError, match="does not end"):
        store.finish(run_id, "running")


def test_cancelling_a_queued_run_ends_it(store, engine):
    first, second = enqueue(store), enqueue(store)
    assert store.request_cancel(first) == "cancelled"
    assert store.run(first).status == "cancelled"
    assert store.events(first)[-1][1] == RunFinished("cancelled")
    assert store.lease(engine).id == second


def test_cancelling_a_running_run_asks_its_engine(store, engine):
    run_id = enqueue(store)
    store.lease(engine)
    assert not store.cancel_requested(run_id)
    assert store.request_cancel(run_id) == "running"
    assert store.cancel_requested(run_id)
    store.finish(run_id, "cancelled")
    assert store.request_cancel(run_id) == "cancelled"


def test_cancelling_a_finished_run_changes_nothing(store, engine):
    run_id = enqueue(store)
    store.lease(engine)
    store.finish(run_id, "done")
    before = store.events(run_id)
    assert store.request_cancel(run_id) == "done"
    assert store.events(run_id) == before
    with pytest.raises(UnknownRun):
        store.request_cancel("nothing")


def test_a_prefix_names_a_run_when_it_is_unique(store, monkeypatch):
    ids = iter(["abcdefgh22", "abcdefgh33", "zzzzzzzzzz", "zzzzzzzzzz", "abxxxxxxxx"])
    monkeypatch.setattr(queue, "new_id", lambda: next(ids))
    for _ in range(4):
        enqueue(store)
    assert store.resolve("z") == "zzzzzzzzzz"
    assert store.resolve(" ABCDEFGH2 ") == "abcdefgh22"
    assert store.resolve("abcdefgh33") == "abcdefgh33"
    with pytest.raises(UnknownRun) as caught:
        store.resolve("abc")
    assert "abcdefgh22" in str(caught.value)
    assert "abcdefgh33" in str(caught.value)
    assert "abxxxxxxxx" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "  ", "q", "*", "%", "a_", "[a-z]", "ab cd", "a" * 11, "é"])
def test_what_names_no_run_is_refused(store, prefix):
    enqueue(store)
    with immediate(store.lineage) as connection:
        connection.execute("DELETE FROM events")
        connection.execute("UPDATE runs SET id='aaaaaaaaaa'")
    with pytest.raises(UnknownRun):
        store.resolve(prefix)


def test_many_candidates_are_cut_short(store, monkeypatch):
    monkeypatch.setattr(queue, "new_id", iter([f"{'a' * 9}{i}" for i in "bcdefgh"]).__next__)
    for _ in range(7):
        enqueue(store)
    with pytest.raises(UnknownRun, match=r"(a{9}[b-h], ){5}\.\.\.$"):
        store.resolve("a")


def test_runs_are_listed_newest_first_by_status(store, engine):
    queued = [enqueue(store) for _ in range(4)]
    store.lease(engine)
    assert [run.id for run in store.runs(limit=3)] == queued[:0:-1]
    assert [run.id for run in store.runs(limit=9, status="running")] == queued[:1]
    assert [run.id for run in store.runs(limit=9, status="queued")] == queued[:0:-1]
    with pytest.raises(StoreError, match="unknown status"):
        store.runs(limit=9, status="crashed")


def test_order_does_not_depend_on_the_clock(store, engine, monkeypatch):
    clock = iter(range(10**18, 0, -(10**15)))
    monkeypatch.setattr(queue.time, "time_ns", lambda: next(clock))
    queued = [enqueue(store) for _ in range(3)]
    assert [run.id for run in store.runs(limit=9)] == queued[::-1]
    run = store.lease(engine)
    assert run.id == queued[0]
    store.finish(run.id, "done")
    assert store.run(run.id).seconds == 0


ENQUEUE_MANY = """
import sys
from store.store import open_store
with open_store(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(sys.argv[2])):
        print(store.enqueue(b"{}", preset="p", output="o"))
"""

LEASE_MANY = """
import os, sys
from store.store import open_store
with open_store(sys.argv[1]) as store, store.register_engine(sys.argv[2], pid=os.getpid()):
    print("ready", flush=True)
    sys.stdin.readline()
    missed = 0
    while missed < 200:
        run = store.lease(sys.argv[2])
        if run is None:
            missed += 1
            continue
        print(run.id)
        store.finish(run.id, "done")
    store.unregister_engine(sys.argv[2])
"""


def test_no_run_is_lost_or_leased_twice_by_processes_at_once(start, root):
    with open_store(root) as store:
        queued = {enqueue(store) for _ in range(40)}
        producers = [start(ENQUEUE_MANY, root, 40) for _ in range(2)]
        consumers = [start(LEASE_MANY, root, f"engine{i}") for i in range(2)]
        for process in producers + consumers:
            process.read()
        for process in producers + consumers:
            process.go()
        queued.update(line for process in producers for line in process.finish())
        assert len(queued) == 120
        leased = [line for process in consumers for line in process.finish()]
        with store.register_engine("last", pid=1):
            while (run := store.lease("last")) is not None:
                leased.append(run.id)
                store.finish(run.id, "done")
        assert sorted(leased) == sorted(queued)
        for run_id in queued:
            assert kinds(store, run_id) == [RunQueued, RunStarted, RunFinished]
        store.check()
