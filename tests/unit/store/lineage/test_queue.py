"""The queue under one process, under several at once, and after deaths."""

from __future__ import annotations

import re

import pytest

from store.database.database import immediate
from store.errors import StoreError, UnknownRun
from store.lineage import queue
from store.lineage.events import RunFinished, RunPaused, RunQueued, RunResumed, RunStarted
from store.lineage.records import FINAL_STATUSES, Segment
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


def test_queued_runs_are_counted(store, engine):
    assert store.num_queued() == 0
    for _ in range(3):
        enqueue(store)
    assert store.num_queued() == len(store.queued()) == 3
    store.lease(engine)
    assert store.num_queued() == len(store.queued()) == 2


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


def test_several_are_cancelled_in_one_moment(store, engine):
    running, *queued = [enqueue(store) for _ in range(3)]
    store.lease(engine)
    store.request_cancel_all([queued[0], "nothing", running, queued[1]])
    assert [store.run(each).status for each in queued] == ["cancelled", "cancelled"]
    assert [store.events(each)[-1][1] for each in queued] == [RunFinished("cancelled")] * 2
    assert (store.run(running).status, store.cancel_requested(running)) == ("running", True)
    assert store.lease(engine) is None


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


# Branches


def test_a_branch_carries_the_specs_of_what_it_shares(store):
    parent = enqueue(store)
    segments = (Segment(3, b'{"prompt":"\xc3\xbc, [1]"}'), Segment(7, b"{}"))
    run_id = store.enqueue(
        b"{}",
        preset="p",
        output="o",
        parent=parent,
        parent_step=7,
        segments=segments,
        stop_at=12,
    )
    run = store.run(run_id)
    assert (run.parent, run.parent_step, run.segments, run.stop_at) == (parent, 7, segments, 12)
    plain = store.run(parent)
    assert (plain.parent, plain.parent_step, plain.segments, plain.stop_at) == ("", None, (), None)
    assert (plain.origin, plain.note, plain.pinned) == ("local", "", False)


@pytest.mark.parametrize("stops", [(0,), (3, 3), (5, 2), (-1, 4)])
def test_segments_that_do_not_rise_are_refused(store, stops):
    with pytest.raises(ValueError, match="segments stop"):
        store.enqueue(b"{}", preset="p", output="o", segments=[Segment(s, b"{}") for s in stops])
    with pytest.raises(ValueError, match="stop_at is -1"):
        store.enqueue(b"{}", preset="p", output="o", stop_at=-1)
    assert store.runs(limit=9) == []


def test_the_parent_of_a_new_run_must_be_there(store):
    with pytest.raises(UnknownRun, match="nothing"):
        store.enqueue(b"{}", preset="p", output="o", parent="nothing")
    assert store.runs(limit=9) == []


def test_a_run_keeps_what_it_found_out(store):
    run_id = enqueue(store)
    digest = "sha256:" + "0" * 64
    store.set_latents(run_id, digest)
    store.set_environment(run_id, '{"torch":"2"}')
    run = store.run(run_id)
    assert (run.latents, run.environment) == (digest, '{"torch":"2"}')


# Runs of an engine's own, and those that verify another


def test_a_run_can_be_of_a_process_that_serves_nobody(store, engine):
    waiting = enqueue(store)
    with store.alone() as own:
        run_id = store.enqueue(b"{}", preset="p", output="", engine=own)
        run = store.run(run_id)
        assert (run.status, run.engine) == ("running", own)
        assert run.started_ns is not None
        assert kinds(store, run_id) == [RunQueued, RunStarted]
        assert [found.id for found in store.engines()] == [engine]
        assert store.recover() == []
        assert store.lease(engine).id == waiting
        assert store.lease(engine) is None
    assert store.recover() == [run_id]
    assert store.run(run_id).status == "interrupted"


def test_a_run_that_verifies_another_is_leased_in_order_and_seen_by_nobody_else(store, engine):
    run_id = enqueue(store)
    again = store.enqueue(b"{}", preset="p", output="o", parent=run_id, verifies=run_id)
    last = enqueue(store)
    assert (store.run(again).verifies, store.run(run_id).verifies) == (run_id, "")
    assert (store.num_queued(), order(store)) == (2, [run_id, last])
    assert [run.id for run in store.runs(limit=9)] == [last, run_id]
    assert store.search(limit=9, words=[again]) == []
    assert (store.children(run_id), store.branches()) == ([], [])
    assert [run.id for run, _ in store.tree(run_id)] == [run_id]
    assert store.resolve(again) == again
    with pytest.raises(UnknownRun):
        store.resolve(again[:9])
    assert [store.lease(engine).id for _ in range(3)] == [run_id, again, last]
    assert [run.id for run in store.runs(limit=9, status="running")] == [last, run_id]
    assert store.request_cancel(again) == "running"
    assert store.cancel_requested(again)
    store.finish(again, "cancelled")
    store.remove([again])
    with pytest.raises(UnknownRun):
        store.run(again)


def test_only_a_run_that_is_there_can_be_verified(store):
    with pytest.raises(UnknownRun, match="nothing"):
        store.enqueue(b"{}", preset="p", output="o", verifies="nothing")
    assert store.lineage.db.execute("SELECT count(*) FROM runs").fetchone() == (0,)


def test_an_engine_does_not_leave_while_a_verification_waits(store, engine):
    run_id = enqueue(store)
    store.request_cancel(run_id)
    again = store.enqueue(b"{}", preset="p", output="o", verifies=run_id)
    assert not store.retire_engine(engine)
    assert store.lease(engine).id == again


def test_a_verification_is_dropped_an_hour_after_its_end(store, engine):
    run_id = enqueue(store)
    old, young, running = (
        store.enqueue(b"{}", preset="p", output="o", verifies=run_id) for _ in range(3)
    )
    for each in (run_id, old, young):
        store.request_cancel(each)
    store.lease(engine)
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE runs SET created_ns=1, ended_ns=ended_ns-3601*1000000000")
        connection.execute("UPDATE runs SET ended_ns=ended_ns+60*1000000000 WHERE id=?", (young,))
    assert store.sweep() == 1
    assert store.run(run_id).status == "cancelled"
    assert [store.run(each).id for each in (young, running)] == [young, running]
    with pytest.raises(UnknownRun):
        store.run(old)
    assert store.sweep() == 0


# Pause, resume


def test_pausing_a_queued_run_takes_it_from_the_queue(store, engine):
    first, second = enqueue(store), enqueue(store)
    assert store.request_pause(first) == "paused"
    run = store.run(first)
    assert (run.status, run.is_paused, run.is_finished) == ("paused", True, True)
    assert kinds(store, first) == [RunQueued, RunPaused, RunFinished]
    assert store.events(first)[-1][1] == RunFinished("paused")
    assert store.lease(engine).id == second
    assert store.lease(engine) is None


def test_pausing_a_running_run_asks_its_engine(store, engine):
    run_id = enqueue(store)
    store.lease(engine)
    assert not store.pause_requested(run_id)
    assert store.request_pause(run_id) == "running"
    assert store.pause_requested(run_id)
    assert store.run(run_id).pause_requested
    assert not store.cancel_requested(run_id)
    store.finish(run_id, "paused")
    assert store.run(run_id).status == "paused"
    assert kinds(store, run_id) == [RunQueued, RunStarted, RunPaused, RunFinished]
    assert store.request_pause(run_id) == "paused"
    assert store.request_cancel(run_id) == "paused"
    assert not store.pause_requested("nothing")


def test_pausing_a_run_that_ended_changes_nothing(store, engine):
    run_id = enqueue(store)
    store.lease(engine)
    store.finish(run_id, "done")
    before = store.events(run_id)
    assert store.request_pause(run_id) == "done"
    assert store.events(run_id) == before
    with pytest.raises(UnknownRun):
        store.request_pause("nothing")


def test_pausing_the_run_of_a_dead_engine_says_what_became_of_it(store, engine):
    run_id = enqueue(store)
    store.lease(engine)
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE runs SET engine='ghost'")
    assert store.request_pause(run_id) == "interrupted"


@pytest.mark.parametrize("status", [status for status in FINAL_STATUSES if status != "done"])
def test_a_run_at_rest_is_resumed_as_if_it_were_new(store, engine, status):
    run_id = enqueue(store)
    store.lease(engine)
    store.request_cancel(run_id)
    store.request_pause(run_id)
    store.finish(run_id, status, error="a reason", output="/elsewhere.mp4")
    store.resume(run_id)
    run = store.run(run_id)
    assert (run.status, run.engine, run.error, run.seconds) == ("queued", "", "", None)
    assert (run.started_ns, run.ended_ns, run.output) == (None, None, "/elsewhere.mp4")
    assert not any((run.cancel_requested, run.pause_requested, run.is_paused, run.is_finished))
    assert [event for _, event in store.events(run_id)][-2:] == [RunResumed(status), RunQueued()]
    assert store.lease(engine).id == run_id
    store.finish(run_id, "done")
    assert store.run(run_id).status == "done"
    assert kinds(store, run_id).count(RunFinished) == 2


def test_only_a_run_that_stopped_before_its_end_is_resumed(store, engine):
    done = enqueue(store)
    early = store.enqueue(b"{}", preset="micro", output="/videos/e.mp4", stop_at=2)
    running, queued = enqueue(store), enqueue(store)
    for run_id in (done, early):
        store.lease(engine)
        store.finish(run_id, "done")
    store.lease(engine)
    for run_id, reason in [
        (done, f"is done; `modiff replay {done}`"),
        (early, f"is done up to its step 2, as it was to; `modiff finish {early}`"),
        (running, "is running;"),
        (queued, "is queued;"),
    ]:
        before = store.events(run_id)
        with pytest.raises(StoreError, match=reason) as caught:
            store.resume(run_id)
        assert "\n" not in str(caught.value)
        assert store.events(run_id) == before
    with pytest.raises(UnknownRun):
        store.resume("nothing")


def test_a_run_that_was_to_stop_early_is_continued(store, engine):
    run_id = store.enqueue(b"{}", preset="p", output="o", stop_at=5)
    store.lease(engine)
    store.finish(run_id, "done")
    for stop_at in (5, 4):
        with pytest.raises(StoreError, match="stop at step 5 already"):
            store.continue_run(run_id, stop_at)
    store.continue_run(run_id, 8)
    run = store.run(run_id)
    assert (run.status, run.stop_at) == ("queued", 8)
    with pytest.raises(StoreError, match="is queued"):
        store.continue_run(run_id)
    assert store.run(run_id).stop_at == 8
    store.lease(engine)
    store.finish(run_id, "failed")
    store.continue_run(run_id)
    run = store.run(run_id)
    assert (run.status, run.stop_at) == ("queued", None)
    assert [e.status for _, e in store.events(run_id) if isinstance(e, RunResumed)] == [
        "done",
        "failed",
    ]


def test_a_run_that_did_all_its_steps_is_not_continued(store, engine):
    run_id = enqueue(store)
    store.lease(engine)
    store.finish(run_id, "done")
    with pytest.raises(StoreError, match="was not to stop early"):
        store.continue_run(run_id)
    assert store.run(run_id).status == "done"


# Order


def order(store):
    return [run.id for run in store.queued()]


def test_a_resumed_run_waits_behind_those_that_are_queued(store, engine):
    first, second = enqueue(store), enqueue(store)
    store.request_pause(first)
    third = enqueue(store)
    store.resume(first)
    fourth = enqueue(store)
    assert order(store) == [second, third, first, fourth]
    assert [store.lease(engine).id for _ in range(4)] == [second, third, first, fourth]


def test_queued_runs_can_be_put_in_another_order(store, engine):
    a, b, c, d = (enqueue(store) for _ in range(4))
    store.reorder(d, b)
    assert order(store) == [a, d, b, c]
    store.reorder(a, None)
    assert order(store) == [d, b, c, a]
    store.reorder(d, c)
    assert order(store) == [b, d, c, a]
    store.reorder(b, b)
    store.reorder(a, None)
    assert order(store) == [b, d, c, a]
    e = enqueue(store)
    store.reorder(e, b)
    f = enqueue(store)
    assert [store.lease(engine).id for _ in range(6)] == [e, b, d, c, a, f]


def test_only_queued_runs_have_an_order(store, engine):
    running, queued, other = (enqueue(store) for _ in range(3))
    store.lease(engine)
    for pair in [(running, queued), (queued, running), (running, None)]:
        with pytest.raises(StoreError, match=f"run {running} is running"):
            store.reorder(*pair)
    for pair in [("nothing", queued), (queued, "nothing")]:
        with pytest.raises(UnknownRun):
            store.reorder(*pair)
    assert order(store) == [queued, other]


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
