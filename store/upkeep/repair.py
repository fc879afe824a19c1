"""Rows that are damaged, as by a bit that was flipped on the disk: found one by one, mended or set aside.

What of a row is lost and tells nothing that is needed becomes empty. Any other row goes, with what belongs to it,
and is written to quarantine/rows-<ns>.jsonl first: bytes that are no text as {"hex": ...}.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from store.blobs.files import write_durably
from store.database.database import immediate, rows
from store.errors import StoreDamaged
from store.lineage.damage import faults, name_of
from store.lineage.events import decode_event

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from store.database.database import Lineage
    from store.database.sqlite import sqlite3

ROWS_AT_ONCE = 5000
MENDED = "mended"
CHANGED = "was written to meanwhile and is left as it is; verify again"

# Those without a rowid are known by their primary keys.
_KEYS = {
    "runs": "seq",
    "stages": "id",
    "events": "id",
    "engines": "rowid",
    "links": "rowid",
    "tags": "run_id, tag",
    "run_links": "run_id, stage, idx",
    "weights": "sample",
}
_WITHOUT_ROWID = ("tags", "run_links", "weights")
_OF_RUNS = ("tags", "run_links", "stages", "events")
# What stands in the place of a value that is lost and that the row can do without.
_STAND_INS: dict[str, dict[str, object]] = {
    "runs": {
        "status": "interrupted",
        "preset": "damaged",
        "output": "",
        "engine": "",
        "error": "",
        "cancel_requested": 0,
        "created_ns": 0,
        "started_ns": None,
        "ended_ns": None,
        "parent": "",
        "parent_step": None,
        "pause_requested": 0,
        "is_paused": 0,
        "note": "",
        "pinned": 0,
        "latents": "",
        "environment": "",
        "origin": "local",
        "queue_order": None,
    },
    "links": {"latents": "", "environment": "", "facts": "{}", "created_ns": 0, "keep": ""},
    "stages": {"seconds": 0.0, "cached": 0},
    "events": {"ns": 0},
    "run_links": {"latents": "", "sigma": None, "timestep": None, "seconds": 0.0},
}


@dataclass(frozen=True, slots=True)
class DamagedRow:
    """A row that does not hold what its table does.

    row: what it is called. faults: (column, what is wrong with it). key: of it in the database. note: what became
    of it.
    """

    table: str
    row: str
    faults: tuple[tuple[str, str], ...]
    key: tuple[Any, ...]
    note: str = ""


def damaged_rows(lineage: Lineage) -> list[DamagedRow]:
    """All rows of the database that are damaged; each row is read once."""
    return [each for table in _KEYS for each in _damaged_in(lineage, table)]


def repair(
    lineage: Lineage, damaged: Sequence[DamagedRow], misplaced: Sequence[str]
) -> list[DamagedRow]:
    """Mend these rows or set them aside, and make the indexes anew, all in one change; the rows with their notes.

    A row that is not damaged as it was, or another one under the same key by now, is left as it is. misplaced: the
    tables whose rows are not in the order of their keys, to be written anew. Raises StoreErrors, with nothing changed.
    """
    path = lineage.root / "quarantine" / f"rows-{time.time_ns()}.jsonl"
    noted: list[DamagedRow] = []
    lines: list[str] = []
    with immediate(lineage, durable=True) as connection:
        are_same = [_now(lineage, each) == each for each in damaged]
        for each, is_same in zip(damaged, are_same, strict=True):
            if not is_same:
                noted.append(replace(each, note=CHANGED))
                continue
            stand_ins = _STAND_INS.get(each.table, {})
            lost = {column: stand_ins.get(column) for column, _ in each.faults}
            is_mended = lost.keys() <= stand_ins.keys()
            where, key = _where(each)
            lines += _taken_down(lineage, each.table, where, key)
            if is_mended:
                columns = ", ".join(f"{column}=?" for column in lost)
                connection.execute(
                    f"UPDATE {each.table} SET {columns} WHERE {where}", (*lost.values(), *key)
                )
            else:
                if each.table == "runs":
                    lines += _remove_what_is_of(lineage, connection, each)
                connection.execute(f"DELETE FROM {each.table} WHERE {where}", key)
            noted.append(replace(each, note=MENDED if is_mended else f"set aside in {path.name}"))
        for table in misplaced:
            _rewrite(lineage, connection, table)
        connection.execute("REINDEX")
        if lines:
            write_durably(lineage.root, path, "\n".join([*lines, ""]).encode(), mode=0o600)
    return noted


def _damaged_in(lineage: Lineage, table: str) -> Iterator[DamagedRow]:
    columns = ", ".join(_columns(lineage, table))
    num_keys = len(_KEYS[table].split(","))
    for found in _pages(lineage, table, columns):
        for row in found:
            damaged = _damaged(lineage, table, columns, row[:num_keys], row[num_keys:])
            if damaged is not None:
                yield damaged


def _now(lineage: Lineage, each: DamagedRow) -> DamagedRow | None:
    """What is wrong by now with the row of that key; None where it is sound or gone."""
    columns = ", ".join(_columns(lineage, each.table))
    where, key = _where(each)
    found = rows(lineage, f"SELECT {columns} FROM {each.table} WHERE {where}", key)
    return _damaged(lineage, each.table, columns, key, found[0]) if found else None


def _damaged(
    lineage: Lineage, table: str, columns: str, key: tuple[Any, ...], values: tuple[Any, ...]
) -> DamagedRow | None:
    wrong = faults(lineage, table, columns, values)
    if not wrong and table == "events":
        wrong = _faults_of_event(values[-1])
    if not wrong:
        return None
    name = name_of(key if table in ("events", "stages") else values)
    if table == "runs":
        name = name_of(values[1:])
    return DamagedRow(table, name, tuple(wrong), key)


def _pages(lineage: Lineage, table: str, columns: str) -> Iterator[list[tuple[Any, ...]]]:
    """All rows of a table, the key of each before its columns."""
    key = _KEYS[table]
    if table in _WITHOUT_ROWID:
        # as bytes: a text that is damaged is equal to itself only so
        names = ", ".join(f"CAST({name} AS BLOB)" for name in key.split(", "))
        yield rows(lineage, f"SELECT {names}, {columns} FROM {table}")
        return
    last = -(2**63)
    while True:
        found = rows(
            lineage,
            f"SELECT {key}, {columns} FROM {table} WHERE {key}>? ORDER BY {key} LIMIT ?",
            (last, ROWS_AT_ONCE),
        )
        yield found
        if len(found) < ROWS_AT_ONCE:
            return
        last = found[-1][0]


def _columns(lineage: Lineage, table: str) -> list[str]:
    return [row[1] for row in rows(lineage, f"PRAGMA table_info({table})")]


def _faults_of_event(text: str) -> list[tuple[str, str]]:
    try:
        decode_event(text)
    except StoreDamaged as error:
        return [("json", f"is no event: {error}")]
    return []


def _where(each: DamagedRow) -> tuple[str, tuple[Any, ...]]:
    names = _KEYS[each.table].split(", ")
    if each.table in _WITHOUT_ROWID:
        names = [f"CAST({name} AS BLOB)" for name in names]
    return " AND ".join(f"{name}=?" for name in names), each.key


def _remove_what_is_of(
    lineage: Lineage, connection: sqlite3.Connection, each: DamagedRow
) -> list[str]:
    """Remove what is of a run that goes, and return it as lines."""
    lines = []
    of_run = "run_id=(SELECT id FROM runs WHERE seq=?)"
    for table in _OF_RUNS:
        lines += _taken_down(lineage, table, of_run, each.key)
        connection.execute(f"DELETE FROM {table} WHERE {of_run}", each.key)
    return lines


def _taken_down(lineage: Lineage, table: str, where: str, key: tuple[Any, ...]) -> list[str]:
    """Rows as lines of JSON."""
    columns = _columns(lineage, table)
    found = rows(lineage, f"SELECT {', '.join(columns)} FROM {table} WHERE {where}", key)
    return [
        json.dumps(
            {
                "table": table,
                "row": {
                    name: {"hex": value.hex()} if isinstance(value, bytes) else value
                    for name, value in zip(columns, row, strict=True)
                },
            }
        )
        for row in found
    ]


def _rewrite(lineage: Lineage, connection: sqlite3.Connection, table: str) -> None:
    """Put all rows of a table in their places; of two with one key, the later goes."""
    found = rows(lineage, f"SELECT * FROM {table}")
    connection.execute(f"DELETE FROM {table}")
    places = ", ".join("?" * len(_columns(lineage, table)))
    connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({places})", found)
