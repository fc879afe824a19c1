"""The columns of a list of runs, by name: of the table in the app, of `modiff runs`, and of its --columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from presets.fields.wording import did_you_mean, nearest
from store.errors import BadRequest
from tui.describe.runs.changes import setting_of, setting_told, values_told
from tui.describe.runs.finding.setting_keys import UnknownKey, setting, short_names
from tui.describe.runs.run import PIN, stars, status_word, status_words, steps_told
from tui.text import printable
from tui.units import age, duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tui.describe.runs.run import RunRow

# What a text or a list may take where others stand beside it.
_MAX_CELLS = 40


class BadColumns(BadRequest):
    """No such column; says what was expected."""


_CELLS: dict[str, Callable[[RunRow, int], str]] = {
    "id": lambda row, _: row.record.id,
    "status": lambda row, _: status_words(row.record),
    "symbol": lambda row, _: status_word(row.record),
    "age": lambda row, now: age(now - row.record.created_ns),
    "time": lambda row, _: "" if row.record.seconds is None else duration(row.record.seconds),
    "preset": lambda row, _: row.record.preset,
    "prompt": lambda row, _: row.prompt,
    "differs": lambda row, _: values_told(row.differs),
    "rating": lambda row, _: stars(row.record.rating),
    "progress": lambda row, _: steps_told(row.record, row.steps_done),
    "tags": lambda row, _: " ".join(row.tags),
    "note": lambda row, _: row.record.note,
    "pin": lambda row, _: PIN if row.record.pinned else "",
}
# Of the app only, where another name says the same in words or a setting has it.
_OF_APP = ("symbol", "progress", "pin")
NAMES = tuple(name for name in _CELLS if name not in _OF_APP)


def columns_of(text: str) -> tuple[str, ...]:
    """The columns of `seed,guidance.scale,prompt`: NAMES, and whole keys of settings. Raises BadColumns."""
    return tuple(_column(name) for part in text.split(",") if (name := part.strip()))


def _column(name: str) -> str:
    if name in NAMES:
        return name
    near = did_you_mean(nearest(name, (*NAMES, *short_names()), cutoff=0.75), quoted=False)
    try:
        return setting(name).key
    except UnknownKey as error:
        reason = f"{name} is no column{near}" if near else str(error)
        raise BadColumns(
            f"{reason}; columns are {', '.join(NAMES)} and every key of `modiff presets show --keys`"
        ) from None


def titles(names: Sequence[str]) -> tuple[str, ...]:
    """`RUN`, `STATUS`, `GUIDANCE.SCALE`."""
    from tui.describe.runs.finding.setting_keys import short_name

    return tuple("RUN" if name == "id" else short_name(name).upper() for name in names)


def cell(row: RunRow, name: str, now_ns: int) -> str:
    """What a column of this name says of a run, as text that no terminal obeys."""
    make = _CELLS.get(name)
    if make is not None:
        return printable(make(row, now_ns))
    value = setting_of(row.record, name)
    return "" if value is None else setting_told(name, value, _MAX_CELLS)


def value(row: RunRow, name: str) -> Any:
    """The same as plain data, for JSON: the setting as it is."""
    found = setting_of(row.record, name)
    return list(found) if isinstance(found, tuple) else found


def fitting(
    names: Sequence[str],
    cells: Mapping[str, Sequence[str]],
    width: int,
    *,
    least: Sequence[str],
    min_cells: int,
) -> list[str]:
    """The columns that leave the last one at least min_cells of a table's width, or as many as can be had.

    cells: of each column. least: those that can be done without, the first of them first. Between columns are two
    cells.
    """
    kept = list(names)
    for name in least:
        if room(kept, cells, width) >= min_cells:
            break
        if name in kept:
            kept.remove(name)
    return kept


def room(names: Sequence[str], cells: Mapping[str, Sequence[str]], width: int) -> int:
    """What the other columns leave for the last one."""
    from rich.cells import cell_len

    return width - sum(max(map(cell_len, cells[name]), default=0) + 2 for name in names[:-1])
