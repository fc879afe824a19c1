"""Real engine processes for the tests of faults, each a fork of one process that has imported torch already.

Run as a program it is that process: it reads a line of JSON for each engine that it is to fork and for each one whose
end is waited for. Imported it has `Engines`, which starts it and talks to it. A forked child is the worker's own
`main`, with the faults that the test names built into what it calls, so that no code of ours knows of tests.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
Fault = dict[str, Any]
"""{"fault": name of a function of FAULTS, and its arguments}."""


class Engines:
    """Starts and ends engines; use it in a `with`, at whose end none is left."""

    def __init__(self, mount: str = "") -> None:
        """mount: a shell command after which the engines see other file systems than this process does."""
        command = [sys.executable, str(Path(__file__).resolve())]
        if mount:
            command = ["unshare", "-Urm", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            text=True,
        )
        self._alive: set[int] = set()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, store: Path, *faults: Fault, idle_seconds: float = 0.0) -> int:
        """Fork an engine for the store; returns its pid. It ends when nothing is queued for so long."""
        pid = self._ask({"store": str(store), "idle_seconds": idle_seconds, "faults": faults})
        assert pid > 1, (
            "an answer to an earlier question, whose test was ended: never a pid to signal"
        )
        self._alive.add(pid)
        return pid

    def wait(self, pid: int) -> int:
        """The exit code of an engine once it has ended, -N for signal N."""
        code = self._ask({"wait": pid})
        self._alive.discard(pid)
        return code

    def kill(self, pid: int) -> int:
        """Kill an engine and wait for it. Its pid is nobody else's before that."""
        os.kill(pid, signal.SIGKILL)
        return self.wait(pid)

    def serve(self, store: Path, *faults: Fault) -> int:
        """Let an engine work off the queue; returns its exit code."""
        return self.wait(self.start(store, *faults))

    def _ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that forks engines has ended"
        return int(json.loads(answer))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for pid in self._alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.communicate()


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
    now = time.time_ns() + 10 * 365 * 24 * 3600 * 10**9

    def back() -> int:
        nonlocal now
        now -= int(seconds * 1e9)
        return now

    time.time_ns = back
    time.time = lambda: back() / 1e9


def wait_for_file(target: str, call: int, path: str) -> None:
    """The `call`-th call of the target waits until the file is there, for a minute at most."""
    calls = 0

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            last = time.monotonic() + 60
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
}


def _path_of(file: Any) -> str:
    return os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else str(file)


# The process that forks


def _be_engine(request: dict[str, Any]) -> int:
    from engine.process.worker import main

    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(silence, descriptor)
    for fault in request["faults"]:
        arguments = dict(fault)
        FAULTS[arguments.pop("fault")](**arguments)
    return main(["--store", request["store"], "--idle-seconds", str(request["idle_seconds"])])


def _forked(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        code = _be_engine(request)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _answers(lines: Iterator[str]) -> Iterator[int]:
    for line in lines:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            yield os.waitstatus_to_exitcode(status)
        else:
            yield _forked(request)


def main() -> None:
    for name in (
        "engine.process.worker",
        "engine.execute",
        "engine.components.residents",
        "engine.models.text_encoders.t5",
        "engine.prompt",
        "imageio_ffmpeg",
        "diskcache",
    ):
        importlib.import_module(name)
    for answer in _answers(iter(sys.stdin)):
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
