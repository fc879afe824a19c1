"""What is going on in the store and with its engines, and what runs can name on this machine."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.lineage.records import EngineRecord, RunRecord
    from store.store import Store
    from tui.describe.runs.following.watch import Progress, Watch

# An engine writes its heartbeat every second; after so long without, it is told as stuck.
STUCK_SECONDS = 10.0
# What ends such an engine in the app.
FORCE = "F in Components"
# More engines than a store ever has.
MOST_RUNNING = 100
# With less than this the database takes nothing more.
FULL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Status:
    """What is going on, in one look. running: the runs at work, the oldest first. orphans: runs that were ended just
    now, because their engine had died. is_stuck: an engine lives, but has shown no sign of life for a while; silence:
    what keeps it from that, and what to do. is_full: the store's disk has no room left, so that what a run does cannot
    be seen and is not kept. unwritable: why the store can be looked at and no more, "" where that is not so.
    other_variables: for which the engine has other values than the app. progress: of the run at work, ended: the runs
    that came to their end since the look before; both only where one who looks again and again asks."""

    engines: tuple[EngineRecord, ...]
    running: tuple[RunRecord, ...]
    num_queued: int
    newest_run: str
    orphans: tuple[str, ...]
    is_stuck: bool
    is_full: bool = False
    silence: str = ""
    unwritable: str = ""
    other_variables: tuple[str, ...] = ()
    progress: Progress | None = None
    ended: tuple[RunRecord, ...] = ()


def at_work_told(status: Status) -> str:
    """The id of the run at work, or how many there are; nothing where there is none."""
    if len(status.running) > 1:
        return f"{len(status.running)} running"
    return printable(status.running[0].id) if status.running else ""


@dataclass(frozen=True, slots=True)
class ComponentRow:
    """A component that a run can name, and what provides it: "modiff", or an import path of another package."""

    kind: str
    name: str
    origin: str


def status(store: Store, watch: Watch | None = None) -> Status:
    """One look. watch: of one who looks again and again."""
    from store.upkeep.space import free_bytes

    engines = store.engines()
    running = store.runs(limit=MOST_RUNNING, status="running")
    orphans: list[str] = []
    if not all(store.is_engine_alive(run.engine) for run in running):
        orphans, _ = store.recover_if_possible()
        # where that cannot be written, its run is at rest all the same
        left = store.runs(limit=MOST_RUNNING, status="running")
        running = [run for run in left if store.is_engine_alive(run.engine)]
    newest = store.runs(limit=1)
    oldest_beat = min((engine.heartbeat_ns for engine in engines), default=time.time_ns())
    is_stuck = time.time_ns() - oldest_beat > STUCK_SECONDS * 1e9
    return Status(
        engines=tuple(engines),
        running=tuple(reversed(running)),
        num_queued=store.num_queued(),
        newest_run=newest[0].id if newest else "",
        orphans=tuple(orphans),
        is_stuck=is_stuck,
        is_full=free_bytes(store.root) < FULL_BYTES,
        silence=_silence(store) if is_stuck else "",
        # it could be opened all the same where an engine left the files of its log
        unwritable=""
        if os.access(store.lineage.path, os.W_OK)
        else f"cannot write {store.lineage.path}",
        other_variables=_other_variables(engines),
        progress=watch.progress(store, running[0] if running else None) if watch else None,
        ended=watch.ended(store) if watch else (),
    )


def _other_variables(engines: Sequence[EngineRecord]) -> tuple[str, ...]:
    if not engines:
        return ()
    from engine.process.launch import other_variables

    return tuple(sorted({name for engine in engines for name in other_variables(engine)}))


def _silence(store: Store) -> str:
    from engine.runs.following import silence

    return silence(store, force=FORCE)


def components() -> list[ComponentRow]:
    """Raises ComponentError where two packages claim one name."""
    from engine.components import registry
    from engine.components.providers.wan_dit import ATTENTION_BACKENDS

    found = [
        ComponentRow(kind, name, "modiff" if registry.is_builtin(kind, name) else where)
        for (kind, name), where in registry.components().items()
    ]
    found += [ComponentRow("attention", name, "modiff") for name in ATTENTION_BACKENDS]
    return found
