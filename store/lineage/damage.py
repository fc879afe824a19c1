"""Whether a row holds what its table does: a bit that was flipped on a disk makes one that does not.

Such a row is passed over where many are read and told once in the log; where it is the one that is asked for, it is
an error. `modiff store verify` looks for all of them (store.upkeep.repair).
"""

from __future__ import annotations

import functools
import json
import logging
import re
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from store.database.database import rows
from store.errors import StoreDamaged
from store.lineage.records import MAX_RATING, SOURCES, STATUSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from store.database.database import Lineage

_T = TypeVar("_T")
Row = tuple[Any, ...]

_TYPES: dict[str, tuple[type, ...]] = {"TEXT": (str,), "INTEGER": (int,), "REAL": (float,)}
_DIGEST = re.compile(r"(sha256:[0-9a-f]{64})?")

log = logging.getLogger(__name__)


class RowDamaged(StoreDamaged):
    """A row does not hold what its table does. table, column: where; row: what it is called; reason: what is wrong."""

    def __init__(self, table: str, row: str, column: str, reason: str) -> None:
        super().__init__(
            f"the row {row} of the table {table} is damaged ({column} {reason}); "
            "`modiff store verify --repair` mends it or sets it aside"
        )
        self.table, self.row, self.column, self.reason = table, row, column, reason


def sound(
    lineage: Lineage,
    table: str,
    columns: str,
    found: Iterable[Row],
    make: Callable[[Row], _T],
) -> list[_T]:
    """What `make` makes of each of these rows but those that are damaged, which are told in the log."""
    made = []
    for row in found:
        try:
            check_row(lineage, table, columns, row)
            made.append(make(row))
        except StoreDamaged as error:
            tell(str(error))
    return made


def check_row(lineage: Lineage, table: str, columns: str, row: Row) -> None:
    """RowDamaged unless each value of a row is as its table has it. columns: the names, as they were selected."""
    for column, reason in faults(lineage, table, columns, row):
        raise RowDamaged(table, name_of(row), column, reason)


def faults(lineage: Lineage, table: str, columns: str, row: Row) -> list[tuple[str, str]]:
    """What is wrong with a row: columns, each with a reason that reads on from its name."""
    names = _names(columns)
    signature = tuple(map(type, row))
    if signature not in _sound_signatures(table, columns):
        kinds = _kinds(lineage, table)
        wrong = [
            (name, f"holds {_SPOKEN.get(kind, kind.__name__)}")
            for name, kind in zip(names, signature, strict=True)
            if kind not in kinds[name]
        ]
        if wrong:
            return wrong
        _sound_signatures(table, columns).add(signature)
    return [
        (names[at], reason)
        for at, has_fault, reason in _checks(table, columns)
        if row[at] is not None and has_fault(row[at])
    ]


def name_of(row: Row) -> str:
    """What a row is called to people: its first column."""
    return repr(row[0]) if isinstance(row[0], bytes) else str(row[0])


@functools.cache
def tell(message: str) -> None:
    """One line in the log for each thing that is damaged, however often it is met."""
    log.warning("%s", message)


_SPOKEN = {
    bytes: "bytes that are no text",
    NoneType: "nothing",
    str: "text",
    int: "a number",
    float: "a number that is not whole",
}


@functools.cache
def _names(columns: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in columns.split(","))


@functools.cache
def _sound_signatures(table: str, columns: str) -> set[tuple[type, ...]]:
    """The types that rows were seen to have and may; filled as they are met."""
    return set()


_KINDS: dict[str, dict[str, tuple[type, ...]]] = {}


def _kinds(lineage: Lineage, table: str) -> dict[str, tuple[type, ...]]:
    """The types that the columns of a table may hold."""
    if table not in _KINDS:
        _KINDS[table] = {
            name: _TYPES[declared] + (() if not_null or key else (NoneType,))
            for _, name, declared, not_null, _, key in rows(lineage, f"PRAGMA table_info({table})")
        }
        if table == "run_links":  # a time of a flow may lie between two whole ones
            _KINDS[table]["timestep"] = (int, float, NoneType)
    return _KINDS[table]


def _is_no_object(text: str) -> bool:
    try:
        return type(msgspec.json.decode(text)) is not dict
    except msgspec.MsgspecError:
        return True


def _are_no_segments(text: str) -> bool:
    if text == "[]":
        return False
    try:
        segments = msgspec.convert(json.loads(text), list[tuple[int, str]])
    except (ValueError, msgspec.ValidationError):
        return True
    return any(_is_no_object(spec) for _, spec in segments)


def _is_no_digest(text: str) -> bool:
    return not _DIGEST.fullmatch(text)


_NO_DIGEST = (_is_no_digest, "is no digest")
_CHECKS: dict[tuple[str, str], tuple[Callable[[Any], bool], str]] = {
    ("runs", "status"): (lambda text: text not in STATUSES, "is no status"),
    ("runs", "spec"): (_is_no_object, "is no JSON object"),
    ("runs", "segments"): (_are_no_segments, "are no segments"),
    ("runs", "latents"): _NO_DIGEST,
    ("runs", "rating"): (lambda stars: not 0 <= stars <= MAX_RATING, "is no number of stars"),
    ("links", "digest"): _NO_DIGEST,
    ("links", "latents"): _NO_DIGEST,
    ("links", "state"): _NO_DIGEST,
    ("run_links", "digest"): _NO_DIGEST,
    ("run_links", "latents"): _NO_DIGEST,
    ("run_links", "source"): (lambda text: text not in SOURCES, "is no source"),
}


@functools.cache
def _checks(table: str, columns: str) -> list[tuple[int, Callable[[Any], bool], str]]:
    """The checks of a table's columns: where the value is, what says that it is wrong, and how that is told."""
    named = ((at, _CHECKS.get((table, name))) for at, name in enumerate(_names(columns)))
    return [(at, *check) for at, check in named if check is not None]
