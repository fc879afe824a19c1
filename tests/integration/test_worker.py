"""The engine as a real process: what it makes of the queue, and what its death leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from engine import client
from engine.client import follow, submit
from engine.components import registry
from engine.components.choice import settle
from engine.errors import ComponentError, EngineUnavailable
from engine.process import version
from engine.process.launch import ensure_engine, kill_engines, other_variables, stop_engine
from engine.process.logs import log_path, redact
from engine.process.version import installed_version
from engine.process.worker import FINISH_PAUSES_SECONDS, RETRY_SECONDS, Worker
from presets.encoding import decode_spec, encode_spec
from presets.errors import PresetError
from presets.library import load_preset
from store.blobs.files import FULL_ADVICE
from store.database.database import immediate
from store.errors import StoreDamaged, StoreFailing, StoreUnwritable
from store.lineage.events import (
    Message,
    RunFinished,
    RunQueued,
    RunStarted,
    StageFinished,
    StageStarted,
    StepFinished,
)
from store.paths import prepare
from store.store import Store, open_store
from store.upkeep.gc import writing
from tests.made_stores import STEP_BYTES, make_run, on_disk

ROOT = Path(__file__).resolve().parents[2]
ENGINE = (
    sys.executable,
    str(Path(__file__).with_name("engine_process.py")),
    "--as",
    "engine.process.worker",
)
TEST_SECONDS = 90


@pytest.fixture(autouse=True)
def _deadline():
    """A test that waits for what never comes fails instead of hanging."""

    def expired(number, frame):
        raise TimeoutError(f"the test was still waiting after {TEST_SECONDS} s")

    signal.signal(signal.SIGALRM, expired)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "store") as opened:
        yield opened
    # Those too that lost a race and had not noticed when the test ended.
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(tmp_path / "store") in process.cmdline():
                process.kill()


@pytest.fixture
def processes():
    """A list whose processes are gone when the test ends."""
    started = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def enqueue(store, prompt):
    spec = msgspec.structs.replace(load_preset("micro"), prompt=prompt)
    return store.enqueue(encode_spec(spec), preset="micro", output="/videos/{run}.mp4")


def start(store, **options):
    return ensure_engine(store, command=ENGINE, **options)


def start_directly(processes, store, *arguments):
    process = subprocess.Popen(
        [*ENGINE, "--store", str(store.root), *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    processes.append(process)
    return process


def wait_registered(store, process):
    while process.pid not in [engine.pid for engine in store.engines()]:
        assert process.poll() is None
        time.sleep(0.01)
    return process


def until(events, kind):
    """Reads on to the first event of that kind and returns it."""
    return next(event for event in events if isinstance(event, kind))


def ending(store, run_id):
    *_, last = follow(store, run_id, poll_seconds=0.01)
    return last


def log_of(store, engine):
    return log_path(store.root, engine.pid).read_text()


# The queue


def test_runs_are_executed_in_order_by_one_engine_that_stays(store):
    first, second = enqueue(store, "steps 3"), enqueue(store, "steps 1")
    engine = start(store)
    events = list(follow(store, first, poll_seconds=0.01))
    assert events == [
        RunQueued(),
        RunStarted(engine.id, engine.pid),
        StageStarted("denoise"),
        *(StepFinished(step, 3, 1.0, 1000.0, 0.0, 0.0, 1.0) for step in (1, 2, 3)),
        StageFinished("denoise", 0.0, False),
        RunFinished("done"),
    ]
    assert ending(store, second) == RunFinished("done")
    run = store.run(second)
    assert (run.status, run.engine, run.output) == ("done", engine.id, f"/videos/{second}.mp4")
    assert run.started_ns >= store.run(first).ended_ns
    assert [stage.name for stage in store.stages(first)] == ["denoise"]
    third = enqueue(store, "steps 1")
    ending(store, third)
    assert store.run(third).engine == engine.id


def test_a_finished_run_is_followed_from_its_log(store):
    run_id = enqueue(store, "steps 2")
    start(store)
    live = list(follow(store, run_id, poll_seconds=0.01))
    stop_engine(store)
    assert list(follow(store, run_id)) == live


FAILURES = {
    "RunFailed": "latents are not finite at step 3",
    "StoreFull": "no space left for the blob",
    "OSError": "/videos/v.mp4: Permission denied",
    "MemoryError": "out of memory; try a smaller size, fewer frames or a smaller dtype",
    "ZeroDivisionError": "ZeroDivisionError: first line second line (traceback in {log})",
    "SystemExit": "SystemExit: 3 (traceback in {log})",
}


def test_a_failing_run_is_one_line_and_the_engine_goes_on(store):
    queued = {name: enqueue(store, f"raise {name}") for name in FAILURES}
    engine = start(store)
    log = log_path(store.root, engine.pid)
    for name, message in FAILURES.items():
        assert ending(store, queued[name]) == RunFinished("failed", message.format(log=log))
        assert store.run(queued[name]).error == message.format(log=log)
    assert "Traceback" in log.read_text()
    after = enqueue(store, "steps 1")
    assert ending(store, after) == RunFinished("done")
    assert store.run(after).engine == engine.id


def test_a_specification_that_cannot_be_read_fails_its_run(store):
    run_id = store.enqueue(b'{"format": 99}', preset="p", output="o")
    start(store)
    last = ending(store, run_id)
    assert last.status == "failed"
    assert "format" in last.error
    assert "\n" not in last.error


def test_secrets_are_neither_logged_nor_stored(store, monkeypatch):
    monkeypatch.setenv("SOME_API_TOKEN", "CANARY-token-3")
    run_id = enqueue(store, "raise secret")
    engine = start(store)
    last = ending(store, run_id)
    assert "401" in last.error
    stop_engine(store)
    kept = b"".join(path.read_bytes() for path in store.root.rglob("*") if path.is_file())
    assert b"401 for https://" in kept
    assert b"CANARY" not in kept.replace(encode_spec(load_preset("micro")), b"")
    assert "CANARY" not in log_of(store, engine)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer ***"),
        ("https://user:word@host/x", "https://***@host/x"),
        ("GET /x?token=abc&y=1", "GET /x?***&y=1"),
        ("hf_abcdefghijklmnopqrstuv", "***"),
        ("a prompt of 512 tokens: fine", "a prompt of 512 tokens: fine"),
        ("tokenizer: /models/umt5", "tokenizer: /models/umt5"),
    ],
)
def test_what_is_redacted(text, expected):
    assert redact(text) == expected


# Cancelling and stopping


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


def test_an_engine_that_hangs_in_a_library_is_ended_by_force(store, processes):
    """No Python code runs in its main thread any more, so that no signal is heard."""
    run_id, after = enqueue(store, "hang"), enqueue(store, "steps 1")
    process = wait_registered(store, start_directly(processes, store))
    until(follow(store, run_id, poll_seconds=0.01), Message)
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
    process.send_signal(signal.SIGSTOP)
    assert [killed.pid for killed in kill_engines(store)] == [process.pid]
    assert process.wait() == -signal.SIGKILL
    assert store.run(run_id).status == "interrupted"
    assert kill_engines(store) == []


@pytest.mark.skipif(sys.platform != "linux", reason="tells who holds a lock")
def test_a_suspended_engine_that_is_in_no_list_is_ended_by_force(store, processes):
    process = wait_registered(store, start_directly(processes, store))
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
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
        engine = start_directly(processes, other)
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
    assert client.held_up(store, run_id) == ""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE engines SET heartbeat_ns=heartbeat_ns - 15000000000")
    return process, run_id


def test_who_follows_a_run_is_told_that_its_engine_is_suspended(store, silent):
    process, run_id = silent
    waiting = enqueue(store, "steps 1")
    for each in (run_id, waiting):
        assert client.held_up(store, each).startswith(
            f"the engine (process {process.pid}) is suspended; `kill -CONT {process.pid}` lets it go on, "
            "`modiff engine stop --force` ends it"
        )
    store.request_cancel(waiting)
    assert client.held_up(store, waiting) == ""
    process.send_signal(signal.SIGCONT)
    while client.held_up(store, run_id):
        time.sleep(0.01)


def test_who_follows_a_run_is_told_that_its_engine_is_silent_or_waits(store, silent, monkeypatch):
    process, run_id = silent
    monkeypatch.setattr(client, "_is_suspended", lambda pid: False)
    line = client.held_up(store, run_id)
    assert re.match(
        rf"the engine \(process {process.pid}\) has given no sign of life for 1\d s; `modiff engine",
        line,
    )
    if sys.platform == "linux":
        with open_store(store.root) as opened:
            opened.lineage.db.conn.execute("BEGIN IMMEDIATE")
            line = client.held_up(store, run_id)
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
    shutil.rmtree(store.root)
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


# A store that fails


class Ready:
    """A runner that does what it is told, in this process."""

    def __init__(self, act):
        self.act = act

    def execute(self, run, spec, *, emit, cancelled, paused):
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

    def execute(self, run, spec, *, emit, cancelled, paused):
        assert not cancelled()
        assert not paused()
        return super().execute(run, spec, emit=emit, cancelled=cancelled, paused=paused)


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


# Deaths


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
    monkeypatch.setattr(client, "ensure_engine", start)
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
from engine.client import follow
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


# Starting


STARTER = """
import sys
from engine.process.launch import ensure_engine
from store.paths import prepare
from store.store import Store, open_store
with open_store(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    print(ensure_engine(store, command=sys.argv[2:]).id, flush=True)
"""


def test_a_race_of_starters_ends_with_one_engine(store, processes):
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", STARTER, str(store.root), *ENGINE],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    processes.extend(starters)
    for starter in starters:
        assert starter.stdout.readline() == "ready\n"
    for starter in starters:
        starter.stdin.write("go\n")
        starter.stdin.flush()
    found = {starter.communicate()[0] for starter in starters}
    assert len(found) == 1
    assert [engine.id + "\n" for engine in store.engines()] == list(found)


def test_a_second_engine_leaves_quietly(store, processes):
    engine = start(store)
    process = start_directly(processes, store)
    assert process.communicate() == ("", "")
    assert process.returncode == 0
    assert [found.id for found in store.engines()] == [engine.id]


def test_a_live_engine_is_found_again(store):
    engine = start(store)
    assert ensure_engine(store, command=("/nonexistent",)).id == engine.id


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("/nonexistent/python",), "cannot be started: No such file"),
        (("sh", "-c", "echo the reason >&2; exit 3"), r"exit code 3\): the reason"),
        (("sh", "-c", "kill -9 $$"), r"exit code -9\): it said nothing"),
    ],
)
def test_an_engine_that_does_not_start_says_why(store, command, message):
    with pytest.raises(EngineUnavailable, match=message) as caught:
        ensure_engine(store, command=command)
    assert "\n" not in str(caught.value)


def test_an_engine_that_never_registers_is_given_up(store):
    with pytest.raises(EngineUnavailable, match=r"not ready after 0\.1 s"):
        ensure_engine(store, command=("sh", "-c", "exec sleep 2"), timeout_seconds=0.1)


def test_the_real_worker_starts_wherever_the_user_is(store, monkeypatch, tmp_path):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ".")
    engine = ensure_engine(store)
    assert os.getsid(engine.pid) == engine.pid
    assert [stopped.id for stopped in stop_engine(store)] == [engine.id]
    assert "asked to stop" in log_of(store, engine)


def run_worker(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "engine.process.worker", *map(str, arguments)],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_worker_command_leaves_when_there_is_nothing_to_do(tmp_path):
    done = run_worker("--store", tmp_path / "store", "--idle-seconds", 0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    [log] = (tmp_path / "store" / "logs").iterdir()
    assert "nothing to do" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_the_worker_command_says_in_one_line_that_its_store_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    done = run_worker("--store", tmp_path / "file")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "is not a folder" in done.stderr


def test_the_worker_command_says_in_one_line_that_its_store_has_no_home(monkeypatch):
    monkeypatch.setenv("MODIFF_STORE", "~no-such-user/x")
    done = run_worker()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "there is no such home folder" in done.stderr


def test_an_engine_refuses_a_damaged_store_and_its_starter_says_so(store):
    for _ in range(60):
        enqueue(store, "steps 1" + " " * 2000)
    store.lineage.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = store.root / "lineage.db"
    with path.open("r+b") as file:
        for page in range(10, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xaa" * 64)
    with pytest.raises((EngineUnavailable, StoreDamaged), match="is damaged"):
        ensure_engine(store)


def test_who_finds_an_engine_is_told_where_its_environment_is_another(store, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("TMPDIR", str(store.root))
    engine = start(store)
    assert other_variables(engine) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setenv("PAGER", "of no matter")
    assert other_variables(engine) == ["CUDA_VISIBLE_DEVICES", "TMPDIR"]
    stop_engine(store)
    while other_variables(engine):  # its lock goes before its process
        time.sleep(0.01)


# Versions


@pytest.fixture
def code(tmp_path):
    """A file that says what code is installed, and the command of an engine that believes it."""
    file = tmp_path / "version"
    file.write_text("other")
    return file, (*ENGINE, "--version-file", str(file))


def test_an_engine_says_which_code_it_runs(store):
    assert start(store).version == installed_version()


def test_an_idle_engine_of_other_code_is_replaced(store, code):
    old = ensure_engine(store, command=code[1])
    assert old.version == "other"
    new = start(store)
    assert (new.id != old.id, new.version) == (True, installed_version())
    assert not store.is_engine_alive(old.id)
    run_id = enqueue(store, "steps 1")
    assert ending(store, run_id) == RunFinished("done")
    assert store.run(run_id).engine == new.id
    assert list((store.root / "locks").glob("engine-*")) == [
        store.root / "locks" / f"engine-{new.id}"
    ]


def test_an_engine_of_other_code_ends_its_run_and_takes_no_other(store, code, monkeypatch):
    first, second = enqueue(store, "forever"), enqueue(store, "steps 1")
    old = ensure_engine(store, command=code[1])
    until(follow(store, first, poll_seconds=0.01), StepFinished)
    found = start(store)
    assert (found.id, found.run) == (old.id, first)
    [marked] = store.engines()
    assert marked.is_retiring
    store.request_cancel(first)
    assert ending(store, first) == RunFinished("cancelled")
    monkeypatch.setattr(client, "ensure_engine", start)  # whoever follows starts the next one
    assert ending(store, second) == RunFinished("done")
    assert store.run(second).engine != old.id
    assert "asked to leave" in log_of(store, old)


def test_an_engine_begins_anew_once_other_code_is_installed(store, code, monkeypatch):
    # between the old and the new one none is there, and whoever follows may start one of the real engines
    monkeypatch.setattr(client, "ensure_engine", lambda store: None)
    first = enqueue(store, "forever")
    old = ensure_engine(store, command=code[1])
    until(follow(store, first, poll_seconds=0.01), StepFinished)
    code[0].write_text("newer")
    second = enqueue(store, "steps 1")
    store.request_cancel(first)
    assert ending(store, second) == RunFinished("done")  # nobody but the engine itself saw to it
    [new] = store.engines()
    assert (store.run(second).engine, new.version, new.pid) == (new.id, "newer", old.pid)
    assert new.id != old.id
    assert "beginning anew" in log_of(store, old)
    code[0].write_text("newest")
    time.sleep(0.5)
    assert [engine.id for engine in store.engines()] == [new.id]  # while nothing waits, it stays


def test_an_engine_that_does_not_leave_is_named(store):
    with (
        store.register_engine("engineaaaa", pid=4242, version="other"),
        pytest.raises(EngineUnavailable, match=r"\(process 4242\) has not left after 0\.1 s"),
    ):
        start(store, timeout_seconds=0.1)


def test_the_version_is_of_what_the_source_files_hold(tmp_path):
    for package in version.PACKAGES:
        (tmp_path / package).mkdir()
    file = tmp_path / "store" / "a.py"
    file.write_text("1")
    first = version._digest(tmp_path)
    os.utime(file, ns=(1, 1))
    (tmp_path / "store" / "a.txt").write_text("2")
    assert version._digest(tmp_path) == first
    file.write_text("2")
    second = version._digest(tmp_path)
    file.rename(tmp_path / "store" / "b.py")
    assert len({first, second, version._digest(tmp_path)}) == 3
    assert re.fullmatch(r"[0-9][0-9a-z.]*\+[0-9a-f]{12}", installed_version())


def test_the_face_of_the_engine_imports_no_array_library():
    code = (
        "import json, sys, engine.client, engine.process.launch, engine.process.worker, engine.components.registry; "
        "print(json.dumps(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules))))"
    )
    imported = subprocess.check_output([sys.executable, "-c", code], env=environment())
    assert json.loads(imported) == []


# Submitting


@pytest.fixture
def checked(monkeypatch):
    """Component checks that pass, whatever checkpoints this machine has."""
    monkeypatch.setattr("engine.client.check", lambda store, spec: None)


@pytest.mark.usefixtures("checked")
def test_a_submitted_run_gets_a_path_of_its_own(store, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spec = load_preset("micro")
    run = store.run(submit(store, spec, preset="micro"))
    assert run.output == str(tmp_path / f"modiff-{run.id}.mp4")
    assert decode_spec(run.spec_json) == spec
    assert (run.status, run.preset) == ("queued", "micro")


@pytest.mark.usefixtures("checked")
def test_a_given_output_wins_over_the_preset_and_is_made_absolute(store, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spec = load_preset("micro", ["output.path=from-preset.mp4"])
    run = store.run(submit(store, spec))
    assert run.output == str(tmp_path / "from-preset.mp4")
    run = store.run(submit(store, spec, output="given.mp4"))
    assert run.output == str(tmp_path / "given.mp4")


@pytest.mark.usefixtures("checked")
@pytest.mark.parametrize("output", ["missing/v.mp4", ".", "file/v.mp4"])
def test_an_output_that_cannot_be_written_is_refused_before_queueing(
    store, monkeypatch, tmp_path, output
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(PresetError, match=r"^output\.path: ") as caught:
        submit(store, load_preset("micro"), output=output)
    assert "\n" not in str(caught.value)
    assert store.runs(limit=9) == []


def test_components_are_checked_before_queueing(store):
    spec = load_preset("micro", ["components.vae.name=unheard-of"])
    with pytest.raises(ComponentError, match="unheard-of"):
        submit(store, spec)
    assert store.runs(limit=9) == []


def test_files_of_a_submitted_run_do_not_depend_on_the_environment(store, monkeypatch, tmp_path):
    monkeypatch.setattr("engine.client.check", lambda store, spec: None)
    monkeypatch.chdir(tmp_path)
    models = tmp_path / "models"
    (models / "umt5").mkdir(parents=True)
    for name in ("text.safetensors", "umt5/tokenizer.json", "dit.safetensors"):
        (models / name).write_bytes(b"")
    monkeypatch.setenv("MODIFF_MODELS", "models")
    spec = load_preset(
        "micro",
        [
            "components.text_encoder.checkpoint=text.safetensors",
            "components.text_encoder.tokenizer=umt5/tokenizer.json",
            "components.denoiser.checkpoint=dit.safetensors",
        ],
    )
    stored = decode_spec(store.run(submit(store, spec)).spec_json).components
    assert stored.text_encoder.checkpoint == str(models / "text.safetensors")
    assert stored.text_encoder.tokenizer == str(models / "umt5" / "tokenizer.json")
    assert stored.denoiser.checkpoint == str(models / "dit.safetensors")
    assert stored.vae == spec.components.vae


def test_files_of_a_third_party_component_are_its_own_affair(monkeypatch):
    spec = load_preset("micro", ["components.vae.checkpoint=no/such/file"])
    vae = msgspec.structs.replace(spec.components.vae, name="other")
    other = msgspec.structs.replace(
        spec, components=msgspec.structs.replace(spec.components, vae=vae)
    )
    with pytest.raises(ComponentError, match="unknown 'other'"):
        settle(other)
    provided = registry.provider
    monkeypatch.setattr(
        registry,
        "provider",
        lambda kind, name: object() if name == "other" else provided(kind, name),
    )
    assert settle(other) == other


def test_sage_without_its_package_is_refused_before_queueing(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "sageattention", None)  # what Python takes for not installed
    spec = load_preset("micro", ["components.denoiser.attention=sage"])
    with pytest.raises(ComponentError, match=r"components\.denoiser\.attention: 'sage' needs"):
        submit(store, spec)
    assert store.runs(limit=9) == []


def test_a_specification_that_is_not_valid_is_refused_before_queueing(store):
    spec = msgspec.structs.replace(load_preset("micro"), frames=18)
    with pytest.raises(PresetError, match="frames"):
        submit(store, spec)
    assert store.runs(limit=9) == []
