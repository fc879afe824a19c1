"""`modiff replay --verify`: the run computed again from its noise, and what came of the comparison."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from tui.cli.output import print_json, print_lines
from tui.describe.verification import verdict_lines
from tui.errors import FAILED
from tui.text import printable

if TYPE_CHECKING:
    from store.lineage.events import Verified
    from store.lineage.records import RunRecord
    from store.store import Store


def verify_run(store: Store, record: RunRecord, *, quiet: bool, as_json: bool) -> int:
    """Have the engine compute a run again, print the verdict and return the exit code: 1 where something differs."""
    verdict = _followed(store, record, shows_progress=not quiet and sys.stderr.isatty())
    data = _data(record, verdict)
    if as_json:
        print_json(data)
    else:
        first, *lines = verdict_lines(data)
        print_lines((f"run {record.id}: {first}", *(f"  {line}" for line in lines)))
    return 0 if verdict.identical else FAILED


def _followed(store: Store, record: RunRecord, *, shows_progress: bool) -> Verified:
    """The verdict. Raises ClickException where there is none."""
    from engine import client
    from engine.runs.following import follow
    from store.lineage.events import RunFinished, StepFinished, Verified

    verification = client.verify(store, record.id)
    verdict = None
    try:
        for event in follow(store, verification):
            match event:
                case StepFinished(step=done, total=total) if shows_progress:
                    click.echo(f"\r\x1b[K{done} of {total} steps", err=True, nl=done == total)
                case Verified():
                    verdict = event
                case RunFinished(status=status, error=error) if status != "done":
                    raise click.ClickException(
                        f"run {record.id} could not be verified: {printable(error or status)}"
                    )
    except KeyboardInterrupt:
        store.request_cancel(verification)
        raise
    if verdict is None:
        raise click.ClickException(f"run {record.id} could not be verified; see the engine's log")
    return verdict


def _data(record: RunRecord, verdict: Verified) -> dict[str, object]:
    return {
        "run": record.id,
        "identical": verdict.identical,
        "checked": verdict.checked,
        "first_difference": verdict.first or None,
        "relative_l2": verdict.relative_l2,
        "environment": {
            name: {"then": then, "now": now} for name, (then, now) in verdict.environment.items()
        },
    }
