"""`modiff runs` and `modiff cancel`: runs past and present, read from the store."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from store.lineage.records import STATUSES
from tui.cli.looking import store_as_it_is
from tui.cli.options import json_option, read_by, run_argument
from tui.cli.output import print_json, print_lines, waiting_line
from tui.cli.run_of_file import resolve_run
from tui.describe.runs.changes import values_within
from tui.describe.runs.finding.columns import NAMES, cell, columns_of, fitting, titles, value
from tui.describe.runs.finding.filter import Search, search_of
from tui.describe.runs.run import data, run_rows
from tui.errors import FAILED
from tui.text import columns, shorten
from tui.units import read_since, read_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from store.lineage.records import RunRecord
    from store.store import Store
    from tui.describe.runs.run import RunRow

_COLUMNS = ("id", "status", "age", "time", "preset", "rating", "differs", "prompt")
# Left out in this order where a terminal is too narrow for the prompt; and those that are there for some runs only.
_LEAST = ("time", "preset", "age", "differs", "rating")
_FOR_SOME = ("rating", "differs")
_MIN_PROMPT_CELLS = 24
_MAX_CELLS = 36  # of another column than the last one, on a terminal
_COLORS = {
    "failed": "red",
    "cancelled": "yellow",
    "interrupted": "yellow",
    "paused": "yellow",
    "running": "cyan",
}

_EPILOG = """\b
Examples:
  modiff runs star "red circle" status:done since:2d
  modiff runs 'tag:sweep/*' seed:7 'guidance.scale:>3' 'steps:<=20'
  modiff runs extensions:teacache 'threshold:>0.1' --columns id,extensions
  modiff runs 'rating:>=4' is:pinned --columns id,seed,guidance.scale,prompt
  modiff runs --preset micro --since 2026-11-01 --until 2026-11-07 --json

FILTER is a word of the prompt, note, id, preset or output, or KEY:VALUE: any setting (a key of
`modiff presets show --keys`, or its last part where no other has it) with =, <, <=, > or >= before
the value, and preset, status, tag, rating, since, until and is:pinned. Text takes * for anything.
Of extensions: extensions:NAME, extensions[0].name:NAME or an option of theirs. Quote <, > and [ for
the shell. Runs must fit all of it.
"""


@click.command(epilog=_EPILOG)
@click.argument("filters", metavar="[FILTER]...", nargs=-1)
@click.option(
    "--text",
    default="",
    metavar="TEXT",
    help="Only runs with this in their prompt, note, id, preset or output.",
)
@click.option(
    "--tag",
    "tags",
    metavar="TAG",
    multiple=True,
    help="Only runs with this tag; `sweep/*` is any that begins so. Repeatable: with all of them.",
)
@click.option("--status", type=click.Choice(STATUSES), help="Only runs of this status.")
@click.option("--preset", default="", metavar="NAME", help="Only runs of this preset.")
@click.option(
    "--since",
    callback=read_by(read_since),
    metavar="WHEN",
    help="Only runs from then on: an age (6h, 2d) or a date.",
)
@click.option(
    "--until",
    callback=read_by(read_until),
    metavar="WHEN",
    help="Only runs up to then: an age, or a date with that day.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many."
)
@click.option(
    "--columns",
    "columns_text",
    default="",
    metavar="NAMES",
    help="What to tell of each: settings and id, status, age, time, preset, prompt, differs, rating, tags, note, "
    "with commas between them.",
)
@json_option
def runs(
    filters: tuple[str, ...],
    text: str,
    tags: tuple[str, ...],
    status: str | None,
    preset: str,
    since: int | None,
    until: int | None,
    limit: int,
    columns_text: str,
    as_json: bool,
) -> None:
    """List runs, newest first.

    DIFFERS tells the settings in which the listed runs of one preset differ. In a pipe or a file nothing is cut, and a
    tab is between the columns.
    """
    search, wanted = search_of(filters), columns_of(columns_text)
    search = replace(
        search,
        words=(*search.words, *filter(None, (text,))),
        tags=(*search.tags, *tags),
        status=status or search.status,
        preset=preset or search.preset,
        since_ns=search.since_ns if since is None else since,
        until_ns=search.until_ns if until is None else until,
    )
    with store_as_it_is() as store:
        found = search.find(store, limit + 1)
        rows = run_rows(store, found[:limit])
        waiting = waiting_line(store)
    if as_json:
        print_json({"runs": [_data(row, wanted) for row in rows]})
        return
    if waiting:
        click.echo(waiting, err=True)
    if not rows:
        of_status = f" {search.status}" if search.status else ""
        line = (
            f"no{of_status} runs fit; `modiff runs` lists all"
            if replace(search, status=None) != Search()
            else f"no{of_status} runs; `modiff run micro` makes one"
        )
        click.echo(line, err=True)
        return
    # On a terminal a line is a run; in a file or a pipe nothing is cut, and tabs are between the columns.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    print_lines(table(rows, wanted, width, time.time_ns()))
    if len(found) > limit:
        click.echo(f"the newest {limit}; --limit N shows more", err=True)


def table(rows: Sequence[RunRow], wanted: Sequence[str], width: int, now_ns: int) -> list[str]:
    """A line of titles and one for each run. wanted: columns; none of them: those that say something and have
    room. width: of the terminal, 0 for none: then nothing is cut, and tabs are between the columns."""
    names = list(wanted or _COLUMNS)
    cells = {
        name: [title, *(cell(row, name, now_ns) for row in rows)]
        for name, title in zip(names, titles(names), strict=True)
    }
    if not wanted:
        names = [name for name in names if name not in _FOR_SOME or any(cells[name][1:])]
    if width:
        for name in names[:-1]:
            cells[name] = [shorten(text, _MAX_CELLS) for text in cells[name]]
            if name == "differs":
                cells[name][1:] = [values_within(row.differs, _MAX_CELLS) for row in rows]
        least = () if wanted else _LEAST
        names = fitting(names, cells, width, least=least, min_cells=_MIN_PROMPT_CELLS)
    rows_of_cells = list(zip(*(cells[name] for name in names), strict=True))
    if not width:
        return ["\t".join(row_of_cells) for row_of_cells in rows_of_cells]
    lines = columns(rows_of_cells)
    head, *told = [shorten(line, width) for line in lines]
    has_color = not os.environ.get("NO_COLOR")
    return [
        head,
        *(_colored(line, row) if has_color else line for line, row in zip(told, rows, strict=True)),
    ]


def _colored(line: str, row: RunRow) -> str:
    color = _COLORS.get(row.record.status)
    return click.style(line, fg=color) if color else line


def _data(row: RunRow, wanted: Sequence[str]) -> dict[str, Any]:
    """settings: those that were asked for as columns, by key."""
    settings = {name: value(row, name) for name in wanted if name not in NAMES}
    return {**data(row), **({"settings": settings} if settings else {})}


@click.command()
@run_argument
@json_option
def cancel(run: str, as_json: bool) -> int:
    """Cancel a run that is queued or running.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote. A running one stops
    when its present step ends. With an engine that does not answer it stops when that answers again, or
    is ended by `modiff engine stop --force`. Exit code 1 when the run has already ended in another way.
    """
    told = {"running": "stops when its present step ends", "cancelled": "is cancelled"}
    return stop(run, lambda store, run_id: store.request_cancel(run_id), "cancel", told, as_json)


def stop(
    run: str, ask: Callable[[Store, str], str], verb: str, told: Mapping[str, str], as_json: bool
) -> int:
    """Ask a run to stop; returns the exit code. ask: returns the status that it then has. told: what is said of the
    statuses that were asked for; {run} in it becomes the id."""
    from store.store import open_store

    with open_store() as store:
        run_id = resolve_run(store, run)
        status = ask(store, run_id)
        silence = _silence_of(store, run_id, status)
    if as_json:
        print_json({"run": run_id, "status": status})
    else:
        already = f"is already {status}; there is nothing to {verb}"
        click.echo(f"run {run_id} {told.get(status, already).replace('{run}', run_id)}", err=True)
    if silence:
        click.echo(silence, err=True)
    return 0 if status in told else FAILED


def _silence_of(store: Store, run_id: str, status: str) -> str:
    """Why the engine of a run at work may not hear for now what it was just asked, and what to type; or nothing."""
    from engine.runs.following import held_up

    return held_up(store, run_id) if status == "running" else ""


def spec_of(record: RunRecord) -> dict[str, Any]:
    """The stored spec as it is: also one that a newer version wrote can be shown."""
    spec: dict[str, Any] = json.loads(record.spec_json)
    return spec
