"""`modiff tree`: how runs descend from each other, and what each branch changed."""

from __future__ import annotations

import json
import locale
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from presets.errors import PresetError
from tui.cli.commands.runs import spec_of
from tui.cli.completion import complete_run
from tui.cli.looking import store_as_it_is
from tui.cli.options import json_option
from tui.cli.output import print_json
from tui.cli.run_of_file import resolve_run
from tui.text import columns, printable, shorten

if TYPE_CHECKING:
    from store.lineage.records import RunRecord
    from store.store import Store

# Where a run writes and what it keeps is no difference of what it makes.
_NOT_TOLD = ("format", "output.", "keep.")
_MAX_VALUE = 40

_EPILOG = """\b
Examples:
  modiff tree
  modiff tree k3f
"""


@dataclass(frozen=True, slots=True)
class _Relative:
    """A run of a family. depth: how many branchings it is away from the first. changed: the keys
    that its parent has other values for."""

    record: RunRecord
    depth: int
    changed: dict[str, object]


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
        families = (
            _newest_families(store, limit)
            if run is None
            else [_family(store.tree(resolve_run(store, run)))]
        )
    if as_json:
        print_json([[_data(member) for member in family] for family in families])
        return
    if not families:
        click.echo("no run was branched yet; `modiff branch RUN --at STEP` makes one", err=True)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    lines = columns([row for family in families for row in _rows(family, boxes=has_boxes())])
    for line in lines:
        click.echo(shorten(line, width) if width else line)


def has_boxes() -> bool:
    """Whether stdout can show box characters: its encoding and the locale are UTF-8."""
    names = (sys.stdout.encoding or "", locale.getencoding())
    return all(name.lower().replace("-", "") == "utf8" for name in names)


def _newest_families(store: Store, limit: int) -> list[list[_Relative]]:
    found: list[list[_Relative]] = []
    seen: set[str] = set()
    for run_id in store.branches():
        if run_id not in seen:
            family = _family(store.tree(run_id))
            seen |= {member.record.id for member in family}
            found.append(family)
            if len(found) == limit:
                break
    return found


def _family(related: Sequence[tuple[RunRecord, int]]) -> list[_Relative]:
    """Each run after its parent, with what it changed."""
    records = {record.id: record for record, _ in related}
    return [
        _Relative(record, depth, _changes(records[record.parent], record) if depth else {})
        for record, depth in related
    ]


def _changes(parent: RunRecord, child: RunRecord) -> dict[str, object]:
    before, after = _flat(spec_of(parent)), _flat(spec_of(child))
    return {
        key: value
        for key, value in after.items()
        if not key.startswith(_NOT_TOLD) and (key not in before or before[key] != value)
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{name}.")
        elif value != {}:
            found[prefix + name] = value
    return found


def _rows(family: Sequence[_Relative], *, boxes: bool) -> list[tuple[str, ...]]:
    leads = _leads([member.depth for member in family], boxes=boxes)
    return [
        (lead + member.record.id, member.record.status, _step(member), _told(member))
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


def _step(member: _Relative) -> str:
    record = member.record
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


def _told(member: _Relative) -> str:
    """What a branch changed, or the prompt of a first run; a changed prompt comes last."""
    told = [f"{key}={_shown(value)}" for key, value in member.changed.items() if key != "prompt"]
    if not member.depth or "prompt" in member.changed:
        told.append(_shown(spec_of(member.record).get("prompt", "")))
    return "  ".join(told) or "the same"


def _shown(value: object) -> str:
    """A value as TOML would have it, cut to a length that leaves room for others."""
    text = json.dumps(value, ensure_ascii=False)
    return shorten(printable(text), _MAX_VALUE)


def _data(member: _Relative) -> dict[str, Any]:
    record = member.record
    return {
        "run": record.id,
        "depth": member.depth,
        "status": record.status,
        "parent": record.parent or None,
        "parent_step": record.parent_step,
        "changed": member.changed,
        "prompt": spec_of(record).get("prompt", ""),
    }
