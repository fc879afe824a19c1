"""Runs as people look at them: found, labelled, removed; see store.lineage.ancestry for relations.

What a run made stays when it is removed: links and blobs belong to whoever needs them, and a
clean-up takes those that nobody does.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from store.database.database import Lineage, immediate, rows
from store.errors import BadRequest, StoreError, UnknownRun
from store.lineage.damage import check_row, sound
from store.lineage.records import (
    COMPARISONS,
    MAX_RATING,
    PAUSED,
    QUEUED,
    RUNNING,
    STATUSES,
    Compared,
    RunRecord,
    Segment,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.database.sqlite import sqlite3

ID_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
ID_LENGTH = 10
MAX_CANDIDATES = 5
MAX_NOTE = 10_000
MAX_INTEGER = 2**63 - 1  # of the database

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")
_STATUS = f"CASE WHEN is_paused THEN '{PAUSED}' ELSE status END"
_COLUMNS = (
    f"id, {_STATUS}, preset, spec, output, engine, error, cancel_requested, pause_requested, "
    "created_ns, started_ns, ended_ns, parent, parent_step, segments, stop_at, note, pinned, "
    "latents, environment, origin, verifies, rating"
)
# What people see: not the runs that only compute another again.
OF_PEOPLE = "verifies=''"
_NAMES = _COLUMNS.replace(_STATUS, "status")
_SEARCHED = (
    "id || char(10) || preset || char(10) || output || char(10) || note || char(10) || "
    "CASE WHEN json_valid(spec) THEN coalesce(json_extract(spec, '$.prompt'), '') ELSE '' END"
)


# Finding


def run(lineage: Lineage, run_id: str) -> RunRecord:
    """The run of a full id. Raises UnknownRun, and RowDamaged where its row is."""
    found = rows(lineage, f"SELECT {_COLUMNS} FROM runs WHERE id=?", (run_id,))
    if not found:
        raise _unknown(lineage, run_id)
    check_row(lineage, "runs", _NAMES, found[0])
    return _record(found[0])


def select(lineage: Lineage, clauses: str, parameters: Sequence[object]) -> list[RunRecord]:
    """The runs of `SELECT ... FROM runs` with these clauses, but those whose rows are damaged."""
    found = rows(lineage, f"SELECT {_COLUMNS} FROM runs {clauses}", parameters)
    return sound(lineage, "runs", _NAMES, found, _record)


def status_of(lineage: Lineage, connection: sqlite3.Connection, run_id: str) -> str:
    """The status of a run, inside the caller's transaction; UnknownRun if there is none."""
    found = connection.execute(f"SELECT {_STATUS} FROM runs WHERE id=?", (run_id,)).fetchone()
    if found is None:
        raise _unknown(lineage, run_id)
    return str(found[0])


def resolve(lineage: Lineage, prefix: str) -> str:
    """The id of the one run whose id starts with `prefix`; UnknownRun when none or several do.

    A run that verifies another is known by its whole id only.
    """
    letters = prefix.strip().lower()
    if not letters or set(letters) - set(ID_LETTERS):
        raise UnknownRun(
            f"{prefix!r} is not a run id; expected up to {ID_LENGTH} of the characters a-z and 2-7"
        )
    found = rows(
        lineage,
        f"SELECT id FROM runs WHERE id GLOB ? AND ({OF_PEOPLE} OR id=?) ORDER BY seq DESC LIMIT ?",
        (letters + "*", letters, MAX_CANDIDATES + 1),
    )
    if not found:
        raise UnknownRun(f"no run starts with {letters!r}; `modiff runs` lists them")
    if len(found) > 1:
        candidates = ", ".join(run_id for (run_id,) in found[:MAX_CANDIDATES])
        more = ", ..." if len(found) > MAX_CANDIDATES else ""
        raise UnknownRun(f"more than one run starts with {letters!r}: {candidates}{more}")
    return str(found[0][0])


def beginning(lineage: Lineage, prefix: str, limit: int) -> list[RunRecord]:
    """The newest runs whose ids begin so, at most `limit`; none where no id can."""
    letters = prefix.strip().lower()
    if set(letters) - set(ID_LETTERS):
        return []
    return select(
        lineage,
        f"WHERE id GLOB ? AND {OF_PEOPLE} ORDER BY seq DESC LIMIT ?",
        (letters + "*", limit),
    )


def writing_to(lineage: Lineage, outputs: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Of these paths those that a queued or running run will write: the oldest such run and its status, by path."""
    found = rows(
        lineage,
        f"SELECT output, id, status FROM runs WHERE status IN (?, ?) AND {OF_PEOPLE} "
        "AND output IN (SELECT value FROM json_each(?)) ORDER BY seq DESC",
        (QUEUED, RUNNING, json.dumps(list(outputs))),
    )
    return {output: (run_id, status) for output, run_id, status in found}


def count(lineage: Lineage) -> int:
    """How many there are, but for those that verify another."""
    [(number,)] = rows(lineage, f"SELECT count(*) FROM runs WHERE {OF_PEOPLE}")
    return int(number)


def search(
    lineage: Lineage,
    *,
    limit: int,
    words: Sequence[str] = (),
    tags: Sequence[str] = (),
    status: str | None = None,
    preset: str = "",
    since_ns: int | None = None,
    until_ns: int | None = None,
    is_pinned: bool = False,
    compared: Sequence[Compared] = (),
) -> list[RunRecord]:
    """The newest runs first, at most `limit`, that fit everything that is given.

    words: each of them a part of the prompt, note, id, output or preset, in capitals or not. tags: all of them; one
    that ends with `*` stands for any that begins so. preset: its whole name, or its beginning and `*`. Created at
    since_ns or later, before until_ns. is_pinned: only those that are. Never one that verifies another.
    """
    wanted: list[tuple[str, tuple[object, ...]]] = [_tagged(tag) for tag in tags]
    if status is not None:
        if status not in STATUSES:
            raise BadRequest(f"unknown status {status!r}; expected one of {', '.join(STATUSES)}")
        is_paused = status == PAUSED
        wanted.append(
            ("status=? AND is_paused=?", ("interrupted" if is_paused else status, is_paused))
        )
    if preset:
        wanted.append(_named("preset", preset))
    if since_ns is not None:
        wanted.append(("created_ns>=?", (since_ns,)))
    if until_ns is not None:
        wanted.append(("created_ns<?", (until_ns,)))
    if is_pinned:
        wanted.append(("pinned", ()))
    wanted += [_condition(each) for each in compared]
    if words:
        wanted.append(_holding(words))
    where = " AND ".join([OF_PEOPLE, *(condition for condition, _ in wanted)])
    parameters = [value for _, values in wanted for value in values]
    for value in parameters:
        if isinstance(value, str):
            _check_text(value, "what is searched for")
    limit = min(limit, MAX_INTEGER)
    return select(lineage, f"WHERE {where} ORDER BY seq DESC LIMIT ?", (*parameters, limit))


def _tagged(tag: str) -> tuple[str, tuple[object, ...]]:
    condition, values = _named("tag", tag)
    return f"EXISTS (SELECT 1 FROM tags WHERE run_id=runs.id AND {condition})", values


def _named(column: str, name: str) -> tuple[str, tuple[object, ...]]:
    """A whole name, or the beginning of one and `*`."""
    if not name.endswith("*"):
        return f"{column}=?", (name,)
    return f"substr({column}, 1, ?)=?", (len(name) - 1, name[:-1])


def _holding(words: Sequence[str]) -> tuple[str, tuple[object, ...]]:
    """The text is made once, however many words are looked for in it."""
    folded = f"(SELECT casefold(CAST({_SEARCHED} AS BLOB)) AS text)"
    holds = " AND ".join("instr(text, ?)" for _ in words)
    return f"(SELECT {holds} FROM {folded})", tuple(word.casefold() for word in words)


def _condition(wanted: Compared) -> tuple[str, tuple[object, ...]]:
    if wanted.comparison not in COMPARISONS:
        raise ValueError(f"expected one of {', '.join(COMPARISONS)}, got {wanted.comparison!r}")
    if wanted.key == "rating":
        return f"rating{wanted.comparison}?", (wanted.value,)
    spec = "CASE WHEN json_valid(spec) THEN spec ELSE '{}' END"
    table, is_of_any, key = wanted.key.rpartition("[N].")
    if not is_of_any:
        return _fitting(wanted, spec, _path(wanted.key))
    fits, values = _fitting(wanted, "item.value", _path(key))
    condition = f"CASE item.type WHEN 'object' THEN {fits} ELSE 0 END"
    items = f"SELECT 1 FROM json_each({spec}, ?) AS item WHERE {condition}"
    return f"EXISTS ({items})", (_path(table), *values)


def _path(key: str) -> str:
    """Where SQLite finds `extensions[0].options.threshold`."""
    named = re.compile(r"(.*?)((?:\[\d+\])*)")
    parts = [named.fullmatch(part) for part in key.split(".")]
    return "$" + "".join(f'."{part[1]}"{part[2]}' for part in parts if part)


def _fitting(wanted: Compared, document: str, path: str) -> tuple[str, tuple[object, ...]]:
    """Whether what a JSON document has at a path fits; document: its expression."""
    value = wanted.value
    values: tuple[object, ...]
    match value:
        case bool():
            fits, values = "type=?", (str(value).lower(),)
        case str():
            pattern = re.sub(r"[\[\]?]", lambda found: f"[{found[0]}]", value.casefold())
            fits = "type='text' AND casefold(CAST(atom AS BLOB)) GLOB ?"
            values = (pattern,)
            if wanted.is_file:
                fits = f"({fits} OR {fits})"
                # any file, but not none
                values = ("?*" if pattern == "*" else pattern, f"*/{pattern}")
        case int() if wanted.comparison == "=" and abs(value) > MAX_INTEGER:
            # as JSON has it: SQLite reads an integer of more than 63 bits as the nearest float
            return f"({document}) -> ?=?", (path, str(value))
        case _:
            fits = f"type IN ('integer', 'real') AND atom{wanted.comparison}?"
            is_large = isinstance(value, int) and abs(value) > MAX_INTEGER
            values = (float(value) if is_large else value,)
    condition = f"EXISTS (SELECT 1 FROM json_each({document}, ?) WHERE {fits})"
    if wanted.fits_absent:
        condition = f"({condition} OR json_type({document}, ?) IS NULL)"
        return condition, (path, *values, path)
    return condition, (path, *values)


def set_value(
    lineage: Lineage, run_id: str, column: str, value: object, *, durable: bool = False
) -> None:
    """Set one column of a run; UnknownRun if there is none."""
    with immediate(lineage, durable=durable) as connection:
        status_of(lineage, connection, run_id)
        connection.execute(f"UPDATE runs SET {column}=? WHERE id=?", (value, run_id))


# Labels


def tag(lineage: Lineage, run_id: str, names: Sequence[str]) -> None:
    """Give a run tags: names of up to 64 letters, digits and . _ - /"""
    for name in names:
        if not _TAG.fullmatch(name):
            raise BadRequest(
                f"{name!r} is not a tag; expected up to 64 letters, digits and . _ - /, "
                "with a letter or digit first"
            )
    with immediate(lineage, durable=True) as connection:
        status_of(lineage, connection, run_id)
        connection.executemany(
            "INSERT OR IGNORE INTO tags (run_id, tag) VALUES (?, ?)",
            [(run_id, name) for name in names],
        )


def untag(lineage: Lineage, run_id: str, names: Sequence[str]) -> None:
    """Take tags from a run; those that it does not have are passed over."""
    with immediate(lineage, durable=True) as connection:
        status_of(lineage, connection, run_id)
        connection.execute(
            "DELETE FROM tags WHERE run_id=? AND tag IN (SELECT value FROM json_each(?))",
            (run_id, json.dumps(list(names))),
        )


def tags_of(lineage: Lineage, run_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The tags of each of these runs, sorted."""
    found: dict[str, list[str]] = {run_id: [] for run_id in run_ids}
    for run_id, name in rows(
        lineage,
        "SELECT run_id, tag FROM tags WHERE run_id IN (SELECT value FROM json_each(?)) "
        "ORDER BY tag",
        (json.dumps(list(run_ids)),),
    ):
        if type(name) is str:
            found[run_id].append(name)
    return {run_id: tuple(names) for run_id, names in found.items()}


def note(lineage: Lineage, run_id: str, text: str) -> None:
    """Set the note of a run; an empty one removes it."""
    _check_text(text, "the note")
    if len(text) > MAX_NOTE:
        raise BadRequest(
            f"the note has {len(text)} characters; expected at most {MAX_NOTE}, shorten it"
        )
    set_value(lineage, run_id, "note", text, durable=True)


def pin(lineage: Lineage, run_id: str) -> None:
    """Keep what the run and its ancestors made from every clean-up."""
    set_value(lineage, run_id, "pinned", 1, durable=True)


def unpin(lineage: Lineage, run_id: str) -> None:
    """Undo `pin`."""
    set_value(lineage, run_id, "pinned", 0, durable=True)


def rate(lineage: Lineage, run_id: str, rating: int) -> None:
    """Give a run 1 to 5 stars; 0 takes them off."""
    if not 0 <= rating <= MAX_RATING:
        raise BadRequest(
            f"a run has 1 to {MAX_RATING} stars, or 0 for none of them; expected such a number, "
            f"got {rating}"
        )
    set_value(lineage, run_id, "rating", rating, durable=True)


def remove(lineage: Lineage, run_ids: Sequence[str]) -> None:
    """Remove runs with their events, stages and tags: all of them, or none with the reason.

    Branches of a removed run stay whole: they carry the specs of what they share with it.
    """
    with immediate(lineage, durable=True) as connection:
        for run_id in run_ids:
            status = status_of(lineage, connection, run_id)
            if status in (QUEUED, RUNNING):
                raise StoreError(
                    f"run {run_id} is {status} and cannot be removed; `modiff cancel {run_id}` first"
                )
        _delete(connection, run_ids)


def remove_verifications(lineage: Lineage, *, before_ns: int) -> int:
    """Remove the runs that verified another and ended before that time; returns how many."""
    with immediate(lineage) as connection:
        found = connection.execute(
            f"SELECT id FROM runs WHERE NOT {OF_PEOPLE} AND status NOT IN (?, ?) "
            "AND coalesce(ended_ns, created_ns)<?",
            (QUEUED, RUNNING, before_ns),
        ).fetchall()
        _delete(connection, [run_id for (run_id,) in found])
    return len(found)


def _delete(connection: sqlite3.Connection, run_ids: Sequence[str]) -> None:
    removed = [(run_id,) for run_id in run_ids]
    for table in ("tags", "run_links", "stages", "events"):
        connection.executemany(f"DELETE FROM {table} WHERE run_id=?", removed)
    connection.executemany("DELETE FROM runs WHERE id=?", removed)


def _record(row: tuple[Any, ...]) -> RunRecord:
    run_id, status, preset, spec, output, engine, error, is_cancelled, is_pausing, *rest = row
    created, started, ended, parent, parent_step, segments, stop_at, text, pinned, *last = rest
    latents, environment, origin, verifies, rating = last
    return RunRecord(
        id=run_id,
        status=status,
        preset=preset,
        spec_json=spec.encode(),
        output=output,
        engine=engine,
        error=error,
        cancel_requested=bool(is_cancelled),
        pause_requested=bool(is_pausing),
        created_ns=created,
        started_ns=started,
        ended_ns=ended,
        parent=parent,
        parent_step=parent_step,
        segments=tuple(Segment(stop, spec.encode()) for stop, spec in json.loads(segments)),
        stop_at=stop_at,
        note=text,
        pinned=bool(pinned),
        latents=latents,
        environment=environment,
        origin=origin,
        verifies=verifies,
        rating=rating,
    )


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of a command line that are not UTF-8
        raise BadRequest(f"{what} is not valid Unicode: {text!r}; write it in UTF-8") from None


def _unknown(lineage: Lineage, run_id: str) -> UnknownRun:
    return UnknownRun(f"no run {run_id!r} in the store at {lineage.root}")
