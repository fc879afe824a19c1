"""How a viewer watches a run: its events as they come, and what keeps it from getting on. Torch-free.

The store is all that viewer and engine share: a viewer may come, go or die at any moment, and
several may follow one run.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from engine.process.launch import ensure_engine
from store.lineage.events import RunFinished, RunResumed
from store.lineage.records import LATE_SECONDS, QUEUED, RUNNING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from store.lineage.events import Event
    from store.store import Store


def follow(store: Store, run_id: str, *, poll_seconds: float = 0.1) -> Iterator[Event]:
    """The events of a run's present attempt from its first on, as they come, to its RunFinished.

    A resumed run has a new attempt, from its RunResumed on. Ends when the attempt does, however that happens: if
    its engine dies, the run is recorded as interrupted; if it is queued and no engine lives, one is started.
    """
    last_id = _attempt_start(store, run_id)
    while True:
        new = store.events(run_id, after=last_id)
        for event_id, event in new:
            last_id = event_id
            yield event
            if isinstance(event, RunFinished):
                return
        if not new and not _look_after(store, run_id):
            time.sleep(poll_seconds)


def held_up(store: Store, run_id: str) -> str:
    """What keeps a run, or the queue before it, from getting on while its engine lives, and what to type; "" while
    that engine gives signs of life. Raises StoreError."""
    return "" if store.run(run_id).is_finished else silence(store)


def silence(store: Store, *, force: str = "`modiff engine stop --force`") -> str:
    """As `held_up`, for whatever the engine is to do. force: what ends an engine that hears nothing, as people call it
    where this is told."""
    now = time.time_ns()
    for engine in store.engines():
        seconds = (now - engine.heartbeat_ns) / 1e9
        if seconds < LATE_SECONDS:
            continue
        name = f"the engine (process {engine.pid})"
        ends = f"{force} ends it, and its run can be resumed"
        if _is_suspended(engine.pid):
            return f"{name} is suspended; `kill -CONT {engine.pid}` lets it go on, {ends}"
        others = [pid for pid in store.writers() if pid != engine.pid]
        if others:
            return f"{name} waits for process {others[0]}, which holds the store; end that process, or let it go on"
        return f"{name} has given no sign of life for {seconds:.0f} s; {ends}"
    return ""


def _is_suspended(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except (psutil.Error, ValueError):
        return False


def _attempt_start(store: Store, run_id: str) -> int:
    """The id before that of the event with which the present attempt of a run began."""
    start = previous = 0
    for event_id, event in store.events(run_id):
        if isinstance(event, RunResumed):
            start = previous
        previous = event_id
    return start


def _look_after(store: Store, run_id: str) -> bool:
    """See to it that the run gets on; whether there may be new events because of that."""
    run = store.run(run_id)
    if run.status == RUNNING and not store.is_engine_alive(run.engine):
        store.recover()
        return True
    if run.status == QUEUED and not store.engines():
        store.recover()
        ensure_engine(store)
    return False
