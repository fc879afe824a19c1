"""Watching one run to its end, with the promises about signals kept in one place.

Ctrl-C asks for the run to be cancelled and waits for the engine's word; a second Ctrl-C leaves at
once. SIGTERM and a terminal that hangs up end the viewer only, never the run. Handlers set flags
and nothing else; events are read on a second thread, so that no flag waits for the engine.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from engine.runs.following import follow, held_up
from store.errors import StoreError
from store.store import open_store
from tui.describe.runs.following.stalling import stalled
from tui.describe.runs.following.state import RunState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import FrameType

    from store.lineage.events import Event
    from store.store import Store
    from tui.cli.following.progress import Display

TICK_SECONDS = 0.1
# How often to look whether the engine still gives signs of life.
LOOK_SECONDS = 2.0


class Signals:
    """While entered: counts interrupts, and remembers the signal that told this process to end."""

    def __init__(self) -> None:
        self.interrupts = 0
        self.ended_by = 0
        self._before: list[tuple[signal.Signals, signal._HANDLER]] = []

    def __enter__(self) -> Self:
        # SIGINT is taken even where a script's `&` left it ignored: whoever sends it there means it.
        self._before.append((signal.SIGINT, signal.signal(signal.SIGINT, self._interrupt)))
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # the choice of `nohup` stands
                self._before.append((number, signal.signal(number, self._end)))
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.interrupts += 1

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self.ended_by = number


@dataclass(frozen=True, slots=True)
class Watched:
    """How watching ended; `state` is not over when the viewer left before the run ended."""

    state: RunState
    cancel_asked: bool


def watch(
    store: Store, run_id: str, display: Display, signals: Signals, *, cancel_too: Sequence[str] = ()
) -> Watched:
    """Follow a run to its end or until told to leave, with an engine started if there is none.

    cancel_too: runs that an interrupt cancels in the same moment, so that no engine takes up one of them next.
    Raises what stopped the reading of events, EngineError or StoreError; the run is then still
    queued or running, and what becomes of it is the caller's to decide.
    """
    arrived: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()
    # A daemon: who leaves at once must not wait for an engine that is only starting.
    threading.Thread(target=_read, args=(store.root, run_id, arrived), daemon=True).start()
    state = RunState(run_id)
    cancel_asked = False
    problem = ""
    looked = moved = time.monotonic()
    moved_ns = time.time_ns()
    while not state.is_over and not signals.ended_by:
        if signals.interrupts and not cancel_asked:
            cancel_asked = True
            store.request_cancel_all([run_id, *cancel_too])
            display.note(f"cancelling run {run_id}: it stops when its present step ends")
        if signals.interrupts > 1:
            break
        try:
            event = arrived.get(timeout=TICK_SECONDS)
        except queue.Empty:
            pass
        else:
            if isinstance(event, Exception):
                raise event
            moved, moved_ns = time.monotonic(), time.time_ns()
            state.apply(event, moved_ns)
            display.update(state, event)
        display.tick(state)
        if time.monotonic() - looked >= LOOK_SECONDS:
            looked = time.monotonic()
            stall = _stall(state, moved_ns, looked - moved)
            problem = _note_problem(store, run_id, display, problem, stall)
    return Watched(state, cancel_asked)


def _note_problem(store: Store, run_id: str, display: Display, told: str, stall: str) -> str:
    """Say what keeps a run from getting on, and when it gets on again; which of `held_up` and `stalled` it is, if
    either.

    told: what this returned before. stall: what `stalled` says now.
    """
    try:
        line = held_up(store, run_id)
    except StoreError:  # who reads the events meets it too
        return told
    problem = "silent" if line else "stalled" if stall else ""
    if problem and problem != told:
        display.note(line or stall)
    elif told and not problem:
        again = {
            "silent": "the engine gives signs of life again",
            "stalled": "the run gets on again",
        }
        display.note(again[told])
    return problem


def _stall(state: RunState, since_ns: int, seconds: float) -> str:
    if not state.started_ns:
        return ""
    done, total = state.counted
    step = f"{done} of {total} done" if total else ""
    usual = state.unit_seconds or 0.0
    return stalled(state.stage, step, since_ns=since_ns, seconds=seconds, usual_seconds=usual)


def _read(root: Path, run_id: str, arrived: queue.SimpleQueue[Event | Exception]) -> None:
    """Put a run's events on a queue; a store of its own, because a connection has one thread."""
    try:
        with open_store(root) as store:
            for event in follow(store, run_id):
                arrived.put(event)
    except Exception as error:  # noqa: BLE001  # carried to the main thread, which raises it
        arrived.put(error)
