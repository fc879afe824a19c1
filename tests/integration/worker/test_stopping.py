"""Cancelling a run and stopping an engine, be it suspended, hanging or without a store."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.errors import EngineUnavailable
from engine.process.launch import kill_engines, stop_engine
from engine.process.logs import log_path
from engine.process.version import installed_version
from engine.runs import following
from engine.runs.following import follow
from store.database.database import immediate
from store.lineage.events import (
    Message,
    RunFinished,
    RunQueued,
    RunStarted,
    StepFinished,
)
from store.paths import prepare
from store.store import open_store
from tests.integration.worker_runs import (
    begin_directly,
    ending,
    enqueue,
    environment,
    log_of,
    start,
    start_directly,
    suspend,
    until,
    wait_registered,
)
from tui.app.lab import Lab
from tui.cli.main import main


def test_a_running_run_is_cancelled_and_the_queue_goes_on(store):
    first, second = enqueue(store, "forever"), enqueue(store, "steps 1")
    start(store)
    events = follow(store, first, poll_seconds=0.01)
    until(events, StepFinished)
    assert store.request_cancel(first) == "running"
    assert until(events, RunFinished) == RunFinished("cancelled")
    assert ending(store, second) == RunFinished("done")


def test_a_cancelled_queued_run_is_never_executed(store):
    first, second, third = (enqueue(store, p) for p in ("forever", "steps 1", "steps 1"))
    start(store)
    until(follow(store, first, poll_seconds=0.01), StepFinished)
    assert store.request_cancel(second) == "cancelled"
    store.request_cancel(first)
    assert ending(store, third) == RunFinished("done")
    assert list(follow(store, second)) == [RunQueued(), RunFinished("cancelled")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_engine_interrupts_its_run_and_leaves_the_queue(store, processes, number):
    first, second = enqueue(store, "forever"), enqueue(store, "steps 1")
    process = wait_registered(store, start_directly(processes, store))
    events = follow(store, first, poll_seconds=0.01)
    until(events, RunStarted)
    until(events, StepFinished)
    process.send_signal(number)
    last = until(events, RunFinished)
    assert last == RunFinished("interrupted", "the engine was stopped before the run ended")
    assert process.wait() == 0
    assert store.engines() == []
    assert store.run(second).status == "queued"
    start(store)
    assert ending(store, second) == RunFinished("done")


def test_a_second_signal_ends_an_engine_that_does_not_listen(store, processes):
    run_id = enqueue(store, "deaf")
    process = wait_registered(store, start_directly(processes, store))
    events = follow(store, run_id, poll_seconds=0.01)
    until(events, StepFinished)
    with pytest.raises(EngineUnavailable, match=r"still busy .*`modiff engine stop --force`"):
        stop_engine(store, timeout_seconds=0)
    while process.poll() is None:  # signals that arrive together count as one
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    assert process.returncode == -signal.SIGTERM
    assert until(events, RunFinished).status == "interrupted"


def wait_stuck(process):
    """Until the main thread of a process sleeps and does not wake between two looks."""
    status, before = Path(f"/proc/{process.pid}/task/{process.pid}/status"), None
    while True:
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        now = (fields["State"].split()[0], fields["voluntary_ctxt_switches"])
        if now == before and now[0] == "S":
            return
        before = now
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="tells whether a thread sleeps")
def test_an_engine_that_hangs_in_a_library_is_ended_by_force(store, processes):
    """No Python code runs in its main thread any more, so that no signal is heard."""
    run_id, after = enqueue(store, "hang"), enqueue(store, "steps 1")
    process = wait_registered(store, start_directly(processes, store))
    until(follow(store, run_id, poll_seconds=0.01), Message)
    wait_stuck(process)
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="still busy"):
            stop_engine(store, timeout_seconds=0.1)
    [killed] = kill_engines(store)
    assert (killed.pid, process.wait()) == (process.pid, -signal.SIGKILL)
    assert store.run(run_id).status == "interrupted"
    assert store.engines() == []
    start(store)
    assert ending(store, after) == RunFinished("done")


def test_a_suspended_engine_is_ended_by_force(store, processes):
    run_id = enqueue(store, "forever")
    process = wait_registered(store, start_directly(processes, store))
    until(follow(store, run_id, poll_seconds=0.01), StepFinished)
    suspend(process)
    assert [killed.pid for killed in kill_engines(store)] == [process.pid]
    assert process.wait() == -signal.SIGKILL
    assert store.run(run_id).status == "interrupted"
    assert kill_engines(store) == []


@pytest.mark.skipif(sys.platform != "linux", reason="tells who holds a lock")
def test_a_suspended_engine_that_is_in_no_list_is_ended_by_force(store, processes):
    process = wait_registered(store, start_directly(processes, store))
    suspend(process)
    store.retire_other_engines("newer")
    assert store.engines() == []
    with pytest.raises(EngineUnavailable, match=r"not ready after|has not left after"):
        start(store, timeout_seconds=3)
    assert [(killed.id, killed.pid) for killed in kill_engines(store)] == [("", process.pid)]
    assert process.wait() == -signal.SIGKILL
    start(store)


def test_a_process_that_is_not_the_engine_is_not_killed(store, processes, tmp_path):
    """Neither another program with its pid, nor the engine of another store."""
    sleeper = subprocess.Popen(["sleep", "600"])
    processes.append(sleeper)
    pids = [sleeper.pid]
    with open_store(tmp_path / "other" / "store") as other:
        engine = begin_directly(processes, other)
        wait_registered(other, engine)
        if sys.platform == "linux":
            pids.append(engine.pid)
        for pid in pids:
            with (
                store.register_engine(f"engine{pid}", pid=pid),
                pytest.raises(
                    EngineUnavailable, match=f"process {pid} of this machine is not the engine"
                ),
            ):
                kill_engines(store)
            store.recover()
        assert [process.poll() for process in (sleeper, engine)] == [None, None]
        kill_engines(other)


@pytest.fixture
def silent(store, processes):
    """A suspended engine at work on a run, as it looks a quarter of a minute later."""
    run_id = enqueue(store, "forever")
    process = wait_registered(store, start_directly(processes, store))
    until(follow(store, run_id, poll_seconds=0.01), StepFinished)
    assert following.held_up(store, run_id) == ""
    suspend(process)
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE engines SET heartbeat_ns=heartbeat_ns - 15000000000")
    return process, run_id


def test_who_follows_a_run_is_told_that_its_engine_is_suspended(store, silent):
    process, run_id = silent
    waiting = enqueue(store, "steps 1")
    for each in (run_id, waiting):
        assert following.held_up(store, each).startswith(
            f"the engine (process {process.pid}) is suspended; `kill -CONT {process.pid}` lets it go on, "
            "`modiff engine stop --force` ends it"
        )
    store.request_cancel(waiting)
    assert following.held_up(store, waiting) == ""
    process.send_signal(signal.SIGCONT)
    while following.held_up(store, run_id):
        time.sleep(0.01)


def test_who_cancels_a_run_of_a_suspended_engine_is_told(store, silent, monkeypatch, capsys):
    process, run_id = silent
    monkeypatch.setenv("MODIFF_STORE", str(store.root))
    for command in ("pause", "cancel"):
        assert main([command, run_id]) == 0
        _, err = capsys.readouterr()
        assert f"the engine (process {process.pid}) is suspended; `kill -CONT" in err
    assert store.cancel_requested(run_id)


def test_a_suspended_engine_is_ended_from_the_app(store, silent):
    _, run_id = silent

    async def act():
        lab = Lab(store.root)
        try:
            assert "is suspended; `kill -CONT" in (await lab.status()).silence
            killed = await lab.change(kill_engines)
            return killed, await lab.status()
        finally:
            lab.close()

    killed, status = asyncio.run(act())
    assert [engine.run for engine in killed] == [run_id]
    assert (status.engines, status.silence) == ((), "")
    assert store.run(run_id).status == "interrupted"


def test_who_follows_a_run_is_told_that_its_engine_is_silent_or_waits(store, silent, monkeypatch):
    process, run_id = silent
    monkeypatch.setattr(following, "_is_suspended", lambda pid: False)
    line = following.held_up(store, run_id)
    assert re.match(
        rf"the engine \(process {process.pid}\) has given no sign of life for 1\d s; `modiff engine",
        line,
    )
    if sys.platform == "linux":
        with open_store(store.root) as opened:
            opened.lineage.db.conn.execute("BEGIN IMMEDIATE")
            line = following.held_up(store, run_id)
        assert f"waits for process {os.getpid()}, which holds the store" in line


def test_an_engine_goes_on_beating_after_the_store_has_failed(store, processes):
    process = wait_registered(store, start_directly(processes, store))
    with immediate(store.lineage) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON engines BEGIN SELECT RAISE(FAIL, 'no'); END"
        )
    log = log_path(store.root, process.pid)
    while "no heartbeat" not in log.read_text():
        time.sleep(0.01)
    with immediate(store.lineage) as connection:
        connection.execute("DROP TRIGGER refuse")
    [before] = store.engines()
    while store.engines() == [before]:
        time.sleep(0.01)


def test_stopping_waits_until_the_engine_is_gone(store):
    run_id = enqueue(store, "forever")
    engine = start(store)
    until(follow(store, run_id, poll_seconds=0.01), StepFinished)
    assert [stopped.id for stopped in stop_engine(store)] == [engine.id]
    assert store.engines() == []
    assert store.run(run_id).status == "interrupted"
    assert stop_engine(store) == []
    assert "exiting" in log_of(store, engine)


def test_an_engine_whose_pid_is_another_programs_here_is_not_signalled(store, processes):
    process = subprocess.Popen(["sleep", "600"])
    processes.append(process)
    with (
        store.register_engine("engineaaaa", pid=process.pid, version=installed_version()),
        pytest.raises(EngineUnavailable, match="runs elsewhere"),
    ):
        stop_engine(store)
    assert process.poll() is None


def test_an_idle_engine_finishes_the_queue_and_leaves(store, processes):
    queued = [enqueue(store, "steps 1") for _ in range(3)]
    process = start_directly(processes, store, "--idle-seconds", "0")
    assert process.wait() == 0
    assert [store.run(run_id).status for run_id in queued] == ["done"] * 3
    assert store.engines() == []
    assert list((store.root / "locks").glob("engine-*")) == []


def test_an_engine_whose_store_is_removed_leaves(store, processes):
    run_id = enqueue(store, "steps 1")
    process = wait_registered(store, start_directly(processes, store))
    ending(store, run_id)
    while store.root.exists():  # the engine may write a file in between
        shutil.rmtree(store.root, ignore_errors=True)
    assert process.wait() == 0


def test_an_engine_whose_store_is_replaced_leaves(store, processes, tmp_path):
    run_id = enqueue(store, "steps 1")
    process = wait_registered(store, start_directly(processes, store))
    ending(store, run_id)
    store.root.rename(tmp_path / "aside")
    open_store(store.root).close()
    assert process.wait() == 0
    log = log_path(tmp_path / "aside", process.pid)
    assert "removed or replaced; exiting" in log.read_text()


def test_the_log_of_an_engine_is_bounded(tmp_path):
    """Whatever writes to it, and the same file for as long as it lives."""
    root = tmp_path / "store"
    prepare(root)
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from engine.process import logs\n"
        "logs.MAX_LOG_BYTES = 10_000\n"
        "root = Path(sys.argv[1])\n"
        "logs.start_logging(root)\n"
        "for turn in range(10):\n"
        "    os.write(1, b'%d' % turn * 1000 + b'\\n')\n"
        "    logs.log.info('line %d', turn)\n"
        "    os.write(2, b'x' * 3000 + b'\\n')\n"
        "    logs.bound_log(root)\n"
        "logs.log.info('the end')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(root)], env=environment(), check=True)
    files = {path.suffix: path for path in (root / "logs").iterdir()}
    assert sorted(files) == [".log", ".old"]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files.values())
    assert all(path.stat().st_size < 15_000 for path in files.values())
    assert files[".log"].read_text().endswith("the end\n")
    assert "line 9" in files[".log"].read_text()
    assert "line 8" in files[".old"].read_text()
