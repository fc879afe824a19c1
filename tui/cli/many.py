"""Several runs queued at once, followed one after another, and told of in one table at the end.

All of them are queued or none. A run that fails does not keep the others from being made; Ctrl-C
cancels all that are left at once, and waits for the engine's word on the one that runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from tui.cli.follow import Manner, call, have_engine, reused_steps, watch_run
from tui.cli.output import close_output, print_json
from tui.describe.runs.notices import end_line
from tui.errors import CANCELLED, FAILED
from tui.text import columns, printable, shorten
from tui.units import duration

if TYPE_CHECKING:
    from store.store import Store
    from tui.cli.watch import Signals

_MAX_VALUE = 40


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run to be queued: `queue` does it and returns its id. values: what tells it from the others."""

    queue: Callable[[], str]
    values: Mapping[str, object] = field(default_factory=dict)


def follow_many(
    store: Store,
    wanted: Sequence[Wanted],
    manner: Manner,
    *,
    note: str = "",
    about: Mapping[str, object] | None = None,
    at_end: Callable[[Sequence[str]], Mapping[str, object]] | None = None,
) -> int:
    """Queue the runs, follow them to their ends and tell how each did; returns the exit code.

    note: a line of narration once all are queued. about: goes into the JSON object beside the runs. at_end: called
    with the ids once all have ended and none was cancelled from here; what it returns goes into that object too.
    """
    from tui.cli.watch import Signals

    about = about or {}
    with Signals() as signals:
        run_ids = _queue_all(store, wanted, signals)
        if note and not manner.quiet:
            click.echo(note, err=True)
        if manner.detach:
            have_engine(store, *run_ids)
            _report(store, run_ids, wanted, about, as_json=manner.as_json, only_ids=True)
            return 0
        try:
            is_cancelled = _watch_all(store, run_ids, wanted, signals, quiet=manner.quiet)
        except OSError:
            if not signals.ended_by:
                raise
            close_output()  # the terminal that hung up takes no more
            is_cancelled = False
        if signals.ended_by:
            _part(store, run_ids, quiet=manner.quiet)
            return 128 + signals.ended_by
    if at_end is not None and not is_cancelled:
        about = {**about, **at_end(run_ids)}
    _report(store, run_ids, wanted, about, as_json=manner.as_json)
    if manner.notify:
        call(_end_line(store, run_ids))
    if is_cancelled:
        return CANCELLED
    return 0 if all(store.run(run_id).status == "done" for run_id in run_ids) else FAILED


def _end_line(store: Store, run_ids: Sequence[str]) -> str:
    statuses = [store.run(run_id).status for run_id in run_ids]
    if len(run_ids) == 1:
        return end_line(store.run(run_ids[0]))
    return f"{statuses.count('done')} of {len(run_ids)} runs are done"


def _queue_all(store: Store, wanted: Sequence[Wanted], signals: Signals) -> list[str]:
    run_ids: list[str] = []
    try:
        for each in wanted:
            run_ids.append(each.queue())
            if signals.interrupts or signals.ended_by:
                raise click.Abort
    except BaseException:
        _cancel(store, run_ids)
        raise
    return run_ids


def _watch_all(
    store: Store,
    run_ids: Sequence[str],
    wanted: Sequence[Wanted],
    signals: Signals,
    *,
    quiet: bool,
) -> bool:
    """Follow each run in turn; returns whether they were cancelled from here."""
    from engine.errors import EngineUnavailable
    from store.errors import StoreError

    for number, (run_id, each) in enumerate(zip(run_ids, wanted, strict=True)):
        values = ", ".join(f"{key}={_shown(value)}" for key, value in each.values.items())
        title = f"run {run_id} ({number + 1} of {len(run_ids)}){': ' if values else ''}{values}"
        try:
            left = run_ids[number + 1 :]
            watched = watch_run(store, run_id, signals, quiet=quiet, title=title, cancel_too=left)
        except (EngineUnavailable, StoreError):
            _cancel(store, run_ids[number:])
            raise
        if signals.ended_by:
            return False
        if watched.cancel_asked:
            _await_running(store, left, signals, quiet=quiet)
            return True
        record = store.run(run_id)
        if record.error:
            click.echo(f"modiff: run {run_id} {record.status}: {printable(record.error)}", err=True)
    return False


def _await_running(store: Store, run_ids: Sequence[str], signals: Signals, *, quiet: bool) -> None:
    """Wait for the end of one of these that the engine took up before it could be cancelled in the queue."""
    for run_id in run_ids:
        if signals.interrupts > 1 or signals.ended_by:
            return
        if not store.run(run_id).is_finished:
            watch_run(store, run_id, signals, quiet=quiet)


def _part(store: Store, run_ids: Sequence[str], *, quiet: bool) -> None:
    """Leave, as a signal asked, runs that go on: see that an engine has them, and say so."""
    left = [run_id for run_id in run_ids if not store.run(run_id).is_finished]
    if not left:
        return
    have_engine(store, *left)
    with suppress(OSError):  # the terminal that hung up can be told nothing
        if not quiet:
            count = "1 run goes" if len(left) == 1 else f"{len(left)} runs go"
            click.echo(f"{count} on; `modiff runs` tells how", err=True)


def _cancel(store: Store, run_ids: Sequence[str]) -> None:
    from store.errors import StoreError

    with suppress(StoreError):  # what led here is the thing to tell
        store.request_cancel_all(run_ids)


def _report(
    store: Store,
    run_ids: Sequence[str],
    wanted: Sequence[Wanted],
    about: Mapping[str, object],
    *,
    as_json: bool,
    only_ids: bool = False,
) -> None:
    """The end of stdout: a table, the ids alone, or one JSON object."""
    found = [_result(store, run_id, each) for run_id, each in zip(run_ids, wanted, strict=True)]
    if as_json:
        print_json({**about, "runs": found})
        return
    if only_ids:
        for run_id in run_ids:
            click.echo(run_id)
        return
    keys = list(wanted[0].values)
    rows = [("RUN", *(key.upper() for key in keys), "STATUS", "TIME", "REUSED", "OUTPUT")]
    rows += [
        (
            each["run"],
            *(_shown(value) for value in each["values"].values()),
            each["status"],
            duration(each["seconds"]),
            f"{each['reused_steps']}/{each['steps']}",
            printable(each["output"] or ""),
        )
        for each in found
    ]
    for line in columns(rows):
        click.echo(line)


def _result(store: Store, run_id: str, wanted: Wanted) -> dict[str, Any]:
    record = store.run(run_id)
    reused, total = reused_steps(store, run_id)
    return {
        "run": run_id,
        "values": dict(wanted.values),
        "status": record.status,
        "seconds": round(record.seconds or 0.0, 3),
        "steps": total,
        "reused_steps": reused,
        "output": record.output if record.status == "done" else None,
        "error": record.error,
    }


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return shorten(printable(text), _MAX_VALUE)
