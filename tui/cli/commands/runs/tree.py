"""`modiff tree`: how runs descend from each other, and what each branch changed."""

from __future__ import annotations

import locale
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from presets.errors import PresetError
from tui.cli.completion import complete_run
from tui.cli.looking import store_as_it_is
from tui.cli.options import json_option
from tui.cli.output import print_json
from tui.cli.run_of_file import resolve_run
from tui.describe.runs.families import changes_told, families
from tui.describe.runs.run import run_rows, status_words
from tui.text import columns, shorten

if TYPE_CHECKING:
    from store.lineage.records import RunRecord
    from store.store import Store
    from tui.describe.runs.families import Relative

# What of ours is told otherwise where a terminal has only these.
_ASCII = str.maketrans({"→": "->", "–": "-", "×": "x", "…": "..."})

_EPILOG = """\b
Examples:
  modiff tree
  modiff tree k3f
"""


@click.command(epilog=_EPILOG)
@click.argument("run", required=False, shell_complete=complete_run)
@click.option(
    "--limit", type=click.IntRange(min=1), default=5, show_default=True, help="At most so many families."
)  # fmt: skip
@json_option
def tree(run: str | None, limit: int, as_json: bool) -> None:
    """Show which run was branched from which.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote: its whole family is
    shown. Without RUN the families with the newest branches are.
    """
    with store_as_it_is() as store:
        found = (
            _newest_families(store, limit)
            if run is None
            else [_family(store, resolve_run(store, run))]
        )
    if as_json:
        print_json({"families": [[_data(member) for member in family] for family in found]})
        return
    if not found:
        click.echo("no run was branched yet; `modiff branch RUN --at STEP` makes one", err=True)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    lines = columns([row for family in found for row in _rows(family, boxes=has_boxes())])
    for line in lines:
        click.echo(shorten(line, width) if width else line)


def has_boxes() -> bool:
    """Whether stdout can show box characters: its encoding and the locale are UTF-8."""
    names = (sys.stdout.encoding or "", locale.getencoding())
    return all(name.lower().replace("-", "") == "utf8" for name in names)


def _newest_families(store: Store, limit: int) -> list[list[Relative]]:
    found: list[list[Relative]] = []
    seen: set[str] = set()
    for run_id in store.branches():
        if run_id not in seen:
            family = _family(store, run_id)
            seen |= {member.row.record.id for member in family}
            found.append(family)
            if len(found) == limit:
                break
    return found


def _family(store: Store, run_id: str) -> list[Relative]:
    """Each run after its parent, with what it changed."""
    return families(run_rows(store, [record for record, _ in store.tree(run_id)]))


def _rows(family: Sequence[Relative], *, boxes: bool) -> list[tuple[str, ...]]:
    leads = _leads([member.depth for member in family], boxes=boxes)
    return [
        (
            lead + member.row.record.id,
            status_words(member.row.record),
            _step(member),
            changes_told(member) if boxes else changes_told(member).translate(_ASCII),
        )
        for lead, member in zip(leads, family, strict=True)
    ]


def _leads(depths: Sequence[int], *, boxes: bool) -> list[str]:
    """What is drawn before each member of a family, from these depths in the order of its lines."""
    last, more, through = ("└─ ", "├─ ", "│  ") if boxes else ("`- ", "|- ", "|  ")
    leads = []
    below: set[int] = set()  # depths at which a sibling follows
    for depth in reversed(depths):
        bars = "".join(through if level in below else "   " for level in range(1, depth))
        leads.append(bars + (more if depth in below else last) if depth else "")
        below = {level for level in below if level < depth} | {depth}
    return leads[::-1]


def _step(member: Relative) -> str:
    record = member.row.record
    step = "" if record.parent_step is None else f"at {_branch_point(record)}"
    if record.parent and not member.depth:
        return f"{step} of {record.parent}, which was removed".strip()
    return step


def _branch_point(record: RunRecord) -> int | str | None:
    """As `modiff branch --at` takes it: who shares all of its steps decodes them anew."""
    from engine.tasks.route import route_of_run

    step = record.parent_step
    try:
        end = route_of_run(record).num_steps if record.stop_at is None else record.stop_at
    except PresetError:  # a spec of a newer version
        return step
    return "decode" if step is not None and step >= end else step


def _data(member: Relative) -> dict[str, Any]:
    record = member.row.record
    return {
        "run": record.id,
        "depth": member.depth,
        "status": record.status,
        "rating": record.rating,
        "parent": record.parent or None,
        "parent_step": record.parent_step,
        "changed": {change.key: change.b for change in member.changes},
        "prompt": member.row.prompt,
    }
