"""The store of one user, seen from outside: the run queue, the event log and the engines.

A `Store` holds one database connection and belongs to the thread that opened it; another thread
opens its own. Blobs need no connection: see store.blobs. All errors are StoreErrors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from store import database, engines, files, history, queue
from store.events import StageFinished
from store.paths import absolute_root, store_root
from store.records import RUNNING, RunRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.database import Lineage
    from store.events import Event
    from store.locks import HeldLock
    from store.records import EngineRecord, StageRecord

__all__ = ["RunRecord", "Store", "open_store"]

BUSY_SECONDS = 10.0


def open_store(root: Path | str | None = None, *, busy_seconds: float = BUSY_SECONDS) -> Store:
    """Open the store at `root` (the user's own by default), creating or migrating it if needed.

    busy_seconds is how long a write waits for another process's before it raises StoreBusy.
    """
    folder = store_root() if root is None else absolute_root(root)
    return Store(database.open_lineage(folder, busy_seconds=busy_seconds))


@dataclass(frozen=True, slots=True)
class Store:
    """An open store; close it, or use it in a `with`."""

    lineage: Lineage

    @property
    def root(self) -> Path:
        return self.lineage.root

    def close(self) -> None:
        self.lineage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Health

    def check(self) -> None:
        """Read the whole database; StoreDamaged when something in it is wrong."""
        database.check(self.lineage)

    def is_in_place(self) -> bool:
        """Whether the database is still where it was opened (the folder may have been removed)."""
        return self.lineage.path.exists()

    def sweep(self) -> int:
        """Remove unfinished writes of processes that are gone; returns how many."""
        return files.sweep_drafts(self.root)

    # The queue

    def enqueue(self, spec_json: bytes, *, preset: str, output: str) -> str:
        """Queue a run and return its id; `{run}` in `output` becomes the id."""
        return queue.enqueue(self.lineage, spec_json, preset=preset, output=output)

    def lease(self, engine_id: str) -> RunRecord | None:
        """Give the oldest queued run to a registered engine; None when nothing is queued."""
        return queue.lease(self.lineage, engine_id)

    def finish(self, run_id: str, status: str, *, error: str = "", output: str = "") -> None:
        """End a running run with a final status; adds the RunFinished event."""
        queue.finish(self.lineage, run_id, status, error=error, output=output)

    def request_cancel(self, run_id: str) -> str:
        """Cancel a queued run, flag a running one; returns its status after that."""
        if self.run(run_id).status == RUNNING:
            self.recover()  # the engine that should read the flag may be dead
        return queue.request_cancel(self.lineage, run_id)

    def cancel_requested(self, run_id: str) -> bool:
        """Whether the run was asked to stop; cheap enough for every denoising step."""
        return queue.cancel_requested(self.lineage, run_id)

    def resolve(self, prefix: str) -> str:
        """The full id of a unique prefix; UnknownRun names the candidates otherwise."""
        return queue.resolve(self.lineage, prefix)

    def run(self, run_id: str) -> RunRecord:
        """The run of a full id; UnknownRun if there is none."""
        return queue.run(self.lineage, run_id)

    def runs(self, *, limit: int, status: str | None = None) -> list[RunRecord]:
        """At most `limit` runs, newest first, of one status or of all."""
        return queue.runs(self.lineage, limit=limit, status=status)

    # History

    def append(self, run_id: str, events: Sequence[Event]) -> None:
        """Add events to a run's log; StageFinished also writes the stage's row."""
        history.append(self.lineage, run_id, events)

    def events(self, run_id: str, after: int = 0) -> list[tuple[int, Event]]:
        """The run's events with ids above `after`, with their ids, oldest first."""
        return history.events(self.lineage, run_id, after)

    def stage(self, run_id: str, name: str, *, seconds: float, cached: bool) -> None:
        """Record a finished stage: its row and its event."""
        self.append(run_id, [StageFinished(name, seconds, cached)])

    def stages(self, run_id: str) -> list[StageRecord]:
        """The run's finished stages in order."""
        return history.stages(self.lineage, run_id)

    # Engines

    def register_engine(self, engine_id: str, *, pid: int) -> HeldLock:
        """Make an engine known; the lock is its life and must be kept until it ends."""
        return engines.register(self.lineage, engine_id, pid=pid)

    def heartbeat(self, engine_id: str) -> None:
        """Say that the engine still makes progress."""
        engines.heartbeat(self.lineage, engine_id)

    def unregister_engine(self, engine_id: str) -> None:
        """Forget the engine, whatever is queued."""
        engines.unregister(self.lineage, engine_id)

    def retire_engine(self, engine_id: str) -> bool:
        """Forget the engine unless a run is queued; returns whether it was forgotten."""
        return engines.retire(self.lineage, engine_id)

    def engines(self) -> list[EngineRecord]:
        """The engines whose processes live."""
        return engines.engines(self.lineage)

    def is_engine_alive(self, engine_id: str) -> bool:
        """Whether that engine's process lives."""
        return engines.is_alive(self.lineage, engine_id)

    def recover(self) -> list[str]:
        """End the runs of dead engines: interrupted, or cancelled where asked; returns their ids."""
        return engines.recover(self.lineage)
