"""The queue: how a run is asked for, leased by exactly one engine, cancelled and finished.

Every change of a run's status and the event that tells of it are one transaction.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from store import history
from store.database import Lineage, immediate, rows
from store.errors import StoreError, UnknownRun
from store.events import RunFinished, RunQueued, RunStarted
from store.records import FINAL_STATUSES, QUEUED, RUNNING, STATUSES, RunRecord

if TYPE_CHECKING:
    from store.sqlite import sqlite3

ID_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
ID_LENGTH = 10
MAX_CANDIDATES = 5

_COLUMNS = (
    "id, status, preset, spec, output, engine, error, cancel_requested, "
    "created_ns, started_ns, ended_ns"
)


def new_id() -> str:
    """A random id: 50 bits, in letters and digits that cannot be mistaken for each other."""
    return "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))


def enqueue(lineage: Lineage, spec_json: bytes, *, preset: str, output: str) -> str:
    """Add a run at the end of the queue; `{run}` in `output` becomes its id."""
    with immediate(lineage, durable=True) as connection:
        run_id = _unused_id(connection)
        connection.execute(
            "INSERT INTO runs (id, status, preset, spec, output, created_ns) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                run_id,
                QUEUED,
                preset,
                spec_json.decode(),
                output.replace("{run}", run_id),
                time.time_ns(),
            ),
        )
        history.insert(connection, run_id, [RunQueued()])
    return run_id


def lease(lineage: Lineage, engine_id: str) -> RunRecord | None:
    """The oldest queued run, now this engine's to execute; None when nothing is queued."""
    if not is_waiting(lineage):  # a poll of an idle queue must not take the write lock
        return None
    with immediate(lineage) as connection:
        engine = connection.execute("SELECT pid FROM engines WHERE id=?", (engine_id,)).fetchone()
        if engine is None:
            raise StoreError(f"engine {engine_id!r} is not registered and cannot lease runs")
        oldest = connection.execute(
            "SELECT id FROM runs WHERE status=? ORDER BY seq LIMIT 1", (QUEUED,)
        ).fetchone()
        if oldest is None:
            return None
        connection.execute(
            "UPDATE runs SET status=?, engine=?, started_ns=? WHERE id=?",
            (RUNNING, engine_id, time.time_ns(), oldest[0]),
        )
        history.insert(connection, oldest[0], [RunStarted(engine_id, engine[0])])
    return run(lineage, oldest[0])


def is_waiting(lineage: Lineage) -> bool:
    """Whether any run is queued."""
    return bool(rows(lineage, "SELECT 1 FROM runs WHERE status=? LIMIT 1", (QUEUED,)))


def finish(lineage: Lineage, run_id: str, status: str, *, error: str, output: str) -> None:
    """End a running run; an empty `output` keeps the path that was asked for."""
    if status not in FINAL_STATUSES:
        raise ValueError(f"status {status!r} does not end a run; expected one of {FINAL_STATUSES}")
    with immediate(lineage, durable=True) as connection:
        found = _status(lineage, connection, run_id)
        if found != RUNNING:
            raise StoreError(f"run {run_id} is {found}, only a running run can become {status}")
        if output:
            connection.execute("UPDATE runs SET output=? WHERE id=?", (output, run_id))
        end(connection, run_id, status, error)


def end(connection: sqlite3.Connection, run_id: str, status: str, error: str) -> None:
    """Give a run its final status, with its last event, inside the caller's transaction."""
    connection.execute(
        "UPDATE runs SET status=?, error=?, ended_ns=? WHERE id=?",
        (status, error, time.time_ns(), run_id),
    )
    history.insert(connection, run_id, [RunFinished(status, error)])


def request_cancel(lineage: Lineage, run_id: str) -> str:
    """Cancel a queued run at once, ask a running one to stop; returns the status it now has."""
    with immediate(lineage, durable=True) as connection:
        status = _status(lineage, connection, run_id)
        if status == QUEUED:
            status = "cancelled"
            end(connection, run_id, status, "")
        elif status == RUNNING:
            connection.execute("UPDATE runs SET cancel_requested=1 WHERE id=?", (run_id,))
    return status


def cancel_requested(lineage: Lineage, run_id: str) -> bool:
    """Whether someone asked for this run to stop."""
    found = rows(lineage, "SELECT cancel_requested FROM runs WHERE id=?", (run_id,))
    return found == [(1,)]


def resolve(lineage: Lineage, prefix: str) -> str:
    """The id of the one run whose id starts with `prefix`; UnknownRun when none or several do."""
    letters = prefix.strip().lower()
    if not letters or set(letters) - set(ID_LETTERS):
        raise UnknownRun(
            f"{prefix!r} is not a run id; expected up to {ID_LENGTH} of the characters a-z and 2-7"
        )
    found = rows(
        lineage,
        "SELECT id FROM runs WHERE id GLOB ? ORDER BY seq DESC LIMIT ?",
        (letters + "*", MAX_CANDIDATES + 1),
    )
    if not found:
        raise UnknownRun(f"no run starts with {letters!r}; `modiff runs` lists them")
    if len(found) > 1:
        candidates = ", ".join(run_id for (run_id,) in found[:MAX_CANDIDATES])
        more = ", ..." if len(found) > MAX_CANDIDATES else ""
        raise UnknownRun(f"more than one run starts with {letters!r}: {candidates}{more}")
    return str(found[0][0])


def run(lineage: Lineage, run_id: str) -> RunRecord:
    """The run of a full id."""
    found = rows(lineage, f"SELECT {_COLUMNS} FROM runs WHERE id=?", (run_id,))
    if not found:
        raise UnknownRun(f"no run {run_id!r} in the store at {lineage.root}")
    return _record(found[0])


def runs(lineage: Lineage, *, limit: int, status: str | None) -> list[RunRecord]:
    """The newest runs first, at most `limit`, of one status or of all."""
    if status is not None and status not in STATUSES:
        raise StoreError(f"unknown status {status!r}; expected one of {', '.join(STATUSES)}")
    where, parameters = ("", ()) if status is None else ("WHERE status=?", (status,))
    found = rows(
        lineage,
        f"SELECT {_COLUMNS} FROM runs {where} ORDER BY seq DESC LIMIT ?",
        (*parameters, limit),
    )
    return [_record(row) for row in found]


def _record(row: tuple[Any, ...]) -> RunRecord:
    run_id, status, preset, spec, output, engine, error, is_cancelled, *times = row
    spec_json = spec.encode()
    return RunRecord(
        run_id, status, preset, spec_json, output, engine, error, bool(is_cancelled), *times
    )


def _status(lineage: Lineage, connection: sqlite3.Connection, run_id: str) -> str:
    found = connection.execute("SELECT status FROM runs WHERE id=?", (run_id,)).fetchone()
    if found is None:
        raise UnknownRun(f"no run {run_id!r} in the store at {lineage.root}")
    return str(found[0])


def _unused_id(connection: sqlite3.Connection) -> str:
    while True:
        run_id = new_id()
        if connection.execute("SELECT 1 FROM runs WHERE id=?", (run_id,)).fetchone() is None:
            return run_id
