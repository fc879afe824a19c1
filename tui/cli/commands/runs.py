"""`modiff runs` and `modiff cancel`: runs past and present, read from the store."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from tui.cli.looking import store_as_it_is
from tui.cli.options import json_option, read_by, run_argument
from tui.cli.output import print_json, waiting_line
from tui.cli.run_of_file import resolve_run
from tui.errors import FAILED
from tui.text import columns, printable, shorten
from tui.units import duration, read_since, read_until

if TYPE_CHECKING:
    from store.lineage.records import RunRecord
    from store.store import Store

STATUSES = ("queued", "running", "done", "failed", "cancelled", "interrupted", "paused")

_EPILOG = """\b
Examples:
  modiff runs --status done --since 2d
  modiff runs --text "red circle" --tag keep
  modiff runs --preset micro --since 2026-11-01 --until 2026-11-07 --json
"""


@click.command(epilog=_EPILOG)
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
    help="Only runs with this tag. Repeatable: with all of them.",
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
@json_option
def runs(
    text: str,
    tags: tuple[str, ...],
    status: str | None,
    preset: str,
    since: int | None,
    until: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """List runs, newest first."""
    with store_as_it_is() as store:
        records = store.search(
            limit=limit,
            text=text,
            tags=tags,
            status=status,
            preset=preset,
            since_ns=since,
            until_ns=until,
        )
        labels = store.tags_of([record.id for record in records])
        waiting = waiting_line(store)
    if as_json:
        print_json([summary(record, labels[record.id]) for record in records])
        return
    if waiting:
        click.echo(waiting, err=True)
    if not records:
        has_filter = bool(text or tags or preset or since is not None or until is not None)
        of_status = f" {status}" if status else ""
        line = (
            f"no{of_status} runs fit; `modiff runs` lists all"
            if has_filter
            else f"no{of_status} runs; `modiff run micro` makes one"
        )
        click.echo(line, err=True)
        return
    now = time.time_ns()
    rows = [("RUN", "STATUS", "AGE", "TIME", "PRESET", "PROMPT")]
    rows += [
        (
            record.id,
            record.status,
            _age(now - record.created_ns),
            "" if record.seconds is None else duration(record.seconds),
            printable(record.preset),
            printable(spec_of(record).get("prompt", "")),
        )
        for record in records
    ]
    # On a terminal a line is a run; in a file or a pipe nothing is cut.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in columns(rows):
        click.echo(shorten(line, width) if width else line)


@click.command()
@run_argument
@json_option
def cancel(run: str, as_json: bool) -> int:
    """Cancel a run that is queued or running.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote. A running one stops
    when its present step ends. With an engine that does not answer it stops when that answers again, or
    is ended by `modiff engine stop --force`. Exit code 1 when the run has already ended in another way.
    """
    from store.store import open_store

    with open_store() as store:
        run_id = resolve_run(store, run)
        status = store.request_cancel(run_id)
        silence = silence_of(store, run_id, status)
    if as_json:
        print_json({"run": run_id, "status": status})
    elif status == "running":
        click.echo(f"run {run_id} stops when its present step ends", err=True)
    elif status == "cancelled":
        click.echo(f"run {run_id} is cancelled", err=True)
    else:
        click.echo(f"run {run_id} is already {status}; there is nothing to cancel", err=True)
    if silence:
        click.echo(silence, err=True)
    return 0 if status in ("running", "cancelled") else FAILED


def silence_of(store: Store, run_id: str, status: str) -> str:
    """Why the engine of a run at work may not hear for now what it was just asked, and what to type; or nothing."""
    from engine.client import held_up

    return held_up(store, run_id) if status == "running" else ""


def summary(record: RunRecord, tags: Sequence[str]) -> dict[str, Any]:
    """A run as JSON; times are UTC, seconds count from the lease to the end."""
    return {
        "run": record.id,
        "status": record.status,
        "preset": record.preset,
        "prompt": spec_of(record).get("prompt", ""),
        "output": record.output,
        "error": record.error,
        "cancel_requested": record.cancel_requested,
        "parent": record.parent or None,
        "parent_step": record.parent_step,
        "tags": list(tags),
        "note": record.note,
        "pinned": record.pinned,
        "created": timestamp(record.created_ns),
        "started": timestamp(record.started_ns),
        "ended": timestamp(record.ended_ns),
        "seconds": None if record.seconds is None else round(record.seconds, 3),
    }


def spec_of(record: RunRecord) -> dict[str, Any]:
    """The stored spec as it is: also one that a newer version wrote can be shown."""
    spec: dict[str, Any] = json.loads(record.spec_json)
    return spec


def timestamp(ns: int | None) -> str | None:
    """`2026-11-01 14:30:00+00:00`."""
    return None if ns is None else datetime.fromtimestamp(ns / 1e9, UTC).isoformat(" ", "seconds")


def _age(ns: int) -> str:
    """Whole units, the largest that fits: `12 s`, `5 min`, `3 h`, `9 d`."""
    seconds = max(0, ns // 1_000_000_000)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
