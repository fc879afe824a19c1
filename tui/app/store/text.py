"""The store as rows: by run, by kind and by age; and what its screen says when there is nothing to list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tui.app.widgets.listing import Column, Row
from tui.describe.runs.run import PIN
from tui.describe.space import AGES, LABELS
from tui.units import duration, moment, size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from store.upkeep.space import Share
    from tui.describe.space import Space

View = Literal["run", "kind", "age"]
VIEWS: tuple[View, ...] = ("run", "kind", "age")

_SHARES = (
    Column("BLOBS", 7, is_number=True),
    Column("SIZE", 10, is_number=True),
    Column("RECOMPUTE", 10, is_number=True),
)
COLUMNS: Mapping[View, tuple[Column, ...]] = {
    "run": (
        Column("RUN", 10),
        Column("ALONE", 9, is_number=True),
        Column("SHARED", 9, is_number=True),
        Column("RECOMPUTE", 9, is_number=True),
        Column("PINNED", 8),
        Column("MADE", 16, from_width=90),
        Column("PRESET", 16, from_width=110),
        Column("PROMPT", 0),
    ),
    "kind": (Column("KIND", 0), *_SHARES),
    "age": (Column("LAST USED", 0), *_SHARES),
}
EMPTY = """\
The store holds no run yet.

Compose (1) makes one. What it computes is kept here, so that nothing is computed twice;
this screen tells what that takes, and gives space back when you say so.\
"""
HINT = """\
alone: what goes with the run when it is removed; shared: what other runs use too.
p keeps a run from every clean-up. c plans a clean-up and removes nothing.
V reads everything again and says whether it is sound.\
"""


def table(space: Space, view: View) -> list[Row]:
    if view == "kind":
        return _shares(space.by_kind)
    if view == "age":
        return _shares(space.by_age)
    return [
        Row(
            share.run.id,
            (
                share.run.id,
                size(share.alone_bytes),
                size(share.shared_bytes),
                duration(share.seconds),
                f"{PIN} pinned" if share.run.is_pinned else "",
                moment(share.run.created_ns),
                share.run.preset,
                space.prompts.get(share.run.id, ""),
            ),
        )
        for share in space.by_run
    ]


def _shares(shares: Mapping[str, Share]) -> list[Row]:
    return [
        Row(
            name,
            (
                LABELS.get(name) or AGES.get(name) or name,
                str(share.num_blobs),
                size(share.num_bytes),
                duration(share.seconds),
            ),
        )
        for name, share in shares.items()
    ]


def progress(done: int, total: int, width: int = 30) -> str:
    """A line on the reading of everything."""
    if not total:
        return "reading the store again …"
    filled = width * done // total
    bar = "█" * filled + "░" * (width - filled)
    return f"reading everything again   {bar} {100 * done // total:3} %  of {size(total)}   V stops"
