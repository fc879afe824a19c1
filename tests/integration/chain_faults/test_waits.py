"""A suspended process or a held database costs a run time or its record, never a request to end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from engine import client
from store.lineage.events import (
    StepFinished,
)
from store.store import Store
from tests.benchmark.storm import check_store
from tests.integration.chain_engine import ROOT
from tests.integration.chain_runs import (
    GATED_STEP,
    STEPS,
    VIDEO,
    Here,
    assert_same,
    computed,
    done,
    enqueue,
    gated,
    held,
    spec_of,
    steps,
    wait_for,
    wait_until,
    warnings,
)

# Waits that somebody wants to end


SUSPENDED = """
import os, signal, sys
from pathlib import Path
from store import locks
from store.store import open_store
with open_store(sys.argv[1]) as store:
    if sys.argv[2] == "database":
        store.lineage.db.conn.execute("BEGIN IMMEDIATE")
    else:
        lock = locks.acquire(store.root / "locks" / "gc", timeout_seconds=60)
    os.kill(os.getpid(), signal.SIGSTOP)
"""


@contextlib.contextmanager
def suspended(store: Store, what: str) -> Iterator[None]:
    """A process that was stopped while it held the database, or the lock of a clean-up."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUSPENDED, str(store.root), what],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        yield
    finally:
        process.kill()
        process.wait()


def test_a_cancel_does_not_wait_behind_a_suspended_clean_up(store, engines):
    run_id, after = enqueue(store, spec_of(kinds=VIDEO)), enqueue(store, spec_of("seed=5"))
    waits = store.root.parent / "waits"
    with suspended(store, "gc"):
        fault = {"fault": "touch", "target": "engine.results:writing", "path": str(waits)}
        engine = engines.start(store.root, fault)
        wait_until(waits.exists, "waiting for the lock")
        store.request_cancel(run_id)
        wait_until(lambda: store.run(run_id).status == "cancelled", "cancelled")
        store.request_cancel(after)
        assert engines.wait(engine) == 0


@pytest.mark.parametrize("what", ["gc", "database"])
def test_a_stop_does_not_wait_behind_a_suspended_process(store, engines, gate, what):
    run_id = enqueue(store, spec_of("scheduler.steps=400"))
    engine = engines.start(store.root, gated(gate), idle_seconds=60)
    wait_for(store, run_id, StepFinished)
    with suspended(store, what):
        gate.touch()
        os.kill(engine, signal.SIGTERM)
        assert engines.wait(engine) == 0
    store.recover()
    assert store.run(run_id).status == "interrupted"
    check_store(store)


def test_a_suspended_clean_up_costs_a_run_one_wait(store, engines, calm):
    spec = spec_of(kinds=VIDEO)
    run_id = enqueue(store, spec)
    with suspended(store, "gc"):
        assert engines.serve(store.root, {"fault": "writer_seconds", "seconds": 0.3}) == 0
    assert done(store, run_id)
    told_of = warnings(store, run_id)
    assert any(text.startswith("8 of the steps could not be stored: ") for text in told_of)
    if sys.platform == "linux":
        assert all(
            re.search(r"locks/gc is held by process \d+ \(.*suspended\)", t) for t in told_of
        )
    again = Here(store, like=calm).make(spec)
    assert_same(store, again, calm, spec)


# A database that others hold


def test_a_database_that_is_locked_for_a_while_costs_time_only(store, engines, calm, gate):
    spec = spec_of()
    run_id = enqueue(store, spec)
    engine = engines.start(store.root, gated(gate))
    wait_for(store, run_id, StepFinished)
    with held(store):
        gate.touch()
        time.sleep(1.0)
        assert len(computed(store, run_id)) < GATED_STEP
    assert engines.wait(engine) == 0
    assert_same(store, run_id, calm, spec)
    assert warnings(store, run_id) == []
    assert len(computed(store, run_id)) == STEPS
    check_store(store)


def test_a_viewer_killed_while_it_writes_leaves_nothing(store, engines, calm, gate):
    spec = spec_of()
    run_id = enqueue(store, spec)
    engine = engines.start(store.root, gated(gate))
    wait_for(store, run_id, StepFinished)
    with held(store) as viewer:
        gate.touch()
        viewer.kill()
        assert engines.wait(engine) == 0
    assert_same(store, run_id, calm, spec)
    assert warnings(store, run_id) == []
    assert store.run(run_id).note == ""
    check_store(store)


def test_a_database_that_stays_locked_costs_the_record(store, engines, calm, gate):
    spec = spec_of()
    run_id = enqueue(store, spec)
    engine = engines.start(store.root, gated(gate), {"fault": "busy_seconds", "seconds": 0.05})
    wait_for(store, run_id, StepFinished)
    with held(store):
        gate.touch()
        assert engines.wait(engine) in (0, 1)
    store.recover()
    assert store.run(run_id).status == "interrupted"
    client.resume(store, run_id)
    assert engines.serve(store.root) == 0
    assert done(store, run_id)
    other = calm.make(spec)
    assert store.run(run_id).latents == calm.store.run(other).latents
    assert steps(store, run_id) == steps(calm.store, other)
    check_store(store)
