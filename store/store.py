"""The store of one user, seen from outside: the run queue, runs and links, the log, the engines.

A `Store` holds one database connection and belongs to the thread that opened it; another thread
opens its own. Blobs need no connection: see store.blobs.blobs. All errors are StoreErrors.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from store.database import database
from store.errors import PASSING, StoreDamaged
from store.lineage import ancestry, engines, history, links, queue, runs
from store.lineage.events import StageFinished
from store.lineage.records import RUNNING, RunRecord
from store.paths import absolute_root, store_root
from store.upkeep import gc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from store.breaker import Breaker
    from store.database.database import Lineage
    from store.errors import StoreError
    from store.lineage.events import CallAnswered, Event, Verified
    from store.lineage.records import (
        Compared,
        EngineRecord,
        HeldModel,
        LinkRecord,
        LogEntry,
        RunLink,
        Segment,
        StageRecord,
    )
    from store.locks import HeldLock

__all__ = ["RunRecord", "Store", "open_as_it_is", "open_store"]

BUSY_SECONDS = 10.0
# So long what a verification found can be read after its end.
VERIFICATION_NS = 3600 * 10**9


def open_store(
    root: Path | str | None = None,
    *,
    busy_seconds: float = BUSY_SECONDS,
    breaker: Breaker | None = None,
) -> Store:
    """Open the store at `root` (the user's own by default), creating or migrating it if needed.

    busy_seconds is how long a write waits for another process's before it raises StoreBusy; with a breaker, that
    decides it.
    """
    folder = store_root() if root is None else absolute_root(root)
    lineage = database.open_lineage(folder, busy_seconds=busy_seconds, breaker=breaker)
    return Store(lineage)


def open_as_it_is(
    root: Path | str | None = None, *, busy_seconds: float = BUSY_SECONDS, to_clean: bool = False
) -> Store:
    """As `open_store`, for a short look or a clean-up also where nothing can be written: on a full or read-only disk.

    to_clean: on a full disk it can be written to as soon as something was removed; nobody else can use it meanwhile.
    """
    folder = store_root() if root is None else absolute_root(root)
    return Store(database.open_as_it_is(folder, busy_seconds=busy_seconds, to_clean=to_clean))


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
        """Whether the database is still where it was opened: its folder may have been removed, or replaced."""
        return database.is_in_place(self.lineage)

    def sweep(self) -> int:
        """Remove unfinished writes of processes that are gone, and runs that verified another and
        ended an hour ago; returns how many. The writes wait for the next time while somebody writes."""
        before_ns = time.time_ns() - VERIFICATION_NS
        return gc.sweep(self.root) + runs.remove_verifications(self.lineage, before_ns=before_ns)

    def writers(self) -> list[int]:
        """The pids of the processes that hold the database for a write, as far as the system tells."""
        return database.writers(self.lineage)

    # The queue

    def enqueue(
        self,
        spec_json: bytes,
        *,
        preset: str,
        output: str,
        parent: str = "",
        parent_step: int | None = None,
        segments: Sequence[Segment] = (),
        stop_at: int | None = None,
        engine: str = "",
        verifies: str = "",
    ) -> str:
        """Queue a run and return its id; `{run}` in `output` becomes the id; see queue.enqueue."""
        return queue.enqueue(
            self.lineage,
            spec_json,
            preset=preset,
            output=output,
            parent=parent,
            parent_step=parent_step,
            segments=segments,
            stop_at=stop_at,
            engine=engine,
            verifies=verifies,
        )

    def queued(self) -> list[RunRecord]:
        """The queued runs of the user's in the order in which they will be leased."""
        return queue.queued(self.lineage)

    def num_queued(self) -> int:
        """How many runs of the user's are queued; cheap, however many they are."""
        return queue.count(self.lineage)

    def reorder(self, run_id: str, before_run_id: str | None) -> None:
        """Put a queued run before another queued one, or (None) at the end of the queue."""
        queue.reorder(self.lineage, run_id, before_run_id)

    def lease(self, engine_id: str) -> RunRecord | None:
        """Give the first queued run to a registered engine; None when nothing is queued.

        Raises EngineRetired when the engine is to leave."""
        return queue.lease(self.lineage, engine_id)

    def finish(self, run_id: str, status: str, *, error: str = "", output: str = "") -> None:
        """End a running run with a final status; adds the RunFinished event."""
        queue.finish(self.lineage, run_id, status, error=error, output=output)

    def request_cancel(self, run_id: str) -> str:
        """Cancel a queued run, flag a running one; returns its status after that."""
        self._recover_engine_of(run_id)
        return queue.request_cancel(self.lineage, run_id)

    def request_cancel_all(self, run_ids: Sequence[str]) -> None:
        """Cancel those that are queued and flag those that run, all in the same moment."""
        self.recover()
        queue.request_cancel_all(self.lineage, run_ids)

    def request_pause(self, run_id: str) -> str:
        """Pause a queued run, flag a running one; returns its status after that."""
        self._recover_engine_of(run_id)
        return queue.request_pause(self.lineage, run_id)

    def cancel_requested(self, run_id: str) -> bool:
        """Whether the run was asked to stop; cheap enough for every denoising step."""
        return queue.cancel_requested(self.lineage, run_id)

    def pause_requested(self, run_id: str) -> bool:
        """Whether the run was asked to pause; cheap enough for every denoising step."""
        return queue.pause_requested(self.lineage, run_id)

    def resume(self, run_id: str) -> None:
        """Queue a run again that is paused, interrupted, cancelled or failed; its log goes on."""
        queue.resume(self.lineage, run_id)

    def continue_run(self, run_id: str, stop_at: int | None = None) -> None:
        """Queue a run again that was to stop early, to stop later or at its last step."""
        queue.continue_run(self.lineage, run_id, stop_at)

    def reconsider(self, run_id: str, spec_json: bytes, *, stop_at: int | None) -> None:
        """Queue a run again that stopped before its first step, with other settings."""
        queue.reconsider(self.lineage, run_id, spec_json, stop_at)

    # Runs

    def resolve(self, prefix: str) -> str:
        """The full id of a unique prefix; UnknownRun names the candidates otherwise."""
        return runs.resolve(self.lineage, prefix)

    def run(self, run_id: str) -> RunRecord:
        """The run of a full id; UnknownRun if there is none."""
        return runs.run(self.lineage, run_id)

    def runs(self, *, limit: int, status: str | None = None) -> list[RunRecord]:
        """At most `limit` runs, newest first, of one status or of all."""
        return runs.search(self.lineage, limit=limit, status=status)

    def num_runs(self) -> int:
        """How many runs of the user's there are."""
        return runs.count(self.lineage)

    def search(
        self,
        *,
        limit: int,
        words: Sequence[str] = (),
        tags: Sequence[str] = (),
        status: str | None = None,
        preset: str = "",
        since_ns: int | None = None,
        until_ns: int | None = None,
        is_pinned: bool = False,
        compared: Sequence[Compared] = (),
    ) -> list[RunRecord]:
        """At most `limit` runs, newest first, that fit all that is given; see runs.search."""
        return runs.search(
            self.lineage,
            limit=limit,
            words=words,
            tags=tags,
            status=status,
            preset=preset,
            since_ns=since_ns,
            until_ns=until_ns,
            is_pinned=is_pinned,
            compared=compared,
        )

    def runs_like(self, prefix: str, *, limit: int) -> list[RunRecord]:
        """The newest runs whose ids begin so, at most `limit`."""
        return runs.beginning(self.lineage, prefix, limit)

    def writing_to(self, outputs: Sequence[str]) -> dict[str, tuple[str, str]]:
        """By path the id and status of the run that waits or runs and will write there."""
        return runs.writing_to(self.lineage, outputs)

    def tag(self, run_id: str, names: Sequence[str]) -> None:
        """Give a run tags."""
        runs.tag(self.lineage, run_id, names)

    def untag(self, run_id: str, names: Sequence[str]) -> None:
        """Take tags from a run."""
        runs.untag(self.lineage, run_id, names)

    def tags_of(self, run_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The tags of each of these runs, sorted."""
        return runs.tags_of(self.lineage, run_ids)

    def note(self, run_id: str, text: str) -> None:
        """Set the note of a run; an empty one removes it."""
        runs.note(self.lineage, run_id, text)

    def pin(self, run_id: str) -> None:
        """Keep what the run and its ancestors made from every clean-up."""
        runs.pin(self.lineage, run_id)

    def unpin(self, run_id: str) -> None:
        """Undo `pin`."""
        runs.unpin(self.lineage, run_id)

    def rate(self, run_id: str, rating: int) -> None:
        """Give a run 1 to 5 stars; 0 takes them off."""
        runs.rate(self.lineage, run_id, rating)

    def remove(self, run_ids: Sequence[str]) -> None:
        """Remove runs that are at rest, all or none; what they made stays until a clean-up."""
        runs.remove(self.lineage, run_ids)

    def children(self, run_id: str) -> list[RunRecord]:
        """The runs that were branched from this one, oldest first."""
        return ancestry.children(self.lineage, run_id)

    def ancestors(self, run_id: str) -> list[RunRecord]:
        """What the run was branched from, nearest first."""
        return ancestry.ancestors(self.lineage, run_id)

    def branches(self) -> list[str]:
        """The ids of all runs that were branched from another, newest first."""
        return ancestry.branches(self.lineage)

    def tree(self, run_id: str) -> list[tuple[RunRecord, int]]:
        """All related runs, each after its parent, with its depth below the oldest ancestor."""
        return ancestry.tree(self.lineage, run_id)

    def set_spec(
        self, run_id: str, spec_json: bytes, segments: Sequence[Segment] | None = None
    ) -> None:
        """Record the settings that a run goes on with, and (unless None) which held for its steps before."""
        queue.set_spec(self.lineage, run_id, spec_json, segments)

    def set_latents(self, run_id: str, digest: str) -> None:
        """Record the digest of a run's final latents."""
        queue.set_latents(self.lineage, run_id, digest)

    def set_output(self, run_id: str, path: str) -> None:
        """Name the output of a run that has none, as one from a bundle."""
        queue.set_output(self.lineage, run_id, path)

    def set_environment(self, run_id: str, text: str) -> None:
        """Record what a run is computed on, as canonical JSON."""
        queue.set_environment(self.lineage, run_id, text)

    # Links

    def find_links(self, keys: Sequence[str]) -> dict[str, LinkRecord]:
        """The links of these keys, by key; a key without one is left out."""
        return links.find(self.lineage, keys)

    def record_link(
        self,
        run_id: str,
        link: LinkRecord,
        *,
        stage: str,
        index: int,
        source: str,
        seconds: float,
        sigma: float | None = None,
        timestep: float | None = None,
        replaces: bool = False,
    ) -> LinkRecord:
        """Record that a run computed or reused a link; see links.record."""
        return links.record(
            self.lineage,
            run_id,
            link,
            stage=stage,
            index=index,
            source=source,
            seconds=seconds,
            sigma=sigma,
            timestep=timestep,
            replaces=replaces,
        )

    def links_of(self, run_id: str) -> list[RunLink]:
        """The links of a run, as it saw them, by stage and index."""
        return links.of_run(self.lineage, run_id)

    def steps_done(self, run_ids: Sequence[str]) -> dict[str, int]:
        """How many steps of each of these runs are on record; one without any is left out."""
        return links.steps_done(self.lineage, run_ids)

    def runs_of(self, digest: str) -> list[str]:
        """The runs that made or reused a result of these bytes or ended with these latents, the oldest first."""
        return links.runs_of(self.lineage, digest)

    def forget_blob(self, digest: str) -> int:
        """Make a miss of a blob that is gone or damaged; returns how many links spoke of it."""
        return links.forget_blob(self.lineage, digest)

    # History

    def append(self, run_id: str, events: Sequence[Event]) -> None:
        """Add events to a run's log; StageFinished also writes the stage's row."""
        history.append(self.lineage, run_id, events)

    def events(self, run_id: str, after: int = 0) -> list[tuple[int, Event]]:
        """The run's events with ids above `after`, with their ids, oldest first."""
        return history.events(self.lineage, run_id, after)

    def log(self, run_id: str, after: int = 0, *, limit: int) -> list[LogEntry]:
        """At most `limit` entries of the run's log with ids above `after`, oldest first."""
        return history.log(self.lineage, run_id, after, limit)

    def newest_event(self) -> int:
        """The id of the last event of any run; 0: there is none."""
        return history.newest_event(self.lineage)

    def ended_since(self, after: int, up_to: int) -> list[str]:
        """The runs of which an attempt ended with an event of an id above `after`, up to `up_to`."""
        return history.ended_since(self.lineage, after, up_to)

    def last_verdict(self, run_id: str) -> tuple[int, Verified] | None:
        """What came of it when the run was last computed again to compare, and when (ns); None: never."""
        return history.last_verdict(self.lineage, run_id)

    def calls(self, run_id: str) -> list[CallAnswered]:
        """What components that run elsewhere answered, in all attempts at the run."""
        return history.calls(self.lineage, run_id)

    def peak_memory(self, run_id: str) -> tuple[int, int]:
        """The most memory, of process and device in bytes, that the run's log tells of; 0: nothing."""
        return history.peak_memory(self.lineage, run_id)

    def stage(self, run_id: str, name: str, *, seconds: float, cached: bool) -> None:
        """Record a finished stage: its row and its event."""
        self.append(run_id, [StageFinished(name, seconds, cached)])

    def stages(self, run_id: str) -> list[StageRecord]:
        """The run's finished stages in order."""
        return history.stages(self.lineage, run_id)

    # Engines

    def register_engine(self, engine_id: str, *, pid: int, version: str = "") -> HeldLock:
        """Make an engine known; the lock is its life and must be kept until it ends."""
        return engines.register(self.lineage, engine_id, pid=pid, version=version)

    def alone(self) -> AbstractContextManager[str]:
        """An id to `enqueue` runs with that this process executes itself, alive while the block lasts."""
        return engines.alone(self.lineage)

    def set_held(
        self, engine_id: str, names: Sequence[str], models: Sequence[HeldModel] = ()
    ) -> None:
        """Say which models the engine has in memory, by name and for people."""
        engines.set_held(self.lineage, engine_id, names, models)

    def request_release(self) -> None:
        """Ask all engines to let go of the models that they do not use."""
        engines.request_release(self.lineage)

    def release_requested(self, engine_id: str) -> bool:
        """Whether the engine was asked for that; cheap enough for every denoising step."""
        return engines.release_requested(self.lineage, engine_id)

    def set_released(self, engine_id: str, released: Sequence[HeldModel]) -> None:
        """Say what the engine has let go of."""
        engines.set_released(self.lineage, engine_id, released)

    def heartbeat(self, engine_id: str) -> None:
        """Say that the engine still makes progress."""
        engines.heartbeat(self.lineage, engine_id)

    def unregister_engine(self, engine_id: str) -> None:
        """Forget the engine, whatever is queued."""
        engines.unregister(self.lineage, engine_id)

    def retire_engine(self, engine_id: str) -> bool:
        """Forget the engine unless a run is queued; returns whether it was forgotten."""
        return engines.retire(self.lineage, engine_id)

    def retire_other_engines(self, version: str) -> list[EngineRecord]:
        """Let engines of any other version leave, those at work after their run; the idle ones."""
        return engines.retire_others(self.lineage, version)

    def engines(self) -> list[EngineRecord]:
        """The engines whose processes live."""
        return engines.engines(self.lineage)

    def is_engine_alive(self, engine_id: str) -> bool:
        """Whether that engine's process lives."""
        return engines.is_alive(self.lineage, engine_id)

    def recover(self) -> list[str]:
        """End the runs of dead engines: interrupted, or cancelled where asked; returns their ids."""
        return engines.recover(self.lineage)

    def recover_if_possible(self) -> tuple[list[str], StoreError | None]:
        """`recover`, for who only looks or gives space back: also what kept it from being written, if anything did."""
        try:
            return self.recover(), None
        except (*PASSING, StoreDamaged) as error:
            return [], error

    def _recover_engine_of(self, run_id: str) -> None:
        """The engine that should read a flag of a running run may be dead."""
        if self.run(run_id).status == RUNNING:
            self.recover()
