"""Programs of this project in processes of their own, each a fork of one process that has imported all that they need.

To import takes seconds, which are not what the tests of processes are about; what a fork does after that is the
program's own `main` with its own arguments, streams, environment and folder. One such process serves all workers of
a run of the tests: each connects to it, and a child of it forks what that one asks for.

Not for programs whose start is the subject: `/proc` tells of a fork the command line and the environment of the process
that forks. That command line has the name by which an engine is known, so that a fork can be stopped as an engine.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from engine.process import launch
from engine.process.launch import WORKER_COMMAND

if TYPE_CHECKING:
    import pytest

    from store.store import Store

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.005
# How long to wait for another worker of the tests after the last one has left.
ALONE_SECONDS = 0.5
# How long the imports may take on a machine that is busy.
START_SECONDS = 300
Fault = dict[str, Any]
"""{"fault": name of a function of chain_engine.FAULTS, and its arguments}."""
IMPORTED = (
    "engine.process.worker",
    "engine.execution.jobs",
    "engine.components.memory.residents",
    "engine.models.text_encoders.t5",
    "engine.prompt",
    "imageio_ffmpeg",
    "diskcache",
    "tui.cli.main",
    "tui.cli.commands.runs.run",
    "tui.cli.commands.runs.list",
    "tui.cli.commands.engine",
    "tests.integration.engine_process",
    "tests.integration.small_disk",
    "tests.integration.chain_engine",
)


# Who asks for programs


class Forked:
    """A process as `subprocess.Popen` has it, and like it usable from several threads."""

    def __init__(
        self, forker: Forker, pid: int, streams: Mapping[str, IO[str]], command: Sequence[str]
    ) -> None:
        self.pid = pid
        self.args = command
        self.returncode: int | None = None
        self.stdin = streams.get("stdin")
        self.stdout = streams.get("stdout")
        self.stderr = streams.get("stderr")
        self._forker = forker
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None:
                self.returncode = self._forker.ask({"wait": self.pid})
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        last = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if last is not None and time.monotonic() > last:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0)
            time.sleep(POLL_SECONDS)
        return code

    def communicate(self) -> tuple[str, str]:
        """All of stdout and of stderr, once it has ended."""
        if self.stdin is not None:
            self.stdin.close()
        told = {"stdout": "", "stderr": ""}

        def read(name: str, stream: IO[str]) -> None:
            with stream:
                told[name] = stream.read()

        streams = {"stdout": self.stdout, "stderr": self.stderr}
        readers = [
            threading.Thread(target=read, args=(name, stream), daemon=True)
            for name, stream in streams.items()
            if stream is not None and not stream.closed
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        self.wait()
        return told["stdout"], told["stderr"]

    def send_signal(self, number: int) -> None:
        with self._lock:  # until its end is collected the pid is nobody else's
            if self.returncode is None:
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forker:
    """The connection to the process that forks."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._answers = connection.makefile("r")
        self._lock = threading.Lock()

    def start(
        self,
        program: str,
        *arguments: str,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
        folder: Path = ROOT,
        is_session: bool = False,
        ignored: Sequence[int] = (),
        faults: Sequence[Fault] = (),
    ) -> Forked:
        """A fork that calls `main` of the module `program`. The streams are descriptors, or PIPE or DEVNULL of
        subprocess; is_session: in a session of its own; ignored: signals; faults: of chain_engine."""
        request = {
            "program": program,
            "arguments": arguments,
            "environment": dict(os.environ if environment is None else environment),
            "folder": str(folder),
            "is_session": is_session,
            "ignored": list(ignored),
            "faults": list(faults),
        }
        with contextlib.ExitStack() as theirs:
            streams: dict[str, IO[str]] = {}
            given = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
            descriptors = [_stream(name, each, streams, theirs) for name, each in given.items()]
            pid = self.ask(request, descriptors)
        assert pid is not None
        return Forked(self, pid, streams, (program, *arguments))

    def ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> int | None:
        data = json.dumps(request).encode()
        header = f"{len(data):08}".encode()
        with self._lock:
            if descriptors:
                socket.send_fds(self._connection, [header], descriptors)
                self._connection.sendall(data)
            else:
                self._connection.sendall(header + data)
            answer = self._answers.readline()
        assert answer, "the process that forks has ended"
        found: int | None = json.loads(answer)
        return found


def _stream(
    name: str, given: int, streams: dict[str, IO[str]], theirs: contextlib.ExitStack
) -> int:
    """The descriptor for the fork; our end of a pipe goes to `streams`."""
    if given == subprocess.DEVNULL:
        given = os.open(os.devnull, os.O_RDWR)
    elif given == subprocess.PIPE:
        read, write = os.pipe()
        if name == "stdin":
            streams[name], given = os.fdopen(write, "w", encoding="utf-8"), read
        else:
            streams[name], given = os.fdopen(read, "r", encoding="utf-8"), write
    else:
        return given
    theirs.callback(os.close, given)
    return given


@functools.cache
def forker() -> Forker:
    """Of this run of the tests: it is started by whoever asks first, and ends with the last."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
    path = Path(tempfile.gettempdir()) / f"modiff-forker-{run}"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = _connected(path)
        if connection is None:
            _begin(path)
            connection = _connected(path)
    assert connection is not None
    atexit.register(connection.shutdown, socket.SHUT_RDWR)
    return Forker(connection)


def _connected(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    return connection


def _begin(path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, __file__, "--as", "engine.process.worker", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C is for the tests, which then close the connection
    )
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    assert ready
    assert process.stdout.readline() == b"ready\n"
    if "PYTEST_XDIST_TESTRUNUID" not in os.environ:  # where other workers may still use it
        atexit.register(process.wait)


def launch_forks(
    monkeypatch: pytest.MonkeyPatch,
    program: str = "engine.process.worker",
    *,
    command: Sequence[str] = WORKER_COMMAND,
    faults: Sequence[Sequence[Fault]] = (),
) -> list[Forked]:
    """From here on an engine that this process launches by `command` is a fork that runs `program` with what follows
    the first two words of that.

    faults: of the first engine, of the second and so on, of chain_engine. Returns the engines, more with each launch.
    """
    started: list[Forked] = []
    begin = launch._start

    def start(store: Store, wanted: Sequence[str], output: IO[bytes]) -> Any:
        if tuple(wanted[: len(command)]) != tuple(command):
            return begin(store, wanted, output)
        given = () if command == WORKER_COMMAND else wanted[2:]
        child = forker().start(
            program,
            *(*given, "--store", str(store.root)),
            stdout=output.fileno(),
            stderr=output.fileno(),
            environment=launch._environment(),
            folder=store.root,
            is_session=True,
            faults=faults[len(started)] if len(started) < len(faults) else (),
        )
        started.append(child)
        threading.Thread(target=child.wait, daemon=True).start()
        return child

    monkeypatch.setattr(launch, "_start", start)
    return started


# The process that forks


def be(request: Mapping[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """What a fork does from here on: `program` with `arguments`, `environment` and `folder`, as `Forker.start` takes
    them, and these three streams."""
    code = 70
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        code = _called(request)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  # it is told where the program tells things
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _called(request: Mapping[str, Any]) -> int:
    if request.get("is_session"):
        os.setsid()
    for number in request.get("ignored", ()):
        signal.signal(number, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    _open_streams()
    chain_engine = importlib.import_module("tests.integration.chain_engine")
    for fault in request.get("faults", ()):
        arguments = dict(fault)
        chain_engine.FAULTS[arguments.pop("fault")](**arguments)
    module = importlib.import_module(request["program"])
    sys.argv = [str(module.__file__), *request["arguments"]]
    sys.orig_argv = [sys.executable, *sys.argv]
    return int(module.main() or 0)


def _open_streams() -> None:
    """As Python does where it begins."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", encoding="utf-8", closefd=False, buffering=1, errors="backslashreplace"
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def _forked(request: Mapping[str, Any], descriptors: Sequence[int], ours: socket.socket) -> int:
    pid = os.fork()
    if not pid:
        ours.close()
        be(request, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    return pid


def _requests(connection: socket.socket) -> Iterator[tuple[dict[str, Any], list[int]]]:
    while True:
        header, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
        if not header:
            return
        left, data = int(header), b""
        while len(data) < left:
            data += connection.recv(left - len(data))
        yield json.loads(data), descriptors


def _serve(connection: socket.socket) -> None:
    """What one worker of the tests asks for; when it leaves, so do its programs."""
    alive: set[int] = set()
    for request, descriptors in _requests(connection):
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            alive.discard(pid)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = _forked(request, descriptors, connection)
            alive.add(answer)
        connection.sendall(json.dumps(answer).encode() + b"\n")
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def main() -> None:
    path = Path(sys.argv[-1])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in IMPORTED:
        importlib.import_module(name)
    importlib.import_module("tests.integration.chain_engine").warm()
    gc.collect()
    gc.freeze()  # what is here already a fork needs not look at, which would copy it
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    os.write(1, b"ready\n")
    served: set[int] = set()
    alone_since = time.monotonic()
    while served or time.monotonic() - alone_since < ALONE_SECONDS:
        if served:
            alone_since = time.monotonic()
        if select.select([listener], [], [], ALONE_SECONDS / 4)[0]:
            connection, _ = listener.accept()
            pid = os.fork()
            if not pid:
                listener.close()
                try:
                    _serve(connection)
                finally:
                    os._exit(0)
            connection.close()
            served.add(pid)
        served -= {pid for pid in served if os.waitpid(pid, os.WNOHANG)[0]}
    path.unlink()
    path.with_suffix(".lock").unlink()


if __name__ == "__main__":
    main()
