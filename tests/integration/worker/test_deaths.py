"""What the death of an engine or of its viewer leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from engine.runs import following
from engine.runs.following import follow
from store.lineage.events import (
    Message,
    RunFinished,
    StepFinished,
)
from tests.integration.worker_runs import (
    ENGINE,
    ending,
    enqueue,
    environment,
    start,
    start_directly,
    until,
    wait_registered,
)


def test_a_killed_engine_interrupts_its_run_only_and_the_next_one_goes_on(store, monkeypatch):
    first, second = enqueue(store, "forever"), enqueue(store, "steps 2")
    engine = start(store)
    events = follow(store, first, poll_seconds=0.01)
    until(events, StepFinished)
    os.kill(engine.pid, signal.SIGKILL)
    last = until(events, RunFinished)
    assert last.status == "interrupted"
    assert str(engine.pid) in last.error
    assert store.run(first).status == "interrupted"
    assert store.run(second).status == "queued"
    # The viewer of a queued run starts the next engine by itself.
    monkeypatch.setattr(following, "ensure_engine", start)
    assert ending(store, second) == RunFinished("done")
    assert store.run(second).engine != engine.id
    assert store.run(first).status == "interrupted"


def test_an_engine_recovers_what_a_dead_one_left(store, processes):
    first, second = enqueue(store, "forever"), enqueue(store, "steps 1")
    dead = wait_registered(store, start_directly(processes, store))
    until(follow(store, first, poll_seconds=0.01), StepFinished)
    dead.kill()
    dead.wait()
    assert store.run(first).status == "running"
    process = start_directly(processes, store, "--idle-seconds", "0")
    assert process.wait() == 0
    assert store.run(first).status == "interrupted"
    assert store.run(second).status == "done"


def test_a_child_program_does_not_keep_a_killed_engine_alive(store):
    run_id = enqueue(store, "child")
    engine = start(store)
    events = follow(store, run_id, poll_seconds=0.01)
    child = int(until(events, Message).text)
    until(events, StepFinished)
    os.kill(engine.pid, signal.SIGKILL)
    try:
        assert until(events, RunFinished).status == "interrupted"
        os.kill(child, 0)
        assert start(store).id != engine.id
    finally:
        os.kill(child, signal.SIGKILL)


VIEWER = """
import sys
from engine.runs.following import follow
from engine.process.launch import ensure_engine
from store.lineage.events import StepFinished
from store.paths import prepare
from store.store import Store, open_store
with open_store(sys.argv[1]) as store:
    ensure_engine(store, command=sys.argv[3:])
    for event in follow(store, sys.argv[2]):
        if isinstance(event, StepFinished):
            print("step", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGINT])
def test_the_death_of_the_viewer_does_not_touch_the_run(store, processes, number):
    run_id = enqueue(store, "forever")
    viewer = subprocess.Popen(
        [sys.executable, "-c", VIEWER, str(store.root), run_id, *ENGINE],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    processes.append(viewer)
    assert viewer.stdout.readline() == "step\n"
    os.killpg(viewer.pid, number)  # as a closed terminal or Ctrl-C: the whole foreground group
    viewer.wait()
    [engine] = store.engines()
    assert engine.run == run_id
    store.request_cancel(run_id)
    assert ending(store, run_id) == RunFinished("cancelled")
