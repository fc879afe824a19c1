"""Starting and stopping the engine process of a store. Torch-free.

The engine gets a session of its own and no file of ours, so that nothing that happens to its
starter (a closed terminal, Ctrl-C, a kill) reaches it. Several starters may race: the store's
engine lock lets one of the processes stay, and every starter finds that one.
"""

from __future__ import annotations

import os
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import EngineUnavailable
from engine.process.logs import last_line, log_path
from engine.process.version import installed_version
from store.blobs.files import disk_error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

    from store.lineage.records import EngineRecord
    from store.store import Store

# -P: a folder named `engine` where the user happens to be must not be taken for ours.
WORKER_COMMAND = (sys.executable, "-P", "-m", "engine.process.worker")
# ours, and that of an engine which an earlier version started
_WORKER_NAMES = ("engine.process.worker", "engine.worker")
START_SECONDS = 30.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.02


def ensure_engine(
    store: Store,
    *,
    command: Sequence[str] = WORKER_COMMAND,
    timeout_seconds: float = START_SECONDS,
) -> EngineRecord:
    """The store's live engine, started if there is none; EngineUnavailable if that fails.

    An engine of other code than what is installed now is replaced when idle. One that is at work
    is returned as it is: it takes no run after that, and the next engine is another.
    """
    deadline = time.monotonic() + timeout_seconds
    leaving = store.retire_other_engines(installed_version())
    child: subprocess.Popen[bytes] | None = None
    with _startup_file(store) as output:
        while not (live := store.engines()):
            leaving = [engine for engine in leaving if store.is_engine_alive(engine.id)]
            if not leaving and (child is None or child.returncode == 0):
                # A child that ended with 0 found another engine, which has retired since.
                child = _start(store, command, output)
            elif child is not None and child.returncode not in (None, 0):
                raise EngineUnavailable(_failure(store, child, output))
            if time.monotonic() > deadline:
                raise EngineUnavailable(_not_ready(store, child, leaving, timeout_seconds))
            time.sleep(POLL_SECONDS)
    return live[0]


def stop_engine(store: Store, *, timeout_seconds: float = STOP_SECONDS) -> list[EngineRecord]:
    """Stop the store's engines and wait until they are gone; returns those that were alive.

    An engine finishes its current denoising step first; its run becomes interrupted and the
    queue waits for the next engine.
    """
    stopped = store.engines()
    for engine in stopped:
        if not _is_here(engine) and store.is_engine_alive(engine.id):
            raise EngineUnavailable(
                f"process {engine.pid} of this machine is not the engine, which runs elsewhere "
                f"(host {engine.host}, perhaps a container); stop it there"
            )
        try:
            os.kill(engine.pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
        except PermissionError as error:
            raise EngineUnavailable(
                f"the engine (process {engine.pid}) belongs to another user and cannot be stopped"
            ) from error
    deadline = time.monotonic() + timeout_seconds
    while waiting := [engine for engine in stopped if store.is_engine_alive(engine.id)]:
        if time.monotonic() > deadline:
            raise EngineUnavailable(
                f"the engine (process {waiting[0].pid}) is still busy after {timeout_seconds:g} s; "
                "stop it again to end it at once"
            )
        time.sleep(POLL_SECONDS)
    store.recover_if_possible()  # on a full disk the engine is stopped all the same
    return stopped


def _is_here(engine: EngineRecord) -> bool:
    """Whether the pid is an engine's also here: in another container it is someone else's."""
    import psutil

    try:
        arguments = psutil.Process(engine.pid).cmdline()
    except psutil.AccessDenied:  # another user's; that it cannot be stopped is told by the signal
        return True
    except psutil.NoSuchProcess:
        return False
    return any(name in argument for argument in arguments for name in _WORKER_NAMES)


def _startup_file(store: Store) -> IO[bytes]:
    """A nameless file for what the engine prints before it has its own log."""
    try:
        return tempfile.TemporaryFile(dir=store.root / "tmp")
    except OSError as error:
        raise disk_error(error, store.root / "tmp") from error


def _start(store: Store, command: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        child = subprocess.Popen(
            [*command, "--store", str(store.root)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=store.root,
            env=_environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise EngineUnavailable(f"{command[0]} cannot be started: {error.strerror}") from error
    # Collects its exit status, however long it lives; sets child.returncode.
    threading.Thread(target=child.wait, name="engine-reaper", daemon=True).start()
    return child


def _environment() -> dict[str, str]:
    """Ours, with paths that mean the same from another folder and lead to this very package."""
    environment = dict(os.environ)
    if environment.get("MODIFF_MODELS"):
        environment["MODIFF_MODELS"] = os.path.abspath(environment["MODIFF_MODELS"])
    search = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    package_root = str(Path(__file__).resolve().parents[2])
    installed = {sysconfig.get_path("purelib"), site.getusersitepackages()}
    if package_root not in installed:
        search.insert(0, package_root)
    environment["PYTHONPATH"] = os.pathsep.join(search)
    return environment


def _not_ready(
    store: Store,
    child: subprocess.Popen[bytes] | None,
    leaving: Sequence[EngineRecord],
    seconds: float,
) -> str:
    if child is None:
        return (
            f"the engine of another version (process {leaving[0].pid}) has not left after "
            f"{seconds:g} s; end that process"
        )
    log = log_path(store.root, child.pid)
    return f"the engine (process {child.pid}) was not ready after {seconds:g} s; see {log}"


def _failure(store: Store, child: subprocess.Popen[bytes], output: IO[bytes]) -> str:
    log = log_path(store.root, child.pid)
    output.seek(0)
    printed = [line.strip() for line in output.read().decode(errors="replace").split("\n")]
    reason = last_line(log) or next((line for line in reversed(printed) if line), "it said nothing")
    return f"the engine did not start (exit code {child.returncode}): {reason}"
