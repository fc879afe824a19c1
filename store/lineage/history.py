"""The event log of runs, and their stages.

A stage's row is written with its StageFinished event, in one transaction: the two cannot differ.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from store.database.database import Lineage, immediate, rows
from store.errors import StoreDamaged, UnknownRun
from store.lineage.damage import RowDamaged, sound, tell
from store.lineage.events import (
    CallAnswered,
    Event,
    StageFinished,
    Verified,
    decode_event,
    encode_event,
)
from store.lineage.records import LogEntry, StageRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.database.sqlite import sqlite3


def append(lineage: Lineage, run_id: str, events: Sequence[Event]) -> None:
    """Add events to a run's log, in one transaction."""
    with immediate(lineage) as connection:
        if connection.execute("SELECT 1 FROM runs WHERE id=?", (run_id,)).fetchone() is None:
            raise UnknownRun(f"no run {run_id!r} in the store at {lineage.root}")
        insert(connection, run_id, events)


def insert(connection: sqlite3.Connection, run_id: str, events: Sequence[Event]) -> None:
    """Add events inside the caller's transaction, with the stages that they finish."""
    now = time.time_ns()
    connection.executemany(
        "INSERT INTO events (run_id, ns, json) VALUES (?, ?, ?)",
        [(run_id, now, encode_event(event)) for event in events],
    )
    connection.executemany(
        "INSERT INTO stages (run_id, name, seconds, cached) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (run_id, name) DO UPDATE SET seconds=excluded.seconds, cached=excluded.cached",
        [
            (run_id, event.stage, event.seconds, event.cached)
            for event in events
            if isinstance(event, StageFinished)
        ],
    )


def events(lineage: Lineage, run_id: str, after: int) -> list[tuple[int, Event]]:
    """The events of a run with ids above `after`, oldest first, without those of unknown kinds and damaged ones."""
    found = rows(
        lineage,
        "SELECT id, json FROM events WHERE run_id=? AND id>? ORDER BY id",
        (run_id, after),
    )
    decoded = ((event_id, _event(event_id, text)) for event_id, text in found)
    return [(event_id, event) for event_id, event in decoded if event is not None]


def log(lineage: Lineage, run_id: str, after: int, limit: int) -> list[LogEntry]:
    """At most `limit` entries of a run's log with ids above `after`, oldest first; unknown kinds are left out.

    A log that holds only unknown kinds in its next `limit` entries gives the first known ones behind them.
    """
    while True:
        found = rows(
            lineage,
            "SELECT id, ns, json FROM events WHERE run_id=? AND id>? ORDER BY id LIMIT ?",
            (run_id, after, limit),
        )
        decoded = ((event_id, ns, _event(event_id, text)) for event_id, ns, text in found)
        entries = [LogEntry(i, ns, event) for i, ns, event in decoded if event is not None]
        if entries or len(found) < limit:
            return entries
        after = found[-1][0]


def newest_event(lineage: Lineage) -> int:
    """The id of the last event of any run; 0: there is none."""
    [(newest,)] = rows(lineage, "SELECT max(id) FROM events")
    return int(newest or 0)


def ended_since(lineage: Lineage, after: int, up_to: int) -> list[str]:
    """The runs of which an attempt ended with an event of an id above `after`, up to `up_to`, oldest first."""
    found = rows(
        lineage,
        """SELECT DISTINCT run_id FROM events WHERE id>? AND id<=? AND json LIKE '{"kind":"run_finished"%' """
        "ORDER BY id",
        (after, up_to),
    )
    return [run_id for (run_id,) in found if type(run_id) is str]


def last_verdict(lineage: Lineage, run_id: str) -> tuple[int, Verified] | None:
    """What came of it when a run was last computed again to compare, and when (ns); None where it never was."""
    found = rows(
        lineage,
        "SELECT events.id, events.ns, events.json FROM runs JOIN events ON events.run_id=runs.id "
        """WHERE runs.verifies=? AND events.json LIKE '{"kind":"verified"%' ORDER BY events.id DESC LIMIT 1""",
        (run_id,),
    )
    for event_id, ns, text in found:
        event = _event(event_id, text)
        if isinstance(event, Verified):
            return int(ns), event
    return None


def calls(lineage: Lineage, run_id: str) -> list[CallAnswered]:
    """What components that run elsewhere answered, in all attempts at a run."""
    found = rows(
        lineage,
        """SELECT id, json FROM events WHERE run_id=? AND json LIKE '{"kind":"call_answered"%' ORDER BY id""",
        (run_id,),
    )
    events = (_event(event_id, text) for event_id, text in found)
    return [event for event in events if isinstance(event, CallAnswered)]


def peak_memory(lineage: Lineage, run_id: str) -> tuple[int, int]:
    """The most memory, of the process and of the device, that a run's log tells of, in bytes; 0 where it does not."""
    [peaks] = rows(
        lineage,
        # in a damaged text json_extract would be an error
        "SELECT max(iif(json_valid(json), json_extract(json, '$.rss_bytes'), 0)), "
        "max(iif(json_valid(json), json_extract(json, '$.device_bytes'), 0)) "
        """FROM events WHERE run_id=? AND json LIKE '{"kind":"memory_sampled"%'""",
        (run_id,),
    )
    return peaks[0] or 0, peaks[1] or 0


def stages(lineage: Lineage, run_id: str) -> list[StageRecord]:
    """The finished stages of a run, in the order in which they first finished."""
    columns = "name, seconds, cached"
    found = rows(lineage, f"SELECT {columns} FROM stages WHERE run_id=? ORDER BY id", (run_id,))
    return sound(
        lineage, "stages", columns, found, lambda row: StageRecord(row[0], row[1], bool(row[2]))
    )


def _event(event_id: int, text: object) -> Event | None:
    """The event of a row; None for one of an unknown kind, and for a damaged one, which is told in the log."""
    try:
        if type(text) is not str:
            raise StoreDamaged("it is no text")
        return decode_event(text)
    except StoreDamaged as error:
        tell(str(RowDamaged("events", str(event_id), "json", f"is no event: {error}")))
        return None
