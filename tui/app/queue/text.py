"""The queue as text: a row for each run, one line on what is going on, and all about the run under the cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.app.widgets.listing import Column, Row
from tui.describe.runs.run import SYMBOLS, steps_told
from tui.text import printable
from tui.units import clock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tui.describe.health import Status
    from tui.describe.runs.following.state import RunState
    from tui.describe.runs.queued import Expected
    from tui.describe.runs.run import RunRow

_STEPS_CELLS = 11
COLUMNS = (
    Column("", 3),
    Column("RUN", 10),
    Column("PRESET", 14, from_width=90),
    Column("CHANGES", 0),
    Column("STEPS", _STEPS_CELLS, from_width=62, is_number=True),
    Column("LEFT", 7, is_number=True),
    Column("PROMPT", 0),
)
EMPTY = """\
No run waits.

Compose (1) makes one: start it there, or add it to the queue without watching it.
Runs that were stopped are in Runs (3), where they can be taken up again; those that were paused stay here.\
"""


def table(
    rows: Sequence[RunRow], known: Mapping[str, Expected], state: RunState | None = None
) -> list[Row]:
    """The run at work is marked, the others are counted from 1; those that were paused come last.

    state: of the run at work, as far as its log was read.
    """
    number = 0
    told = []
    for row in rows:
        record = row.record
        is_at_work, is_paused = record.status == "running", record.status == "paused"
        number += not (is_at_work or is_paused)
        expected = known.get(record.id)
        progress = state if is_at_work and state is not None and state.run_id == record.id else None
        seconds = _seconds_left(row, expected, progress)
        steps = _steps(row, progress)
        cells = (
            SYMBOLS[record.status] if is_at_work or is_paused else str(number),
            record.id,
            record.preset,
            expected.changes if expected else "…",
            # without the share rather than cut
            steps if len(steps) <= _STEPS_CELLS else steps.partition(" ")[0],
            _left(seconds, expected),
            row.prompt,
        )
        told.append(Row(record.id, cells, "bold" if is_at_work else "dim" if is_paused else ""))
    return told


def _left(seconds: float | None, expected: Expected | None) -> str:
    """`~0:12`; `stored` of a run of which nothing is to be computed."""
    if expected is not None and expected.is_stored:
        return "stored"
    return "" if seconds is None else f"~{clock(seconds)}"


def _seconds_left(
    row: RunRow, expected: Expected | None, progress: RunState | None
) -> float | None:
    """By the run's own steps once it has done some, else by what like runs took."""
    done = row.steps_done
    if progress is not None:
        left = progress.eta_seconds(expected.decode_seconds if expected else None)
        if left is not None:
            return left
        done = max(done, progress.steps_done)
    return expected.seconds_left(row.record, done) if expected else None


def _steps(row: RunRow, progress: RunState | None) -> str:
    """`20`, `5/20` of one that was taken up again, `12/20 60%` of the one at work."""
    if progress is None or not progress.steps:
        return steps_told(row.record, row.steps_done)
    done, total = progress.steps_done, len(progress.steps)
    return f"{done}/{total} {100 * done // total}%"


def summary(
    rows: Sequence[RunRow],
    known: Mapping[str, Expected],
    status: Status | None,
    state: RunState | None = None,
) -> str:
    """What is at work and how far, how much waits, and what to press where nothing goes on by itself."""
    running = [row for row in rows if row.record.status == "running"]
    waiting = _waiting([row for row in rows if row.record.status == "queued"], known)
    num_paused = sum(row.record.status == "paused" for row in rows)
    if num_paused:
        waiting += f", {num_paused} {'is' if num_paused == 1 else 'are'} paused"
    if len(running) > 1:
        return f"▶ {len(running)} runs are at work; {waiting}"
    for at_work in running:
        record = at_work.record
        is_asked = record.cancel_requested or record.pause_requested
        what = "stops after its present step" if is_asked else "is at work"
        progress = state if state is not None and state.run_id == record.id else None
        seconds = _seconds_left(at_work, known.get(record.id), progress)
        if progress is not None and progress.steps and not is_asked:
            what += f", {_steps(at_work, progress)}"
            what += "" if seconds is None else f", ~{clock(seconds)} left"
        return f"▶ run {printable(record.id)} {what}; {waiting}"
    if status is None:
        return f"… {waiting}"
    if not status.engines:
        return f"○ no engine: press s to start one; {waiting}"
    mark = "▲ the engine does not answer" if status.is_stuck else "● the engine is ready"
    return f"{mark}; {waiting}"


def about(row: RunRow, known: Mapping[str, Expected]) -> str:
    """The whole prompt and all changes of one run."""
    expected = known.get(row.record.id)
    changes = f", with {expected.changes}" if expected and expected.changes else ""
    return (
        f"prompt   {printable(row.prompt) or '(none)'}\n"
        f"preset   {printable(row.record.preset) or '(none)'}{changes}"
    )


def _waiting(queued: Sequence[RunRow], known: Mapping[str, Expected]) -> str:
    if not queued:
        return "no run waits"
    told = "1 run waits" if len(queued) == 1 else f"{len(queued)} runs wait"
    expected = [known[row.record.id] for row in queued if row.record.id in known]
    if len(expected) == len(queued) and all(each.is_stored for each in expected):
        return f"{told}, and all of {'it' if len(queued) == 1 else 'them'} is stored"
    times = [
        _seconds_left(row, known[row.record.id], None) for row in queued if row.record.id in known
    ]
    if len(queued) > 1 and len(times) == len(queued) and None not in times:
        told += f", about {clock(sum(seconds or 0.0 for seconds in times))} in all"
    return told
