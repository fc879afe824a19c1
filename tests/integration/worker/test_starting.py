"""Starting an engine: one at a time, told why it cannot be, and replaced where its code is another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import pytest

from engine.errors import EngineUnavailable
from engine.process import version
from engine.process.launch import ensure_engine, other_variables, stop_engine
from engine.process.version import installed_version
from engine.runs import following
from engine.runs.following import follow
from store.errors import StoreDamaged
from store.lineage.events import (
    RunFinished,
    StepFinished,
)
from tests.integration.worker_runs import (
    BEGUN,
    ENGINE,
    ROOT,
    ending,
    enqueue,
    environment,
    log_of,
    start,
    start_directly,
    until,
)

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
    engine = ensure_engine(store, command=BEGUN)
    assert other_variables(engine) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setenv("PAGER", "of no matter")
    monkeypatch.setenv("HF_TOKEN", "a secret")  # nothing that a run depends on
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
    monkeypatch.setattr(following, "ensure_engine", start)  # whoever follows starts the next one
    assert ending(store, second) == RunFinished("done")
    assert store.run(second).engine != old.id
    assert "asked to leave" in log_of(store, old)


def test_an_engine_begins_anew_once_other_code_is_installed(store, code, monkeypatch):
    # between the old and the new one none is there, and whoever follows may start one of the real engines
    monkeypatch.setattr(following, "ensure_engine", lambda store: None)
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
        "import json, sys, engine.client, engine.runs.following, engine.process.launch, engine.process.worker, "
        "engine.components.registry; "
        "print(json.dumps(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules))))"
    )
    imported = subprocess.check_output([sys.executable, "-c", code], env=environment())
    assert json.loads(imported) == []
