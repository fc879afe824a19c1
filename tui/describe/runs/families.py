"""Runs in their families: each below the one that it was branched from. Pure: runs in, rows out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tui.describe.runs.changes import branch_changes, change_told, values_within
from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.compare.settings import Difference
    from tui.describe.runs.run import RunRow

MARKS = "AB"
# that what differs may take before a prompt
_MOST_CELLS = 24


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
            changes = branch_changes(parent.record, run) if parent else ()
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


def told(relative: Relative) -> str:
    """What a branch is: `@8 guidance.scale 2.5→4`; of a first run what tells it from the others, and its prompt:
    `seed 7 · a red circle`."""
    run = relative.row.record
    if not relative.depth and relative.row.differs:
        return f"{values_within(relative.row.differs, _MOST_CELLS)} · {changes_told(relative)}"
    at = "" if run.parent_step is None or not run.parent else f"@{run.parent_step} "
    return at + changes_told(relative)


def changes_told(relative: Relative) -> str:
    """As `told`, without the step."""
    if not relative.depth:
        return printable(relative.row.prompt)
    return ", ".join(map(change_told, relative.changes)) or "the same"


def mark_of(run_id: str, marks: Sequence[str]) -> str:
    """A and B for the first two that were marked, + for others, "" for the rest."""
    if run_id not in marks:
        return ""
    place = marks.index(run_id)
    return MARKS[place] if place < len(MARKS) else "+"
