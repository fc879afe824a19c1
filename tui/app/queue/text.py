"""The queue as text: a row for each run, one line on what is going on, and all about the run under the cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.app.widgets.listing import Column, Row
from tui.text import printable
from tui.units import clock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tui.describe.health import Status
    from tui.describe.queued import Expected
    from tui.describe.run import RunRow

COLUMNS = (
    Column("", 3),
    Column("RUN", 10),
    Column("PRESET", 14, from_width=90),
    Column("CHANGES", 0),
    Column("TIME", 7, is_number=True),
    Column("PROMPT", 0),
)
EMPTY = """\
No run waits.

Compose (1) makes one: start it there, or add it to the queue without watching it.
Runs that were stopped are in Runs (3), where they can be taken up again.\
"""


def table(rows: Sequence[RunRow], known: Mapping[str, Expected]) -> list[Row]:
    """The run at work is marked, the others are counted from 1."""
    number = 0
    told = []
    for row in rows:
        is_at_work = row.record.status == "running"
        number += not is_at_work
        expected = known.get(row.record.id)
        seconds = expected.seconds if expected else None
        cells = (
            "▶" if is_at_work else str(number),
            row.record.id,
            row.record.preset,
            expected.changes if expected else "…",
            "" if seconds is None else f"~{clock(seconds)}",
            row.prompt,
        )
        told.append(Row(row.record.id, cells, "bold" if is_at_work else ""))
    return told


def summary(rows: Sequence[RunRow], known: Mapping[str, Expected], status: Status | None) -> str:
    """What is at work, how much waits, and what to press where nothing goes on by itself."""
    running = [row.record for row in rows if row.record.status == "running"]
    waiting = _waiting([row for row in rows if row.record.status == "queued"], known)
    if len(running) > 1:
        return f"▶ {len(running)} runs are at work; {waiting}"
    for at_work in running:
        is_asked = at_work.cancel_requested or at_work.pause_requested
        what = "stops after its present step" if is_asked else "is at work"
        return f"▶ run {printable(at_work.id)} {what}; {waiting}"
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
    times = [known[row.record.id].seconds for row in queued if row.record.id in known]
    if len(queued) > 1 and len(times) == len(queued) and None not in times:
        told += f", about {clock(sum(seconds or 0.0 for seconds in times))} in all"
    return told
