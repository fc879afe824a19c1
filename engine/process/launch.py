"""Starting and stopping the engine process of a store. Torch-free.

The engine gets a session of its own and no file of ours, so that nothing that happens to its
starter (a closed terminal, Ctrl-C, a kill) reaches it. Several starters may race: the store's
engine lock lets one of the processes stay, and every starter finds that one.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import site
import socket
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
from store import locks
from store.blobs.files import disk_error
from store.lineage.records import EngineRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import IO

    from store.store import Store

# -P: a folder named `engine` where the user happens to be must not be taken for ours.
WORKER_COMMAND = (sys.executable, "-P", "-m", "engine.process.worker")
# ours, and that of an engine which an earlier version started
_WORKER_NAMES = ("engine.process.worker", "engine.worker")
START_SECONDS = 30.0
STOP_SECONDS = 60.0
# So long it is waited for an engine that is in the middle of a step.
RELEASE_SECONDS = 10.0
# How long the kernel may take to clear up after a killed process that had the memory of a large model.
KILL_SECONDS = 30.0
POLL_SECONDS = 0.02
MAX_PID = 1 << 31
# What a run depends on and no run says: an engine has it from whoever started it. Where models are looked for matters
# to runs of bundles, which hold no paths.
OWN_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
    "HF_HOME",
    "HF_HUB_CACHE",
    "IMAGEIO_FFMPEG_EXE",
    "MKL_NUM_THREADS",
    "MODIFF_CONFIG_DIR",
    "MODIFF_MODELS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TMPDIR",
)


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
    leaving = retire_other_engines(store)
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


def retire_other_engines(store: Store) -> list[EngineRecord]:
    """Let engines of other code than what is installed now leave, as the store's function of this name does; where no
    engine lives, that code is not looked at."""
    return store.retire_other_engines(installed_version()) if store.engines() else []


def other_variables(engine: EngineRecord) -> list[str]:
    """The names in OWN_VARIABLES for which an engine has another value than one that this process would start; none
    where its environment cannot be read. Values may be secrets of another shell, and are never told."""
    import psutil

    if engine.pid == os.getpid():
        return []
    try:
        theirs = psutil.Process(engine.pid).environ()
    except (psutil.Error, OSError, ValueError):
        return []
    ours = _environment()
    return [name for name in OWN_VARIABLES if theirs.get(name) != ours.get(name)]


def stop_engine(store: Store, *, timeout_seconds: float = STOP_SECONDS) -> list[EngineRecord]:
    """Stop the store's engines and wait until they are gone; returns those that were alive.

    An engine finishes its current denoising step first; its run becomes interrupted and the
    queue waits for the next engine.
    """
    stopped = store.engines()
    for engine in stopped:
        if not _is_engine(engine.pid, store.root):
            if not store.is_engine_alive(engine.id):
                continue  # it has just left, and somebody else may have its pid
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
                "`modiff engine stop --force` ends it at once"
            )
        time.sleep(POLL_SECONDS)
    store.recover_if_possible()  # on a full disk the engine is stopped all the same
    return stopped


def release_engines(
    store: Store, *, timeout_seconds: float = RELEASE_SECONDS
) -> list[EngineRecord]:
    """Have the store's engines let go of models that they do not use; what they are after that, with what went. One
    that has not come to it in time, in the middle of a step, is still to release: it does so after that."""
    store.request_release()
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if not any(engine.is_to_release for engine in store.engines()):
            break
        time.sleep(POLL_SECONDS)
    return store.engines()


def kill_engines(store: Store) -> list[EngineRecord]:
    """End the store's engines with SIGKILL, whatever they do; returns those that were alive.

    For engines that hang or are suspended, which no request reaches. What they stored stays, their run becomes
    interrupted. Also for one that is in no list, because it hung before it was or after it had left it; its id is "".
    Raises EngineUnavailable where a process is not surely the engine, or does not end.
    """
    alone = store.root / "locks" / "engine"
    killed = store.engines()
    unlisted = set(locks.holders(alone)) - {engine.pid for engine in killed} - {os.getpid()}
    for engine in killed:
        _kill(engine.pid, store.root, store.root / "locks" / f"engine-{engine.id}")
    for pid in unlisted:
        _kill(pid, store.root, alone)
        killed.append(EngineRecord("", pid, socket.gethostname(), 0, 0, ""))
    deadline = time.monotonic() + KILL_SECONDS
    while waiting := [
        engine.pid
        for engine in killed
        if (store.is_engine_alive(engine.id) if engine.id else engine.pid in locks.holders(alone))
    ]:
        if time.monotonic() > deadline:
            raise EngineUnavailable(
                f"the engine (process {waiting[0]}) was killed and has not ended after {KILL_SECONDS:g} s: "
                "it waits for a device; look at that, or restart the machine"
            )
        time.sleep(POLL_SECONDS)
    # the next who looks records what became of its run, where this cannot
    store.recover_if_possible()
    return killed


def _kill(pid: int, root: Path, lock: Path) -> None:
    """SIGKILL a process, if it is the engine that holds this lock, and not somebody who has its pid by now."""
    if not 0 < pid < MAX_PID:  # a damaged row; 0 and below mean groups of processes
        raise EngineUnavailable(
            f"{pid} is the number of no process; `modiff store verify --repair`"
        )
    try:
        with _signalled(pid) as send:
            # What is found out here is of the very process that gets the signal.
            holders = locks.holders(lock)
            if not holders and not locks.is_held(lock):
                return  # it has just left
            if not _is_engine(pid, root) or (holders and pid not in holders):
                raise EngineUnavailable(
                    f"process {pid} of this machine is not the engine, which runs elsewhere "
                    "(perhaps in a container); end it there"
                )
            send(signal.SIGKILL)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise EngineUnavailable(
            f"the engine (process {pid}) belongs to another user and cannot be ended"
        ) from error


@contextlib.contextmanager
def _signalled(pid: int) -> Iterator[Callable[[signal.Signals], None]]:
    """Sends signals to the process that has this pid now, and to no later one where the system has descriptors of
    processes. Raises ProcessLookupError where there is none."""
    if sys.platform != "linux":
        yield lambda number: os.kill(pid, number)
        return
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        yield lambda number: os.kill(pid, number)  # an old kernel, or a container that forbids it
        return
    try:
        yield lambda number: signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def _is_engine(pid: int, root: Path) -> bool:
    """Whether a process is an engine of the store at `root` by its command line, or that cannot be read: in another
    container the pid is someone else's, perhaps another store's engine's."""
    import psutil

    if not 0 < pid < MAX_PID:
        return False
    try:
        arguments = psutil.Process(pid).cmdline()
    except psutil.AccessDenied:  # another user's; that it cannot be stopped is told by the signal
        return True
    except psutil.NoSuchProcess:
        return False
    if not any(name in argument for argument in arguments for name in _WORKER_NAMES):
        return False
    named = [after for before, after in itertools.pairwise(arguments) if before == "--store"]
    return all(os.path.realpath(path) == os.path.realpath(root) for path in named)


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
            f"{seconds:g} s; `modiff engine stop --force` ends it, or end that process"
        )
    log = log_path(store.root, child.pid)
    return f"the engine (process {child.pid}) was not ready after {seconds:g} s; see {log}"


def _failure(store: Store, child: subprocess.Popen[bytes], output: IO[bytes]) -> str:
    log = log_path(store.root, child.pid)
    output.seek(0)
    printed = [line.strip() for line in output.read().decode(errors="replace").split("\n")]
    reason = last_line(log) or next((line for line in reversed(printed) if line), "it said nothing")
    return f"the engine did not start (exit code {child.returncode}): {reason}"
