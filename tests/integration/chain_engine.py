"""Real engine processes for the tests of faults, each a fork of one process that has imported torch already.

`Engines` starts them. A fork is the worker's own `main`, with the faults that the test names built into what it calls,
so that no code of ours knows of tests.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import importlib
import json
import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from tests.integration.forker import ROOT, Fault, Forked, forker

__all__ = ["ROOT", "Fault"]

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
_warm: list[Any] = []


class Engines:
    """Starts and ends engines; use it in a `with`, at whose end none is left."""

    def __init__(self) -> None:
        self._alive: dict[int, Forked] = {}

    def start(
        self,
        store: Path,
        *faults: Fault,
        idle_seconds: float = 0.0,
        is_warm: bool = True,
        mount: Sequence[str] = (),
    ) -> int:
        """Fork an engine for the store; returns its pid. It ends when nothing is queued for so long.

        is_warm: it has the models of `micro` in memory already. mount: shell commands; after the first it sees other
        file systems than this process does, the second is run in there after its end.
        """
        given = ["--store", str(store), "--idle-seconds", str(idle_seconds)]
        all_faults = ({"fault": "warm_models"}, *faults) if is_warm else faults
        if mount:
            all_faults = ({"fault": "elsewhere", "commands": mount}, *all_faults)
        engine = forker().start("engine.process.worker", *given, stderr=2, faults=all_faults)
        self._alive[engine.pid] = engine
        return engine.pid

    def wait(self, pid: int) -> int:
        """The exit code of an engine once it has ended, -N for signal N."""
        code = self._alive[pid].wait()
        del self._alive[pid]
        return code

    def is_alive(self, pid: int) -> bool:
        return self._alive[pid].poll() is None

    def kill(self, pid: int) -> int:
        """Kill an engine and wait for it. Its pid is nobody else's before that."""
        self._alive[pid].kill()
        return self.wait(pid)

    def serve(self, store: Path, *faults: Fault, **options: Any) -> int:
        """Let an engine work off the queue; returns its exit code. options: of `start`."""
        return self.wait(self.start(store, *faults, **options))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for pid in [*self._alive]:
            self.kill(pid)


# Faults: each changes what this process calls, before it becomes an engine


def _wrap(target: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace `module:attribute`, or `module:Class.method`, by what `around` makes of it."""
    module, _, path = target.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, around(getattr(owner, name)))


def kill(target: str, call: int, when: str = "before") -> None:
    """SIGKILL at the `call`-th call of the target (from 1), before or after it does its work."""
    calls = 0

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **named)
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return called

    _wrap(target, around)


def fail(target: str, error: str, first: int = 1, last: int = 10**9, path: str = "") -> None:
    """OSError `error` (its name in errno) at the calls `first` to `last` of the target; with `path`, only those
    count whose first argument is a file whose path contains it, or a descriptor of one."""
    number = getattr(errno, error)
    calls = 0

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            if path and path not in _path_of(arguments[0]):
                return function(*arguments, **named)
            calls += 1
            if first <= calls <= last:
                raise OSError(number, os.strerror(number))
            return function(*arguments, **named)

        return called

    _wrap(target, around)


def raise_(target: str, error: str, call: int = 1) -> None:
    """A built-in exception at the `call`-th call of the target."""
    calls = 0

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                raise getattr(builtins, error)("injected")
            return function(*arguments, **named)

        return called

    _wrap(target, around)


def no_larger_files(num_bytes: int) -> None:
    """No file may grow beyond this, as under a quota."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def full_database(pages: int) -> None:
    """From the first leased run on, no more than so many pages more fit into the database."""
    from store.database import database
    from store.lineage import queue

    largest = 0

    def limit(lineage: Any) -> None:
        lineage.db.conn.execute(f"PRAGMA max_page_count={largest}")

    def around_lease(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(lineage: Any, engine_id: str) -> Any:
            nonlocal largest
            run = function(lineage, engine_id)
            if run is not None and not largest:
                [(count,)] = lineage.db.conn.execute("PRAGMA page_count").fetchall()
                largest = count + pages
                limit(lineage)
            return run

        return called

    def around_open(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            lineage = function(*arguments, **named)
            if largest:
                limit(lineage)
            return lineage

        return called

    queue.lease = around_lease(queue.lease)
    database.open_lineage = around_open(database.open_lineage)


def backward_clock(seconds: float) -> None:
    """A clock that was years ahead and goes back by so much at each look."""
    # to it all that lies in the system's folder is old: what others of this machine encode there is not its to sweep
    tempfile.tempdir = tempfile.mkdtemp()
    now = time.time_ns() + 10 * 365 * 24 * 3600 * 10**9

    def back() -> int:
        nonlocal now
        now -= int(seconds * 1e9)
        return now

    time.time_ns = back
    time.time = lambda: back() / 1e9


def wait_for_file(target: str, call: int, path: str) -> None:
    """The `call`-th call of the target waits until the file is there, for ten minutes at most."""
    calls = 0

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            last = time.monotonic() + 600
            while calls == call and not os.path.exists(path) and time.monotonic() < last:
                time.sleep(0.005)
            return function(*arguments, **named)

        return called

    _wrap(target, around)


def busy_seconds(seconds: float) -> None:
    """How long a write waits for another process's, so that no test has to."""
    from engine.chain import journal
    from engine.process import worker

    worker.BUSY_SECONDS = journal.BUSY_SECONDS = seconds
    worker.FINISH_PAUSES_SECONDS = (seconds,) * 4


def writer_seconds(seconds: float) -> None:
    """How long a run waits for a clean-up, so that no test has to."""
    from engine import runner

    runner.WRITER_SECONDS = seconds


def touch(target: str, path: str) -> None:
    """Each call of the target makes this file before it does its work."""

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            Path(path).touch()
            return function(*arguments, **named)

        return called

    _wrap(target, around)


def warm_models() -> None:
    """The runner has in memory what `warm` has loaded."""

    def around(init: Callable[..., None]) -> Callable[..., None]:
        return lambda runner, store: init(runner, store, _warm[0])

    _wrap("engine.runner:Runner.__init__", around)


def elsewhere(commands: Sequence[str]) -> None:
    """This process sees other file systems, as the first shell command makes them; an engine runs the second at its
    end."""
    enter_own_mounts()
    before, *after = commands
    subprocess.run(["sh", "-c", before], check=True)

    def around(main: Callable[..., int]) -> Callable[..., int]:
        def called(*arguments: Any) -> int:
            code = main(*arguments)
            for command in after:
                subprocess.run(["sh", "-c", command], check=True)
            return code

        return called

    _wrap("engine.process.worker:main", around)


def enter_own_mounts() -> None:
    """What this process mounts from here on only it and its children see, as in `unshare -Urm`; OSError where a user
    may not have that."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny")
    (own / "uid_map").write_text(f"0 {user} 1")
    (own / "gid_map").write_text(f"0 {group} 1")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def forked_launch() -> None:
    """The engine that this process launches is a fork of it, made now, before it has opened anything."""
    from engine.process import launch

    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(write)
        _be_launched(read)
    os.close(read)

    def start(store: Any, command: Sequence[str], output: Any) -> Any:
        wanted = {"store": str(store.root), "environment": launch._environment()}
        with os.fdopen(write, "w") as stream:
            json.dump(wanted, stream)
        return Launched(pid)

    launch._start = start


class Launched:
    """The part of `subprocess.Popen` that whoever launches an engine needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        threading.Thread(target=self.wait, daemon=True).start()

    def wait(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)


def _be_launched(read: int) -> None:
    """The engine that whoever writes to this pipe wants; nothing where it is closed. Does not return."""
    from engine.process import worker

    code = 0
    try:
        with os.fdopen(read) as stream:
            told = stream.read()
        if told:
            wanted = json.loads(told)
            os.setsid()
            silence = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(silence, descriptor)
            os.environ.clear()
            os.environ.update(wanted["environment"])
            os.chdir(wanted["store"])
            code = worker.main(["--store", wanted["store"]])
    finally:
        os._exit(code)


FAULTS: dict[str, Callable[..., None]] = {
    "kill": kill,
    "fail": fail,
    "raise": raise_,
    "no_larger_files": no_larger_files,
    "full_database": full_database,
    "backward_clock": backward_clock,
    "wait_for_file": wait_for_file,
    "busy_seconds": busy_seconds,
    "writer_seconds": writer_seconds,
    "touch": touch,
    "warm_models": warm_models,
    "elsewhere": elsewhere,
    "forked_launch": forked_launch,
}


def _path_of(file: Any) -> str:
    return os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else str(file)


# The process that forks


def warm() -> None:
    """Compute a run of `micro`, and keep the models for the engines that are forked with `warm_models`."""
    from store.store import open_store
    from tests.integration.chain_runs import VIDEO, Here, spec_of

    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder, "store")) as store:
        here = Here(store)
        here.make(spec_of("scheduler.steps=1", "frames=5", kinds=VIDEO))
        _warm.append(here.watched.runner.residents())
