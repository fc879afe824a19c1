"""`modiff tag`, `note`, `rate`, `pin` and `rm`: what people add to a run, and how they part with one."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from store.lineage.records import MAX_RATING
from tui.cli.options import json_option, run_argument, runs_argument
from tui.cli.output import print_json
from tui.cli.run_of_file import resolve_run
from tui.text import counted, printable

if TYPE_CHECKING:
    from store.lineage.records import RunRecord

_TAG_EPILOG = """\b
Examples:
  modiff tag k3f keep client/acme
  modiff tag k3f keep --remove
  modiff runs --tag keep
"""
_NOTE_EPILOG = """\b
Examples:
  modiff note k3f "the hand is right from step 12 on"
  modiff note k3f ""
"""
_RATE_EPILOG = """\b
Examples:
  modiff rate k3f 4
  modiff rate k3f 0
  modiff runs 'rating:>=4'
"""
_PIN_EPILOG = """\b
Examples:
  modiff pin k3f
  modiff pin --remove k3f
"""
_RM_EPILOG = """\b
Examples:
  modiff rm k3f q7a
  modiff rm k3f --yes
"""


@click.command(epilog=_TAG_EPILOG)
@run_argument
@click.argument("tags", metavar="TAG...", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Take the tags off instead.")
@json_option
def tag(run: str, tags: tuple[str, ...], remove: bool, as_json: bool) -> None:
    """Give a run tags, or take them off.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote. A tag has up to 64
    letters, digits and the characters . _ - /
    """
    from store.store import open_store

    with open_store() as store:
        run_id = resolve_run(store, run)
        if remove:
            store.untag(run_id, tags)
        else:
            store.tag(run_id, tags)
        left = store.tags_of([run_id])[run_id]
    if as_json:
        print_json({"run": run_id, "tags": list(left)})
        return
    told = f"has the tags {', '.join(map(printable, left))}" if left else "has no tags"
    click.echo(f"run {run_id} {told}", err=True)


@click.command(epilog=_NOTE_EPILOG)
@run_argument
@click.argument("text")
@json_option
def note(run: str, text: str, as_json: bool) -> None:
    """Write a note on a run; an empty one removes it.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote.
    """
    from store.store import open_store

    with open_store() as store:
        run_id = resolve_run(store, run)
        store.note(run_id, text)
    if as_json:
        print_json({"run": run_id, "note": text})
        return
    click.echo(f"run {run_id} {'is noted' if text else 'has no note'}", err=True)


@click.command(epilog=_RATE_EPILOG)
@run_argument
@click.argument("stars", type=click.IntRange(0, MAX_RATING))
@json_option
def rate(run: str, stars: int, as_json: bool) -> None:
    """Give a run 1 to 5 stars; 0 takes them off.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote. Stars are a matter
    of taste and keep nothing: `modiff pin` keeps a run from clean-ups.
    """
    from store.store import open_store

    with open_store() as store:
        run_id = resolve_run(store, run)
        store.rate(run_id, stars)
    if as_json:
        print_json({"run": run_id, "rating": stars})
        return
    told = f"has {counted(stars, 'star') if stars else 'no stars'}"
    click.echo(f"run {run_id} {told}", err=True)


@click.command(epilog=_PIN_EPILOG)
@run_argument
@click.option("--remove", is_flag=True, help="Unpin it instead.")
@json_option
def pin(run: str, remove: bool, as_json: bool) -> None:
    """Keep what a run made from every clean-up.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote. What it shares with
    the runs that it was branched from is kept with it.
    """
    from store.store import open_store

    with open_store() as store:
        run_id = resolve_run(store, run)
        if remove:
            store.unpin(run_id)
        else:
            store.pin(run_id)
    if as_json:
        print_json({"run": run_id, "pinned": not remove})
        return
    click.echo(f"run {run_id} is {'no longer ' if remove else ''}pinned", err=True)


@click.command(epilog=_RM_EPILOG)
@runs_argument
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def rm(run_prefixes: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove runs from the list; the files that they wrote stay.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote. What the store
    keeps of a removed run saves work until a clean-up needs room, when it is the first to go; whatever another run
    shares with it stays then too. All are removed or none: one that is queued, running or pinned is refused.
    """
    from store.store import open_store

    with open_store() as store:
        store.recover()
        run_ids = list(dict.fromkeys(resolve_run(store, prefix) for prefix in run_prefixes))
        records = [store.run(run_id) for run_id in run_ids]
        for record in records:
            if record.pinned:
                raise click.ClickException(
                    f"run {record.id} is pinned; `modiff pin --remove {record.id}` first"
                )
        num_branches = sum(
            child.id not in run_ids for run_id in run_ids for child in store.children(run_id)
        )
        if not yes:
            _ask(records)
        store.remove(run_ids)
    outputs = [record.output for record in records if os.path.exists(record.output or "")]
    if as_json:
        print_json({"removed": run_ids, "outputs": outputs, "branches": num_branches})
        return
    names = ", ".join(run_ids)
    click.echo(f"removed {'run' if len(run_ids) == 1 else 'runs'} {names}", err=True)
    for output in outputs:
        click.echo(f"{printable(output)} stays", err=True)
    if num_branches:
        told = (
            "1 branch stays whole" if num_branches == 1 else f"{num_branches} branches stay whole"
        )
        click.echo(told, err=True)
    click.echo(
        "what the store keeps of it is the first to go when `modiff store gc` needs room", err=True
    )


def _ask(records: list[RunRecord]) -> None:
    """Ask on a terminal, since elsewhere nobody can answer; raises unless the answer is yes."""
    if not sys.stdin.isatty():
        raise click.UsageError("there is nobody to ask; add --yes to remove without asking")
    for record in records:
        click.echo(f"{record.id}  {record.status}  {printable(record.preset)}", err=True)
    what = "this run" if len(records) == 1 else f"these {len(records)} runs"
    if not click.confirm(f"remove {what}?", err=True):
        raise click.ClickException("nothing was removed")
