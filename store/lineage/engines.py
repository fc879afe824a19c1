"""Which engine processes live, and what becomes of the runs of those that do not.

An engine is alive while it holds the lock of its id: its row, its pid and its heartbeat may all
outlive it. The heartbeat only tells whether a live engine makes progress.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import msgspec

from store import locks
from store.database.database import Lineage, immediate, rows
from store.lineage import queue
from store.lineage.damage import sound
from store.lineage.records import QUEUED, RUNNING, EngineRecord, HeldModel
from store.paths import engine_log

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_ID = re.compile(r"[^/\0]+")
LOCK_TIMEOUT_SECONDS = 5.0
# What Python's fault handler writes when a page of a mapped file is not there any more.
_BUS_ERROR = b"Fatal Python error: Bus error"
_TAIL_BYTES = 64 * 1024
_MODELS = list[tuple[str, str, str, int]]


def register(lineage: Lineage, engine_id: str, *, pid: int, version: str = "") -> locks.HeldLock:
    """Make an engine known; it is alive until the returned lock is released or it dies.

    version: of the code that it runs.
    """
    # The lock first: whoever sees the row must find the lock held.
    lock = locks.acquire(_lock_path(lineage, engine_id), timeout_seconds=LOCK_TIMEOUT_SECONDS)
    now = time.time_ns()
    try:
        with immediate(lineage) as connection:
            connection.execute(
                "INSERT INTO engines (id, pid, host, started_ns, heartbeat_ns, version) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (engine_id, pid, socket.gethostname(), now, now, version),
            )
    except BaseException:  # whatever it is goes on, and holds no lock
        lock.release()
        raise
    return lock


@contextlib.contextmanager
def alone(lineage: Lineage) -> Iterator[str]:
    """An id for a process that executes runs of its own and serves nobody: it is in no list of engines, and alive
    while the block lasts."""
    engine_id = queue.new_id()
    path = _lock_path(lineage, engine_id)
    with locks.acquire(path, timeout_seconds=LOCK_TIMEOUT_SECONDS):
        try:
            yield engine_id
        finally:
            path.unlink(missing_ok=True)


def heartbeat(lineage: Lineage, engine_id: str) -> None:
    """Say that the engine still makes progress."""
    with immediate(lineage) as connection:
        connection.execute(
            "UPDATE engines SET heartbeat_ns=? WHERE id=?", (time.time_ns(), engine_id)
        )


def set_held(
    lineage: Lineage, engine_id: str, names: Sequence[str], models: Sequence[HeldModel] = ()
) -> None:
    """Say which models the engine has in memory, by name and for people."""
    with immediate(lineage) as connection:
        connection.execute(
            "UPDATE engines SET held=?, models=? WHERE id=?",
            (json.dumps(list(names)), _models_text(models), engine_id),
        )


def request_release(lineage: Lineage) -> None:
    """Ask all engines to let go of the models that they do not use."""
    with immediate(lineage) as connection:
        connection.execute("UPDATE engines SET release_requested=1, released='[]'")


def release_requested(lineage: Lineage, engine_id: str) -> bool:
    """Whether somebody asked the engine for that."""
    found = rows(lineage, "SELECT release_requested FROM engines WHERE id=?", (engine_id,))
    return found == [(1,)]


def set_released(lineage: Lineage, engine_id: str, released: Sequence[HeldModel]) -> None:
    """Say what the engine has let go of, which nobody asks for any more."""
    with immediate(lineage) as connection:
        connection.execute(
            "UPDATE engines SET release_requested=0, released=? WHERE id=?",
            (_models_text(released), engine_id),
        )


def unregister(lineage: Lineage, engine_id: str) -> None:
    """Forget an engine; to be called by itself, before it releases its lock."""
    with immediate(lineage) as connection:
        connection.execute("DELETE FROM engines WHERE id=?", (engine_id,))
    _lock_path(lineage, engine_id).unlink(missing_ok=True)


def retire(lineage: Lineage, engine_id: str) -> bool:
    """Unregister an idle engine unless a run is queued; whether it was.

    One transaction: a run queued before it is seen here, a run queued after it finds no engine
    and starts one.
    """
    with immediate(lineage) as connection:
        waiting = connection.execute(
            "SELECT 1 FROM runs WHERE status=? LIMIT 1", (QUEUED,)
        ).fetchone()
        if waiting is not None:
            return False
        connection.execute("DELETE FROM engines WHERE id=?", (engine_id,))
    _lock_path(lineage, engine_id).unlink(missing_ok=True)
    return True


def retire_others(lineage: Lineage, version: str) -> list[EngineRecord]:
    """Let the live engines of any other version lease no more runs; returns those that are idle.

    An idle one is forgotten now, one at work is to leave after its present run: `queue.lease` tells
    either so. One transaction: an engine that leases a run before it is at work, one that tries
    to after it gets none. An engine from before version 3 of the schema does not know that it is
    to leave while it is at work, and does when it is next met idle.
    """
    idle = []
    others = [engine for engine in engines(lineage) if engine.version != version]
    if not others:
        return []
    with immediate(lineage) as connection:
        for engine in others:
            is_forgotten = connection.execute(
                "DELETE FROM engines WHERE id=?1 AND NOT EXISTS "
                "(SELECT 1 FROM runs WHERE engine=?1 AND status=?2)",
                (engine.id, RUNNING),
            ).rowcount
            if is_forgotten:
                idle.append(engine)
            else:
                connection.execute("UPDATE engines SET retiring=1 WHERE id=?", (engine.id,))
    return idle


def is_alive(lineage: Lineage, engine_id: str) -> bool:
    """Whether the process of that engine lives, which includes one that is stopped or stuck."""
    if not _ID.fullmatch(engine_id):  # of a damaged row: no lock can have that name
        return False
    return locks.is_held(_lock_path(lineage, engine_id))


def engines(lineage: Lineage) -> list[EngineRecord]:
    """The live engines, oldest first."""
    columns = (
        "id, pid, host, started_ns, heartbeat_ns, version, retiring, held, models, "
        "release_requested, released"
    )
    found = rows(lineage, f"SELECT {columns} FROM engines ORDER BY rowid")
    at_work = dict(rows(lineage, "SELECT engine, id FROM runs WHERE status=?", (RUNNING,)))

    def record(row: tuple[Any, ...]) -> EngineRecord:
        engine_id, pid, host, started, beat, version, retiring, held, *rest = row
        models, is_to_release, released = rest
        run_id = str(at_work.get(engine_id, ""))
        return EngineRecord(
            *(engine_id, pid, host, started, beat, run_id, version),
            is_retiring=bool(retiring),
            held=_names(held),
            models=_models(models),
            is_to_release=bool(is_to_release),
            released=_models(released),
        )

    records = sound(lineage, "engines", columns, found, record)
    return [engine for engine in records if is_alive(lineage, engine.id)]


def _names(text: object) -> tuple[str, ...]:
    """Those of a row; none where it is damaged, which only makes plans take longer than they must."""
    try:
        names = json.loads(text) if isinstance(text, str) else []
    except ValueError:
        return ()
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def _models_text(models: Sequence[HeldModel]) -> str:
    return json.dumps([astuple(each) for each in models])


def _models(text: object) -> tuple[HeldModel, ...]:
    """Those of a row; none where it is damaged."""
    try:
        found = msgspec.json.decode(text if isinstance(text, str) else "", type=_MODELS)
    except msgspec.MsgspecError:
        return ()
    return tuple(HeldModel(*each) for each in found)


def orphans(lineage: Lineage) -> frozenset[str]:
    """The ids of the running runs whose engines are dead: at rest, though nobody wrote so yet."""
    found = rows(lineage, "SELECT id, engine FROM runs WHERE status=?", (RUNNING,))
    return frozenset(
        run_id
        for run_id, engine_id in found
        if type(engine_id) is not str or not is_alive(lineage, engine_id)
    )


def recover(lineage: Lineage) -> list[str]:
    """End the running runs of dead engines and forget those engines.

    A run that was asked to stop becomes cancelled, any other interrupted. Returns their ids.
    The queue is left as it is, for the next engine.
    """
    known = rows(
        lineage,
        "SELECT id FROM engines UNION SELECT engine FROM runs WHERE status=?",
        (RUNNING,),
    )
    ids = [engine_id for (engine_id,) in known if type(engine_id) is str]
    dead = [engine_id for engine_id in ids if not is_alive(lineage, engine_id)]
    if not dead:
        return []
    ended = []
    with immediate(lineage, durable=True) as connection:
        for engine_id in dead:
            found = connection.execute(
                "SELECT id, cancel_requested, (SELECT pid FROM engines WHERE id=engine) FROM runs "
                "WHERE engine=? AND status=? ORDER BY seq",
                (engine_id, RUNNING),
            ).fetchall()
            for run_id, is_cancelled, pid in found:
                if is_cancelled:
                    queue.end(connection, run_id, "cancelled", "")
                else:
                    queue.end(connection, run_id, "interrupted", _death(lineage.root, pid))
                ended.append(run_id)
            connection.execute("DELETE FROM engines WHERE id=?", (engine_id,))
    for engine_id in dead:
        with contextlib.suppress(OSError):  # a leftover lock file means nothing
            _lock_path(lineage, engine_id).unlink(missing_ok=True)
    return ended


def _death(root: Path, pid: int | None) -> str:
    process = "" if pid is None else f" (process {pid})"
    log = root / "logs" if pid is None else engine_log(root, pid)
    if pid is not None and _BUS_ERROR in _tail(log):
        return (
            f"the engine{process} lost a weight file while it was using it: the file was cut short or overwritten, or "
            f"its disk fails; put it back whole, never write to a file in use, and resume; see {log}"
        )
    return f"the engine{process} ended before the run did; see {log}"


def _tail(log: Path) -> bytes:
    """The last of a file; nothing where it cannot be read."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
        return file.read(_TAIL_BYTES)
    return b""


def _lock_path(lineage: Lineage, engine_id: str) -> Path:
    return lineage.root / "locks" / f"engine-{engine_id}"
