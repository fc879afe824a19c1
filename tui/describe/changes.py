"""How runs descend from each other, as rows: families in order, each run below the one that it was branched from.

Pure: runs in, rows out. What a branch changed is told by the two specs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from engine.compare.settings import Difference
from presets.settings import Settings, flatten
from tui.describe.guidance import scale_told
from tui.text import printable, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from store.lineage.records import RunRecord
    from tui.describe.run import RunRow

# Where a run writes and what it keeps is no difference of what it makes.
_NOT_TOLD = ("format", "output.", "keep.")
_MAX_VALUE = 16
MARKS = "AB"


@dataclass(frozen=True, slots=True)
class Relative:
    """A run in its family. depth: branchings between it and the first that is shown. fits: False for one that is
    there only because a branch of it is. changes: against its parent, where that is shown."""

    row: RunRow
    depth: int
    fits: bool
    changes: tuple[Difference, ...]


def families(rows: Sequence[RunRow], ancestors: Sequence[RunRow] = ()) -> list[Relative]:
    """Every run once, each right after its parent and that one's earlier branches; the family of the first of
    `rows` first.

    rows: the runs that fit, newest first. ancestors: others that these descend from; one whose parent is in neither
    begins a family of its own.
    """
    known = {row.record.id: row for row in (*rows, *ancestors)}
    fitting = {row.record.id for row in rows}
    children: dict[str, list[RunRow]] = {}
    for row in sorted(known.values(), key=lambda row: (row.record.created_ns, row.record.id)):
        if row.record.parent in known:
            children.setdefault(row.record.parent, []).append(row)
    found: list[Relative] = []
    seen: set[str] = set()
    for row in rows:
        if row.record.id in seen:
            continue
        waiting = [(_first_of(row, known), 0)]
        while waiting:
            member, depth = waiting.pop()
            run = member.record
            if run.id in seen:
                continue
            seen.add(run.id)
            parent = known.get(run.parent) if depth else None
            changes = _changes(parent.record, run) if parent else ()
            found.append(Relative(member, depth, run.id in fitting, changes))
            waiting += [(child, depth + 1) for child in reversed(children.get(run.id, []))]
    return found


def _first_of(row: RunRow, known: Mapping[str, RunRow]) -> RunRow:
    """The farthest ancestor that is known."""
    passed = {row.record.id}
    while (parent := known.get(row.record.parent)) is not None and parent.record.id not in passed:
        passed.add(
            parent.record.id
        )  # a run is no ancestor of its own, but a damaged store may say so
        row = parent
    return row


def _changes(parent: RunRecord, child: RunRecord) -> tuple[Difference, ...]:
    """Against the parent's last part, which a branch is made from; specs are stored with every default."""
    before, after = _settings(parent.spec_json), _settings(child.spec_json)
    return tuple(
        Difference(key, before.get(key), after.get(key))
        for key in dict.fromkeys((*after, *before))
        if not key.startswith(_NOT_TOLD) and before.get(key) != after.get(key)
    )


@lru_cache(maxsize=2048)
def _settings(spec_json: bytes) -> Settings:
    """Cached: the list of runs asks for the same ones again and again."""
    spec = json.loads(spec_json)
    guidance = spec.get("guidance")
    if isinstance(guidance, dict) and isinstance(scale := guidance.get("scale"), list):
        guidance["scale"] = tuple(scale)  # one value, which `flatten` leaves whole
    extensions = spec.get("extensions")
    for extension in extensions if isinstance(extensions, list) else ():
        if isinstance(extension, dict):  # a run of before they could be off does not say it
            extension.setdefault("enabled", True)
    return flatten(spec)


def told(relative: Relative) -> str:
    """What a branch is: `@8 guidance.scale 2.5→4`; of a first run its prompt."""
    run = relative.row.record
    at = "" if run.parent_step is None or not run.parent else f"@{run.parent_step} "
    if not relative.depth:
        return at + printable(relative.row.prompt)
    return at + (", ".join(map(change_told, relative.changes)) or "the same")


def change_told(change: Difference) -> str:
    """`guidance.scale 2.5→4`, and `prompt "a small…"` for texts, which do not fit twice."""
    key = change.key.removeprefix("components.")
    if key.endswith("prompt"):
        return f"{key} {shown(change.b, 2 * _MAX_VALUE)}"
    return f"{key} {_side(change.a)}→{_side(change.b)}"


def _side(value: object) -> str:
    return shorten(scale_told(value), _MAX_VALUE) if isinstance(value, tuple) else shown(value)


def shown(value: object, width: int = _MAX_VALUE) -> str:
    """A value as TOML has it, names without quotes; cut to `width` cells."""
    if value is None:
        return "–"
    is_name = isinstance(value, str) and value and not any(map(str.isspace, value))
    text = str(value) if is_name else json.dumps(value, ensure_ascii=False)
    return shorten(printable(text), width)


def mark_of(run_id: str, marks: Sequence[str]) -> str:
    """A and B for the first two that were marked, + for others, "" for the rest."""
    if run_id not in marks:
        return ""
    place = marks.index(run_id)
    return MARKS[place] if place < len(MARKS) else "+"
