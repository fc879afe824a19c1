"""What is going on in the store and with its engines, and what runs can name on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from store.lineage.records import EngineRecord, RunRecord
    from store.store import Store

# An engine writes its heartbeat every second; after so long without, it is told as stuck.
STUCK_SECONDS = 10.0
# With less than this the database takes nothing more.
FULL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Status:
    """What is going on, in one look. running: the run at work, None for none. orphans: runs that were ended just
    now, because their engine had died. is_stuck: an engine lives, but has shown no sign of life for a while. is_full:
    the store's disk has no room left, so that what a run does cannot be seen and is not kept."""

    engines: tuple[EngineRecord, ...]
    running: RunRecord | None
    num_queued: int
    newest_run: str
    orphans: tuple[str, ...]
    is_stuck: bool
    is_full: bool = False


@dataclass(frozen=True, slots=True)
class ComponentRow:
    """A component that a run can name, and what provides it: "modiff", or an import path of another package."""

    kind: str
    name: str
    origin: str


def status(store: Store) -> Status:
    from store.upkeep.space import free_bytes

    engines = store.engines()
    running = next(iter(store.runs(limit=1, status="running")), None)
    orphans: list[str] = []
    if running is not None and not store.is_engine_alive(running.engine):
        orphans, _ = store.recover_if_possible()
        running = next(iter(store.runs(limit=1, status="running")), None)
    newest = store.runs(limit=1)
    oldest_beat = min((engine.heartbeat_ns for engine in engines), default=time.time_ns())
    return Status(
        engines=tuple(engines),
        running=running,
        num_queued=store.num_queued(),
        newest_run=newest[0].id if newest else "",
        orphans=tuple(orphans),
        is_stuck=time.time_ns() - oldest_beat > STUCK_SECONDS * 1e9,
        is_full=free_bytes(store.root) < FULL_BYTES,
    )


def components() -> list[ComponentRow]:
    """Raises ComponentError where two packages claim one name."""
    from engine.components import registry
    from engine.components.wan_dit import ATTENTION_BACKENDS

    found = [
        ComponentRow(kind, name, "modiff" if registry.is_builtin(kind, name) else where)
        for (kind, name), where in registry.components().items()
    ]
    found += [ComponentRow("attention", name, "modiff") for name in ATTENTION_BACKENDS]
    return found
