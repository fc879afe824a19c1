"""The queue: how a run is asked for, leased by one engine, stopped, finished and taken up again.

Every change of a run's status and the event that tells of it are one transaction.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import time
from typing import TYPE_CHECKING

from store.database.database import Lineage, immediate, rows
from store.errors import EngineRetired, StoreError, UnknownRun
from store.lineage import history
from store.lineage.damage import RowDamaged
from store.lineage.events import RunFinished, RunPaused, RunQueued, RunResumed, RunStarted
from store.lineage.records import FINAL_STATUSES, PAUSED, QUEUED, RUNNING, RunRecord, Segment
from store.lineage.runs import (
    ID_LENGTH,
    ID_LETTERS,
    OF_PEOPLE,
    run,
    select,
    set_value,
    status_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.database.sqlite import sqlite3

_IN_ORDER = "ORDER BY coalesce(queue_order, seq), seq"


def new_id() -> str:
    """A random id: 50 bits, in letters and digits that cannot be mistaken for each other."""
    return "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))


# Waiting


def enqueue(
    lineage: Lineage,
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
    """Add a run at the end of the queue; `{run}` in `output` becomes its id.

    engine: of the caller, who executes the run itself from the first moment on, takes none of the
    queue and holds the lock of that id (`engines.alone`). The rest is of RunRecord. Raises
    UnknownRun when there is no run `parent` or `verifies`.
    """
    stops = [0, *(segment.stop for segment in segments)]
    if any(stop <= before for before, stop in itertools.pairwise(stops)):
        raise ValueError(f"segments stop at {stops[1:]}; expected rising steps from 1 on")
    if stop_at is not None and stop_at < 0:
        raise ValueError(f"stop_at is {stop_at}; expected a step, or 0 to stop before the first")
    encoded = _segments_text(segments)
    with immediate(lineage, durable=True) as connection:
        for needed in filter(None, (parent, verifies)):
            status_of(lineage, connection, needed)
        run_id = _unused_id(connection)
        connection.execute(
            "INSERT INTO runs (id, status, preset, spec, output, created_ns, parent, parent_step, "
            "segments, stop_at, queue_order, verifies) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run_id,
                QUEUED,
                preset,
                spec_json.decode(),
                output.replace("{run}", run_id),
                time.time_ns(),
                parent,
                parent_step,
                encoded,
                stop_at,
                _end_of_queue(connection),
                verifies,
            ),
        )
        history.insert(connection, run_id, [RunQueued()])
        if engine:
            _lease(connection, run_id, engine, os.getpid())
    return run_id


def is_waiting(lineage: Lineage) -> bool:
    """Whether any run is queued, be it one that verifies another."""
    return bool(rows(lineage, "SELECT 1 FROM runs WHERE status=? LIMIT 1", (QUEUED,)))


def count(lineage: Lineage) -> int:
    """How many runs of the user's are queued."""
    [(number,)] = rows(
        lineage, f"SELECT count(*) FROM runs WHERE status=? AND {OF_PEOPLE}", (QUEUED,)
    )
    return int(number)


def queued(lineage: Lineage) -> list[RunRecord]:
    """The queued runs of the user's in the order in which they will be leased."""
    return select(lineage, f"WHERE status=? AND {OF_PEOPLE} {_IN_ORDER}", (QUEUED,))


def reorder(lineage: Lineage, run_id: str, before_run_id: str | None) -> None:
    """Put a queued run before another queued one, or at the end of the queue."""
    with immediate(lineage, durable=True) as connection:
        for moved in (run_id, before_run_id):
            if moved is not None and (status := status_of(lineage, connection, moved)) != QUEUED:
                raise StoreError(f"run {moved} is {status}; only queued runs have an order")
        found = connection.execute(
            f"SELECT id, coalesce(queue_order, seq) FROM runs WHERE status=? {_IN_ORDER}", (QUEUED,)
        ).fetchall()
        if before_run_id == run_id:
            return
        order = [waiting for waiting, _ in found if waiting != run_id]
        order.insert(len(order) if before_run_id is None else order.index(before_run_id), run_id)
        first_place = found[0][1]
        connection.executemany(
            "UPDATE runs SET queue_order=? WHERE id=?", enumerate(order, start=first_place)
        )


def lease(lineage: Lineage, engine_id: str) -> RunRecord | None:
    """The first queued run, now this engine's to execute; None when nothing is queued.

    One whose row is damaged fails instead, with that as its error. Raises EngineRetired for an engine that is not
    registered (any more), or asked to leave.
    """
    # A poll of an idle queue must not take the write lock, and an idle engine is to notice too
    # that it was asked to leave.
    [(is_idle,)] = rows(
        lineage,
        "SELECT NOT EXISTS (SELECT 1 FROM runs WHERE status=?) "
        "AND EXISTS (SELECT 1 FROM engines WHERE id=? AND NOT retiring)",
        (QUEUED, engine_id),
    )
    if is_idle:
        return None
    while True:
        with immediate(lineage) as connection:
            pid = _pid_of(connection, engine_id)
            first = connection.execute(
                f"SELECT id FROM runs WHERE status=? {_IN_ORDER} LIMIT 1", (QUEUED,)
            ).fetchone()
            if first is None:
                return None
            _lease(connection, first[0], engine_id, pid)
        try:
            return run(lineage, first[0])
        except RowDamaged as error:  # it must not stand before all others
            finish(lineage, first[0], "failed", error=str(error), output="")


# Ending


def finish(lineage: Lineage, run_id: str, status: str, *, error: str, output: str) -> None:
    """End a running run; an empty `output` keeps the path that was asked for."""
    if status not in FINAL_STATUSES:
        raise ValueError(f"status {status!r} does not end a run; expected one of {FINAL_STATUSES}")
    with immediate(lineage, durable=True) as connection:
        found = status_of(lineage, connection, run_id)
        if found != RUNNING:
            raise StoreError(f"run {run_id} is {found}, only a running run can become {status}")
        if output:
            connection.execute("UPDATE runs SET output=? WHERE id=?", (output, run_id))
        end(connection, run_id, status, error)


def end(connection: sqlite3.Connection, run_id: str, status: str, error: str) -> None:
    """Give a run its final status, with its last event, inside the caller's transaction."""
    is_paused = status == PAUSED
    connection.execute(
        "UPDATE runs SET status=?, is_paused=?, error=?, ended_ns=? WHERE id=?",
        ("interrupted" if is_paused else status, is_paused, error, time.time_ns(), run_id),
    )
    paused = [RunPaused()] if is_paused else []
    history.insert(connection, run_id, [*paused, RunFinished(status, error)])


def request_cancel(lineage: Lineage, run_id: str) -> str:
    """Cancel a queued run at once, ask a running one to stop; returns the status it now has."""
    return _request(lineage, run_id, "cancelled", "cancel_requested")


def request_cancel_all(lineage: Lineage, run_ids: Sequence[str]) -> None:
    """Cancel the queued ones and ask the running ones to stop; one that is gone is passed over.

    One change, so that no engine leases one of them while the others are dealt with.
    """
    with immediate(lineage, durable=True) as connection:
        for run_id in run_ids:
            with contextlib.suppress(UnknownRun):
                _ask(lineage, connection, run_id, "cancelled", "cancel_requested")


def request_pause(lineage: Lineage, run_id: str) -> str:
    """Pause a queued run at once, ask a running one to pause; returns the status it now has."""
    return _request(lineage, run_id, PAUSED, "pause_requested")


def cancel_requested(lineage: Lineage, run_id: str) -> bool:
    """Whether someone asked for this run to stop."""
    found = rows(lineage, "SELECT cancel_requested FROM runs WHERE id=?", (run_id,))
    return found == [(1,)]


def pause_requested(lineage: Lineage, run_id: str) -> bool:
    """Whether someone asked for this run to pause."""
    found = rows(lineage, "SELECT pause_requested FROM runs WHERE id=?", (run_id,))
    return found == [(1,)]


# Taking up again


def resume(lineage: Lineage, run_id: str) -> None:
    """Put a run that stopped before its end back in the queue, last; its log goes on."""
    with immediate(lineage, durable=True) as connection:
        status = status_of(lineage, connection, run_id)
        if status == "done":
            [(stop_at,)] = connection.execute("SELECT stop_at FROM runs WHERE id=?", (run_id,))
            if stop_at is not None:
                raise StoreError(
                    f"run {run_id} is done up to its step {stop_at}, as it was to; `modiff finish {run_id}` takes it "
                    "to its end"
                )
            raise StoreError(
                f"run {run_id} is done; `modiff replay {run_id}` makes its output again, "
                f"`modiff branch {run_id} --at STEP` goes on from one of its steps"
            )
        _requeue(connection, run_id, status)


def continue_run(lineage: Lineage, run_id: str, stop_at: int | None) -> None:
    """Queue a run that was to stop early, now to stop at a later step, or (None) at its last."""
    with immediate(lineage, durable=True) as connection:
        status = status_of(lineage, connection, run_id)
        [(old,)] = connection.execute("SELECT stop_at FROM runs WHERE id=?", (run_id,)).fetchall()
        if old is None:
            raise StoreError(
                f"run {run_id} was not to stop early; `modiff resume {run_id}` takes up one that "
                f"did not end, `modiff branch {run_id} --at STEP` goes on from one of its steps"
            )
        if stop_at is not None and stop_at <= old:
            raise StoreError(
                f"run {run_id} was to stop at step {old} already; expected a later one than {stop_at}"
            )
        _requeue(connection, run_id, status)
        connection.execute("UPDATE runs SET stop_at=? WHERE id=?", (stop_at, run_id))


def reconsider(lineage: Lineage, run_id: str, spec_json: bytes, stop_at: int | None) -> None:
    """Queue a run again that stopped before its first step, with other settings; to stop there once more, or (None) to
    go to its end. Raises StoreError for any other run: what has steps stays what it is."""
    with immediate(lineage, durable=True) as connection:
        status = status_of(lineage, connection, run_id)
        [(old,)] = connection.execute("SELECT stop_at FROM runs WHERE id=?", (run_id,)).fetchall()
        if old != 0:
            raise StoreError(f"run {run_id} does not wait for its prompt to be read")
        _requeue(connection, run_id, status)
        connection.execute(
            "UPDATE runs SET spec=?, stop_at=? WHERE id=?", (spec_json.decode(), stop_at, run_id)
        )


# What a run found out about itself


def set_spec(
    lineage: Lineage, run_id: str, spec_json: bytes, segments: Sequence[Segment] | None = None
) -> None:
    """Record the settings that a run goes on with, where it may not do all that it was asked for. segments: where those
    change that held before; None leaves them."""
    with immediate(lineage) as connection:
        status_of(lineage, connection, run_id)
        connection.execute("UPDATE runs SET spec=? WHERE id=?", (spec_json.decode(), run_id))
        if segments is not None:
            connection.execute(
                "UPDATE runs SET segments=? WHERE id=?", (_segments_text(segments), run_id)
            )


def set_latents(lineage: Lineage, run_id: str, digest: str) -> None:
    """Record the digest of a run's final latents."""
    set_value(lineage, run_id, "latents", digest)


def set_output(lineage: Lineage, run_id: str, path: str) -> None:
    """Name the output of a run that has none, as one from a bundle."""
    set_value(lineage, run_id, "output", path)


def set_environment(lineage: Lineage, run_id: str, text: str) -> None:
    """Record what a run is computed on, as canonical JSON."""
    set_value(lineage, run_id, "environment", text)


def _segments_text(segments: Sequence[Segment]) -> str:
    return json.dumps([[segment.stop, segment.spec_json.decode()] for segment in segments])


def _request(lineage: Lineage, run_id: str, status: str, flag: str) -> str:
    with immediate(lineage, durable=True) as connection:
        return _ask(lineage, connection, run_id, status, flag)


def _pid_of(connection: sqlite3.Connection, engine_id: str) -> int:
    """The process of an engine. EngineRetired unless it may take runs from the queue."""
    engine = connection.execute(
        "SELECT pid, retiring FROM engines WHERE id=?", (engine_id,)
    ).fetchone()
    if engine is None or engine[1]:
        state = "not registered" if engine is None else "asked to leave"
        raise EngineRetired(f"engine {engine_id!r} is {state} and cannot lease runs")
    return int(engine[0])


def _lease(connection: sqlite3.Connection, run_id: str, engine_id: str, pid: int) -> None:
    """Make a queued run an engine's, inside the caller's transaction."""
    connection.execute(
        "UPDATE runs SET status=?, engine=?, started_ns=? WHERE id=?",
        (RUNNING, engine_id, time.time_ns(), run_id),
    )
    history.insert(connection, run_id, [RunStarted(engine_id, pid)])


def _ask(
    lineage: Lineage, connection: sqlite3.Connection, run_id: str, status: str, flag: str
) -> str:
    found = status_of(lineage, connection, run_id)
    if found == QUEUED:
        end(connection, run_id, status, "")
        return status
    if found == RUNNING:
        connection.execute(f"UPDATE runs SET {flag}=1 WHERE id=?", (run_id,))
    return found


def _requeue(connection: sqlite3.Connection, run_id: str, status: str) -> None:
    if status not in FINAL_STATUSES:
        raise StoreError(f"run {run_id} is {status}; there is nothing to take up yet")
    connection.execute(
        "UPDATE runs SET status=?, is_paused=0, cancel_requested=0, pause_requested=0, engine='', "
        "error='', started_ns=NULL, ended_ns=NULL, queue_order=? WHERE id=?",
        (QUEUED, _end_of_queue(connection), run_id),
    )
    history.insert(connection, run_id, [RunResumed(status), RunQueued()])


def _end_of_queue(connection: sqlite3.Connection) -> int:
    [(last,)] = connection.execute(
        "SELECT coalesce(max(coalesce(queue_order, seq)), 0) FROM runs WHERE status=?", (QUEUED,)
    ).fetchall()
    return int(last) + 1


def _unused_id(connection: sqlite3.Connection) -> str:
    while True:
        run_id = new_id()
        if connection.execute("SELECT 1 FROM runs WHERE id=?", (run_id,)).fetchone() is None:
            return run_id
