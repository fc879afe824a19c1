"""`modiff replay --verify`: the run computed again from its noise, and what came of the comparison."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from tui.failures import FAILED
from tui.text import printable

if TYPE_CHECKING:
    from engine.pipelines.verify import Verdict
    from store.lineage.records import RunRecord
    from store.store import Store


def verify_run(store: Store, record: RunRecord, *, quiet: bool, as_json: bool) -> int:
    """Compute a run again, print the verdict and return the exit code: 1 where something differs."""
    # torch takes a second to import: only who computes pays for it
    from engine.pipelines.verify import verify

    shows_progress = not quiet and sys.stderr.isatty()

    def on_step(done: int, total: int) -> None:
        if shows_progress:
            click.echo(f"\r\x1b[K{done} of {total} steps", err=True, nl=done == total)

    verdict = verify(store, record, on_step=on_step)
    if as_json:
        click.echo(json.dumps(_data(record, verdict)))
    else:
        for line in _lines(record, verdict):
            click.echo(line)
    return 0 if verdict.identical else FAILED


def _data(record: RunRecord, verdict: Verdict) -> dict[str, object]:
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


def _lines(record: RunRecord, verdict: Verdict) -> list[str]:
    if verdict.identical:
        lines = [
            f"run {record.id} is identical: all {verdict.checked} links computed again have their bytes"
        ]
    else:
        far = "" if verdict.relative_l2 is None else f", by {verdict.relative_l2:.1e} (relative L2)"
        lines = [f"run {record.id} differs first at {verdict.first}{far}"]
    for name, (then, now) in verdict.environment.items():
        lines.append(f"  {printable(name)} was {printable(str(then))}, is {printable(str(now))}")
    if not verdict.identical and not verdict.environment:
        lines.append("  nothing differs in the environment; the code or the weights changed")
    return lines
