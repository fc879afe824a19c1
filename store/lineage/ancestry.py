"""How runs descend from each other: a branch names its parent, which may be removed by now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from store.database.database import rows
from store.lineage.runs import OF_PEOPLE, run, select

if TYPE_CHECKING:
    from store.database.database import Lineage
    from store.lineage.records import RunRecord


def children(lineage: Lineage, run_id: str) -> list[RunRecord]:
    """The runs that were branched from this one, oldest first; it may be gone itself."""
    return select(lineage, f"WHERE parent=? AND {OF_PEOPLE} ORDER BY seq", (run_id,))


def branches(lineage: Lineage) -> list[str]:
    """The ids of all runs that were branched from another, which may be gone; newest first."""
    found = rows(lineage, f"SELECT id FROM runs WHERE parent<>'' AND {OF_PEOPLE} ORDER BY seq DESC")
    return [run_id for (run_id,) in found if type(run_id) is str]


def ancestors(lineage: Lineage, run_id: str) -> list[RunRecord]:
    """What the run was branched from, nearest first, up to the first that is gone."""
    found: list[RunRecord] = []
    seen = {run_id}
    parent = run(lineage, run_id).parent
    while parent not in seen:  # an imported lineage may be a circle
        seen.add(parent)
        known = select(lineage, "WHERE id=?", (parent,))
        if not known:
            break
        found += known
        parent = found[-1].parent
    return found


def tree(lineage: Lineage, run_id: str) -> list[tuple[RunRecord, int]]:
    """The oldest known ancestor and all that descends from it, each run after its parent.

    With each how many branchings it is away from the first; siblings are oldest first.
    """
    first = [run(lineage, run_id), *ancestors(lineage, run_id)][-1]
    below: dict[str, list[RunRecord]] = {}
    for record in select(
        lineage,
        "WHERE id IN (WITH RECURSIVE below (id) AS (SELECT ? UNION "
        "SELECT runs.id FROM runs JOIN below ON runs.parent=below.id) SELECT id FROM below) "
        f"AND {OF_PEOPLE} ORDER BY seq DESC",
        (first.id,),
    ):
        if record.id != first.id:
            below.setdefault(record.parent, []).append(record)
    found: list[tuple[RunRecord, int]] = []
    waiting = [(first, 0)]
    while waiting:
        record, depth = waiting.pop()
        found.append((record, depth))
        waiting += [(child, depth + 1) for child in below.get(record.id, [])]
    return found
