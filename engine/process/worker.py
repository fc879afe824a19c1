"""The engine process: leases runs from the store and executes them one after another.

It talks to nobody: the queue, cancellation and progress are rows of the store, and its life is
the lock it holds. Whatever becomes of a run is recorded before the next one starts; if this
process is killed, whoever sees its lock free records that instead. A store that fails for a
while costs telemetry, never a run or the queue. Torch comes in with the runner only.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine.errors import EngineError, RunCancelled, RunPaused
from engine.process.digesting import Digester
from engine.process.logs import bound_log, log_path, one_line, start_logging
from engine.process.version import installed_version
from presets.encoding import decode_spec
from presets.errors import PresetError
from presets.spec.run import RunSpec
from store import locks
from store.blobs.leavings import sweep_temporary
from store.breaker import Breaker
from store.errors import PASSING, EngineRetired, FileTooLarge, StoreError
from store.lineage import queue
from store.lineage.events import Message
from store.paths import prepare, store_root
from store.store import Store, open_store
from store.upkeep.gc import make_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from store.lineage.events import Event
    from store.lineage.records import HeldModel, RunRecord

IDLE_SECONDS = 300.0
POLL_SECONDS = 0.05
HEARTBEAT_SECONDS = 1.0
# Longer than any viewer holds the database: a busy moment must not cost a long run.
BUSY_SECONDS = 60.0
# Idle for this long, the engine reads in full what its runs used.
DIGEST_AFTER_SECONDS = 2.0
# How often an idle engine looks whether it is to let go of its models.
RELIEF_SECONDS = 1.0
# How long to wait before each new attempt to record the end of a run.
FINISH_PAUSES_SECONDS = (0.5, 2.0, 5.0, 10.0)
# Between attempts to lease a run from a store that fails.
RETRY_SECONDS = 1.0
# How soon an engine that pauses notices that it is to stop.
STOP_POLL_SECONDS = 0.1
# Warnings of one run that wait for a store that takes no events; more of them say nothing new.
MAX_LATE = 20

log = logging.getLogger("engine.process.worker")


class Executor(Protocol):
    """What the worker needs of engine.runner.Runner."""

    def execute(
        self,
        run: RunRecord,
        spec: RunSpec,
        *,
        emit: Callable[[Event], None],
        cancelled: Callable[[], bool],
        paused: Callable[[], bool],
        between: Callable[[], None],
    ) -> str:
        """Execute a run in the calling thread and return the path of its output.

        `emit`, `cancelled`, `paused` and `between` are to be called from this thread only. Raises RunCancelled or
        RunPaused soon after one of them is true. between: called between pieces of work, when what is not in use may
        be released.
        """


class StopFlag:
    """Set by the first SIGTERM or SIGINT; a second one of a kind ends the process at once."""

    def __init__(self) -> None:
        # A plain attribute, not a threading.Event: its lock may be held where the signal arrives.
        self.is_set = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the viewer's terminal may close

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
        signal.signal(number, signal.SIG_DFL)


class Worker:
    """One engine's work: the queue loop, and the fate of each run."""

    def __init__(
        self,
        store: Store,
        engine_id: str,
        make_runner: Callable[[Store], Executor],
        stop: StopFlag,
    ) -> None:
        self.store = store
        self.engine_id = engine_id
        self.make_runner = make_runner
        self.stop = stop
        self.runner: Executor | None = None
        self.is_store_failing = False
        self.present = ""  # the run at work
        self.late: list[Event] = []
        # (run, status, error, output) of ends that the store could not take yet
        self.owed: list[tuple[str, str, str, str]] = []
        self.digester = Digester(store.root)
        self.version = installed_version()
        self.relief_due = 0.0
        self.told_models: tuple[HeldModel, ...] = ()

    def work(self, idle_seconds: float) -> None:
        """Execute queued runs until asked to stop, or until nothing was queued for a while."""
        with self.digester:
            self._work(idle_seconds)

    def _work(self, idle_seconds: float) -> None:
        idle_since = time.monotonic()
        while not self.stop.is_set:
            try:
                self._record_owed()
                run = self._lease()
                self.is_store_failing = False
                if run is None and self._is_over(time.monotonic() - idle_since, idle_seconds):
                    return
            except EngineRetired as error:
                log.info("%s; exiting", error)
                return
            except FileTooLarge:
                raise  # nobody gives space back for it
            except PASSING as error:
                self._tell_once("no run can be leased", error)
                if self._gives_up(time.monotonic() - idle_since >= idle_seconds):
                    return
                self._sleep(RETRY_SECONDS)
                continue
            if run is not None:
                self.digester.pause()
                self.execute(run)
                idle_since = time.monotonic()
                continue
            if time.monotonic() - idle_since >= DIGEST_AFTER_SECONDS:
                self.digester.resume()
            self._relieve()
            time.sleep(POLL_SECONDS)
        log.info("asked to stop; exiting")

    def _is_over(self, seconds: float, idle_seconds: float) -> bool:
        """Whether an engine that has had nothing to do for so long is to leave."""
        if not self.store.is_in_place():
            log.warning("the store was removed or replaced; exiting")
            return True
        if seconds >= idle_seconds and self.store.retire_engine(self.engine_id):
            log.info("nothing to do for %g s; exiting", idle_seconds)
            return True
        return False

    def _gives_up(self, has_idled: bool) -> bool:
        """Whether an engine is to leave whose store fails; whoever then sees the lock free ends the runs that are
        owed their end."""
        if not self.store.is_in_place():
            log.warning("the store was removed or replaced; exiting")
            return True
        try:
            return has_idled and bool(self.owed) and not self.store.num_queued()
        except StoreError:
            return True  # not even the queue can be read

    def is_asked(self) -> bool:
        """Whether somebody wants the engine or its present run to end: then nothing is waited for."""
        run = self.present
        return self.stop.is_set or (bool(run) and (self._cancelled(run) or self._paused(run)))

    def _cancelled(self, run_id: str) -> bool:
        return self.stop.is_set or self._is_flagged(self.store.cancel_requested, run_id)

    def _paused(self, run_id: str) -> bool:
        return self._is_flagged(self.store.pause_requested, run_id)

    def _is_flagged(self, read: Callable[[str], bool], run_id: str) -> bool:
        """A flag of a run; one that cannot be read now is read again in a moment."""
        try:
            return read(run_id)
        except PASSING as error:
            self._tell_once(f"run {run_id}: whether it is to end cannot be read", error)
            return False

    def _sleep(self, seconds: float) -> None:
        """Pause, but not beyond a request to stop."""
        last = time.monotonic() + seconds
        while not self.stop.is_set and (left := last - time.monotonic()) > 0:
            time.sleep(min(left, STOP_POLL_SECONDS))

    def _lease(self) -> RunRecord | None:
        """The next run; raises EngineRetired where an engine of other code is to have it."""
        if queue.is_waiting(self.store.lineage) and self.is_outdated():
            raise EngineRetired("other code was installed since this engine began")
        return self.store.lease(self.engine_id)

    def is_outdated(self) -> bool:
        """Whether what is installed now is other code than this process began with."""
        return installed_version() != self.version

    def execute(self, run: RunRecord) -> None:
        """Execute one leased run and record how it ended."""
        log.info("run %s started", run.id)
        self.present = run.id
        status, error, output = self._outcome(run)
        self.present = ""
        self._tell_late(run.id)
        self._tell_held()
        self._make_room(run.id)
        log.info("run %s %s%s", run.id, status, f": {error}" if error else "")
        self._finish(run.id, status, error, output)
        if status == "done":
            self.digester.add(run.spec_json)

    def _tell_held(self) -> None:
        """Which models are in memory now, for the plans of the next runs and for people."""
        held, models = getattr(self.runner, "held", None), getattr(self.runner, "models", tuple)
        if held is None:
            return
        try:
            self.told_models = models()
            self.store.set_held(self.engine_id, held(), self.told_models)
        except StoreError as error:
            log.warning("what is in memory is not told: %s", one_line(error))

    def _release_if_asked(self) -> None:
        """Lets go of idle models where somebody has asked for that; of those that a run uses once it does not."""
        try:
            if not self.store.release_requested(self.engine_id):
                return
            released = self._released("release")
            self.store.set_released(self.engine_id, released)
        except PASSING as error:
            self._tell_once("whether idle models are to go cannot be read", error)

    def _between(self) -> None:
        """Between pieces of work of a run: as asked, and what has come into memory is told."""
        self._release_if_asked()
        if getattr(self.runner, "models", tuple)() != self.told_models:
            self._tell_held()

    def _relieve(self) -> None:
        """While nothing is to be done: as asked, and where the system is short of memory."""
        if time.monotonic() >= self.relief_due:
            self.relief_due = time.monotonic() + RELIEF_SECONDS
            self._release_if_asked()
            self._released("relieve")

    def _released(self, name: str) -> Sequence[HeldModel]:
        """What went by a function of the runner, which is told."""
        release = getattr(self.runner, name, None)
        released = release() if release is not None else ()
        if released:
            told = ", ".join(f"{each.kind} {each.name}" for each in released)
            log.info("%s: no longer in memory: %s", name, told)
            self._tell_held()
        return released

    def _make_room(self, run_id: str) -> None:
        """Clean up where the store is over its budget or the disk nearly full.

        Once a run, after its work and before its end is recorded: nobody writes then, the run's own
        steps are protected as those of one that is not over, and its log can tell of it.
        """
        if self.stop.is_set:  # whoever asked for that waits
            return
        try:
            num_bytes = make_room(self.store.root)
        except StoreError as error:
            log.warning("no clean-up: %s", one_line(error))
            return
        if num_bytes:
            text = f"a clean-up freed {num_bytes / 1e6:,.1f} MB that can be computed again"
            log.info("%s", text)
            self._emit(run_id, Message("info", text))

    def _finish(self, run_id: str, status: str, error: str, output: str) -> None:
        """Record the end of a run, in several attempts; after them it is owed, and the queue waits for it."""
        for pause in (*FINISH_PAUSES_SECONDS, None):
            try:
                self.store.finish(run_id, status, error=error, output=output)
                return
            except PASSING as failure:
                if pause is None:
                    log.exception("run %s: its end (%s) is not recorded", run_id, status)
                    self.owed.append((run_id, status, error, output))
                    return
                self._tell_once(f"run {run_id}: its end cannot be recorded yet", failure)
                self._sleep(pause)
            except StoreError:
                log.exception("run %s: its end (%s) is not recorded", run_id, status)
                return

    def _record_owed(self) -> None:
        """Record the ends that are owed, so that no run is told as running for as long as this engine lives.

        Raises one of PASSING where the store still does not take them.
        """
        while self.owed:
            run_id, status, error, output = self.owed[0]
            try:
                self.store.finish(run_id, status, error=error, output=output)
                log.info("run %s: its end (%s) is recorded now", run_id, status)
            except PASSING:
                raise
            except StoreError:
                log.exception("run %s: its end (%s) is not recorded", run_id, status)
            del self.owed[0]

    def _emit(self, run_id: str, event: Event) -> None:
        """Log an event of a run; one that the store cannot take is dropped, unless it is a warning."""
        try:
            self.store.append(run_id, [*self.late, event])
        except PASSING as error:
            self._tell_once(f"run {run_id}: events are dropped", error)
            if isinstance(event, Message) and event.level != "info":
                self.late = [*self.late, event][:MAX_LATE]
        else:
            self.late = []
            self.is_store_failing = False

    def _tell_late(self, run_id: str) -> None:
        """The last chance of the warnings that wait."""
        if self.late:
            with contextlib.suppress(StoreError):
                self.store.append(run_id, self.late)
            self.late = []

    def _tell_once(self, what: str, error: StoreError) -> None:
        """One line for a store that fails, however often it does before it works again."""
        if not self.is_store_failing:
            log.warning("%s: %s", what, one_line(error))
        self.is_store_failing = True

    def _outcome(self, run: RunRecord) -> tuple[str, str, str]:
        """(status, error, output) of executing a run."""
        try:
            spec = decode_spec(run.spec_json)
            if self.runner is None:
                self.runner = self.make_runner(self.store)
            output = self.runner.execute(
                run,
                spec,
                emit=lambda event: self._emit(run.id, event),
                cancelled=lambda: self._cancelled(run.id),
                paused=lambda: self._paused(run.id),
                between=self._between,
            )
        except RunCancelled:
            if self.stop.is_set and not self._is_flagged(self.store.cancel_requested, run.id):
                return "interrupted", "the engine was stopped before the run ended", ""
            return "cancelled", "", ""
        except RunPaused:
            return "paused", "", ""
        except (EngineError, StoreError, PresetError, OSError, MemoryError) as error:
            log.exception("run %s failed", run.id)
            return "failed", one_line(error), ""
        # A bug in one run, or an exit called by a library, must not take the queue down with it.
        except (Exception, SystemExit) as error:
            log.exception("run %s failed unexpectedly", run.id)
            where = log_path(self.store.root, os.getpid())
            text = f"{type(error).__name__}: {one_line(error)} (traceback in {where})"
            return "failed", text, ""
        return "done", "", output


def serve(
    store_root: Path,
    make_runner: Callable[[Store], Executor],
    idle_seconds: float = IDLE_SECONDS,
) -> bool:
    """Be the engine of a store until stopped or idle; returns at once when it has one already.

    Returns whether it left runs in the queue because other code was installed since it began.
    """
    stop = StopFlag()
    breaker = Breaker(BUSY_SECONDS, lambda: stop.is_set)
    with open_store(store_root, busy_seconds=BUSY_SECONDS, breaker=breaker) as store:
        alone = locks.try_acquire(store.root / "locks" / "engine")
        if alone is None:
            log.info("another engine serves %s; exiting", store.root)
            return False
        with alone:
            store.check()
            store.sweep()
            sweep_temporary()
            engine_id = queue.new_id()
            worker = Worker(store, engine_id, make_runner, stop)
            breaker.should_stop = worker.is_asked
            with (
                store.register_engine(engine_id, pid=os.getpid(), version=worker.version),
                _heartbeat(store, engine_id),
            ):
                log.info(
                    "engine %s (process %d) of modiff %s serves %s",
                    engine_id,
                    os.getpid(),
                    worker.version,
                    store.root,
                )
                for run_id in store.recover():
                    log.warning("run %s was ended: its engine had died", run_id)
                try:
                    worker.work(idle_seconds)
                finally:
                    _unregister(store, engine_id)
                is_left = queue.is_waiting(store.lineage) and not stop.is_set
                return is_left and worker.is_outdated()


def begin_anew() -> None:
    """Become a new process of the same command, with the code that is installed now; does not return."""
    log.info("runs wait and other code is installed: beginning anew")
    os.execv(sys.executable, sys.orig_argv)


@contextlib.contextmanager
def _heartbeat(store: Store, engine_id: str) -> Iterator[None]:
    """Write the engine's heartbeat from a thread of its own, with a connection of its own."""
    ended = threading.Event()

    def beat() -> None:
        own: Store | None = None
        is_failing = False
        while not ended.wait(HEARTBEAT_SECONDS):
            try:
                own = own or open_store(store.root, busy_seconds=HEARTBEAT_SECONDS)
                own.heartbeat(engine_id)
                is_failing = False
                bound_log(store.root)
            except Exception as error:  # noqa: BLE001  # whatever it is, the next one may succeed
                if not is_failing:
                    log.warning("no heartbeat: %s", one_line(error))
                is_failing = True
        if own is not None:
            own.close()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _unregister(store: Store, engine_id: str) -> None:
    try:
        store.unregister_engine(engine_id)
    except StoreError as error:  # its lock is released anyway, which is what counts
        log.warning("the engine could not be unregistered: %s", one_line(error))


def _pipeline_runner(store: Store) -> Executor:
    from engine.runner import Runner  # reads plugins and files: only once there is a run

    return Runner(store)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m engine.process.worker`: serve one store; exit code 1 when its store cannot be used."""
    parser = argparse.ArgumentParser(prog="engine.process.worker", description=main.__doc__)
    parser.add_argument("--store", type=Path, default=None, help="the store's folder")
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS)
    options = parser.parse_args(arguments)
    try:
        root = (options.store or store_root()).absolute()
        prepare(root)
        start_logging(root)
        if serve(root, _pipeline_runner, options.idle_seconds):
            begin_anew()
    except StoreError as error:
        sys.stderr.write(f"{one_line(error)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
