"""Engines are alive while their process holds their lock; what dies is cleared up after."""

from __future__ import annotations

import os

import pytest

from store.database.database import immediate, rows
from store.errors import EngineRetired, StoreBusy
from store.lineage.events import RunFinished
from store.lineage.records import HeldModel

ENGINE = """
import os, sys
from store.store import open_store
with open_store(sys.argv[1]) as store, store.register_engine("enginebbbb", pid=os.getpid()):
    run = store.lease("enginebbbb")
    print(run.id if run else "", flush=True)
    sys.stdin.readline()
    store.unregister_engine("enginebbbb")
"""


def test_a_live_engine_is_listed_with_its_run(start, root, store):
    run_id = store.enqueue(b"{}", preset="p", output="o")
    process = start(ENGINE, root)
    assert process.read() == run_id
    [engine] = store.engines()
    assert (engine.id, engine.pid, engine.run) == ("enginebbbb", process.child.pid, run_id)
    assert store.is_engine_alive("enginebbbb")
    assert store.recover() == []
    assert store.run(run_id).status == "running"


def test_an_engine_that_leaves_is_forgotten(start, root, store):
    process = start(ENGINE, root)
    process.read()
    process.go()
    process.finish()
    assert store.engines() == []
    assert list((root / "locks").glob("engine-*")) == []


def test_the_run_of_a_killed_engine_is_interrupted_and_the_queue_stays(start, root, store):
    first, second = (store.enqueue(b"{}", preset="p", output="o") for _ in range(2))
    process = start(ENGINE, root)
    assert process.read() == first
    process.kill()
    assert store.engines() == []
    assert not store.is_engine_alive("enginebbbb")
    assert store.recover() == [first]
    run = store.run(first)
    assert run.status == "interrupted"
    assert f"(process {process.child.pid})" in run.error
    assert run.error.endswith(f"see {root / 'logs' / f'engine-{process.child.pid}.log'}")
    assert store.events(first)[-1][1] == RunFinished("interrupted", run.error)
    assert store.run(second).status == "queued"
    assert store.recover() == []
    assert rows(store.lineage, "SELECT * FROM engines") == []
    assert list((root / "locks").glob("engine-*")) == []


def test_cancelling_the_run_of_a_killed_engine_says_what_became_of_it(start, root, store):
    run_id = store.enqueue(b"{}", preset="p", output="o")
    process = start(ENGINE, root)
    process.read()
    process.kill()
    assert store.request_cancel(run_id) == "interrupted"


def test_a_run_that_was_asked_to_stop_is_cancelled_when_its_engine_dies(start, root, store):
    run_id = store.enqueue(b"{}", preset="p", output="o")
    process = start(ENGINE, root)
    process.read()
    assert store.request_cancel(run_id) == "running"
    process.kill()
    assert store.recover() == [run_id]
    assert (store.run(run_id).status, store.run(run_id).error) == ("cancelled", "")
    assert store.events(run_id)[-1][1] == RunFinished("cancelled")


def test_a_pid_that_lives_does_not_make_an_engine_live(store):
    with immediate(store.lineage) as connection:
        connection.execute(
            "INSERT INTO engines (id, pid, host, started_ns, heartbeat_ns) VALUES ('ghost', ?, 'h', 0, 0)",
            (os.getppid(),),
        )
    assert store.engines() == []


def test_a_running_run_without_any_engine_row_is_recovered(store, engine):
    run_id = store.enqueue(b"{}", preset="p", output="o")
    store.lease(engine)
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE runs SET engine='ghost'")
    assert store.recover() == [run_id]


def test_an_engine_retires_only_when_nothing_is_queued(store, engine):
    run_id = store.enqueue(b"{}", preset="p", output="o")
    assert not store.retire_engine(engine)
    assert [found.id for found in store.engines()] == [engine]
    store.lease(engine)
    store.finish(run_id, "done")
    assert store.retire_engine(engine)
    assert store.engines() == []


def test_an_id_that_lives_cannot_be_registered_again(store, engine, monkeypatch):
    monkeypatch.setattr("store.lineage.engines.LOCK_TIMEOUT_SECONDS", 0.02)
    with pytest.raises(StoreBusy):
        store.register_engine(engine, pid=1)


def test_a_heartbeat_moves_on(store, engine):
    [before] = store.engines()
    store.heartbeat(engine)
    [after] = store.engines()
    assert after.heartbeat_ns > before.heartbeat_ns
    assert after.started_ns == before.started_ns


VERSIONED = """
import os, sys
from store.errors import EngineRetired
from store.store import open_store
with open_store(sys.argv[1]) as store, store.register_engine(sys.argv[2], pid=os.getpid(), version="1"):
    print("ready", flush=True)
    sys.stdin.readline()
    leased = 0
    try:
        while True:
            run = store.lease(sys.argv[2])
            if run is not None:
                leased += 1
                store.finish(run.id, "done")
    except EngineRetired:
        print(leased, flush=True)
"""


def test_engines_of_one_version_stay(store):
    with store.register_engine("enginebbbb", pid=os.getpid(), version="1"):
        assert store.retire_other_engines("1") == []
        [engine] = store.engines()
        assert (engine.version, engine.is_retiring) == ("1", False)
        assert store.lease("enginebbbb") is None


@pytest.mark.parametrize("version", ["", "1"])
def test_an_idle_engine_of_another_version_is_forgotten_and_leases_nothing(store, version):
    with store.register_engine("enginebbbb", pid=7, version=version):
        [retired] = store.retire_other_engines("2")
        assert (retired.id, retired.pid, retired.version) == ("enginebbbb", 7, version)
        assert store.engines() == []
        with pytest.raises(EngineRetired, match="not registered"):
            store.lease("enginebbbb")  # whether or not anything is queued
        run_id = store.enqueue(b"{}", preset="p", output="o")
        with pytest.raises(EngineRetired, match="not registered"):
            store.lease("enginebbbb")
        assert store.run(run_id).status == "queued"
        assert store.retire_other_engines("2") == []


def test_an_engine_at_work_of_another_version_ends_its_run_first(store):
    first, second = (store.enqueue(b"{}", preset="p", output="o") for _ in range(2))
    with store.register_engine("enginebbbb", pid=7, version="1"):
        store.lease("enginebbbb")
        assert store.retire_other_engines("2") == []
        [engine] = store.engines()
        assert (engine.run, engine.is_retiring) == (first, True)
        assert store.recover() == []
        store.finish(first, "done")
        with pytest.raises(EngineRetired, match="asked to leave"):
            store.lease("enginebbbb")
        assert store.run(second).status == "queued"
    store.recover()
    assert store.engines() == []


def test_no_run_is_lost_while_an_engine_is_retired(start, root, store):
    """Whatever it leased before is ended; whatever it did not waits."""
    process = start(VERSIONED, root, "enginebbbb")
    process.read()
    runs = [store.enqueue(b"{}", preset="p", output="o") for _ in range(40)]
    process.go()
    while not any(store.run(run_id).status == "done" for run_id in runs):
        pass
    store.retire_other_engines("2")
    leased = int(process.read())
    process.finish()
    statuses = [store.run(run_id).status for run_id in runs]
    assert statuses == ["done"] * leased + ["queued"] * (len(runs) - leased)
    assert store.recover() == []


def test_what_an_engine_holds_is_told(store):
    with store.register_engine("e9", pid=os.getpid()):
        assert [each.held for each in store.engines() if each.id == "e9"] == [()]
        store.set_held("e9", ("a", "b"))
        assert [each.held for each in store.engines() if each.id == "e9"] == [("a", "b")]
        with immediate(store.lineage) as connection:
            connection.execute("UPDATE engines SET held='[1' WHERE id='e9'")
        assert [each.held for each in store.engines() if each.id == "e9"] == [()]


def test_engines_are_asked_for_their_idle_models(store):
    models = [HeldModel("vae", "wan-vae", "cuda:0", 7), HeldModel("denoiser", "wan-dit", "cpu", 9)]

    def told():
        (engine,) = store.engines()
        return engine.models, engine.is_to_release, engine.released

    with store.register_engine("e9", pid=os.getpid()):
        assert told() == ((), False, ())
        store.set_held("e9", ("a", "b"), models)
        assert told() == (tuple(models), False, ())
        assert not store.release_requested("e9")
        store.request_release()
        assert store.release_requested("e9")
        assert told() == (tuple(models), True, ())
        store.set_released("e9", models[:1])
        store.set_held("e9", ("b",), models[1:])
        assert told() == ((models[1],), False, (models[0],))
        store.request_release()
        assert told() == ((models[1],), True, ())
        with immediate(store.lineage) as connection:
            connection.execute("UPDATE engines SET models='[[1', released='[[1, 2]]'")
        assert told() == ((), True, ())
