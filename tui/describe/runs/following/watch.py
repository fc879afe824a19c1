"""What goes on from one look at the store to the next: which runs ended, and how far the one at work is. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from store.errors import UnknownRun
from tui.describe.plan import decode_seconds
from tui.describe.runs.following.state import RunState
from tui.units import clock

if TYPE_CHECKING:
    from store.lineage.records import RunRecord
    from store.store import Store

# A look reads no more of a log than this; what is left is read by the next one.
_PAGE = 1000
# An end of which a person knows, because it was asked for, is not told.
_TOLD = ("done", "failed")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. percent: of its steps, None before they are known. seconds_left: None where nobody knows."""

    percent: int | None = None
    seconds_left: float | None = None

    @property
    def words(self) -> str:
        """`62% ~0:19`, as far as it is known."""
        percent = "" if self.percent is None else f"{self.percent}%"
        left = "" if self.seconds_left is None else f"~{clock(self.seconds_left)}"
        return f"{percent} {left}".strip()


class Watch:
    """Remembers what the last look saw; for one thread."""

    def __init__(self) -> None:
        self._newest: int | None = None
        self._state = RunState("")
        self._decode_seconds: float | None = None

    def ended(self, store: Store) -> tuple[RunRecord, ...]:
        """The runs that came to their end, good or bad, since the last look; none at the first one."""
        before, newest = self._newest, store.newest_event()
        self._newest = newest
        if before is None or newest <= before:
            return ()
        found = []
        for run_id in store.ended_since(before, newest):
            try:
                record = store.run(run_id)
            except UnknownRun:  # it was removed
                continue
            if record.status in _TOLD and record.origin == "local" and not record.verifies:
                found.append(record)
        return tuple(found)

    def progress(self, store: Store, running: RunRecord | None) -> Progress | None:
        """Of the run at work, from what its log has gained since the last look; None for none."""
        if running is None:
            self._state = RunState("")
            return None
        if self._state.run_id != running.id:
            self._state = RunState(running.id)
            self._decode_seconds = decode_seconds(store, running.id)
        state = self._state
        state.take(store.log(running.id, state.last_id, limit=_PAGE))
        return progress_of(state, self._decode_seconds)


def progress_of(state: RunState, decode_seconds: float | None) -> Progress:
    """decode_seconds: what decoding took in like runs, None where that is not known."""
    total = len(state.steps)
    # not all of it while what follows the steps is at work
    percent = min(99, 100 * state.steps_done // total) if total else None
    return Progress(percent, state.eta_seconds(decode_seconds))
