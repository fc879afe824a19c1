"""Several runs that are followed together, told of in one table at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from tui.cli.following.follow import (
    Wanted,
    call,
    follow,
    result,
    reused_steps,
    tell_leaving,
    value_told,
)
from tui.cli.output import print_json, print_lines
from tui.describe.runs.following.notices import end_line
from tui.describe.runs.run import num_steps
from tui.errors import CANCELLED, FAILED
from tui.text import columns, printable
from tui.units import duration

if TYPE_CHECKING:
    from store.lineage.records import RunRecord
    from store.store import Store
    from tui.cli.following.manner import Manner


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
    extra = dict(about or {})
    followed = follow(store, wanted, manner, note=note, on_end=_tell_failed)
    run_ids, is_cancelled = followed.run_ids, followed.watched.cancel_asked
    if followed.ended_by:
        if manner.as_json:
            tell_leaving(lambda: _report(store, run_ids, wanted, extra, as_json=True))
        return 128 + followed.ended_by
    if manner.detach:
        _report(store, run_ids, wanted, extra, as_json=manner.as_json, only_ids=True)
        return 0
    if at_end is not None and not is_cancelled:
        extra |= at_end(run_ids)
    _report(store, run_ids, wanted, extra, as_json=manner.as_json)
    if manner.notify:
        call(_end_line(store, run_ids))
    if is_cancelled:
        return CANCELLED
    return 0 if all(store.run(run_id).status == "done" for run_id in run_ids) else FAILED


def _tell_failed(record: RunRecord) -> None:
    if record.error:
        click.echo(f"modiff: run {record.id} {record.status}: {printable(record.error)}", err=True)


def _end_line(store: Store, run_ids: Sequence[str]) -> str:
    statuses = [store.run(run_id).status for run_id in run_ids]
    if len(run_ids) == 1:
        return end_line(store.run(run_ids[0]))
    return f"{statuses.count('done')} of {len(run_ids)} runs are done"


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
            *(value_told(key, value) for key, value in each["values"].items()),
            store.run(each["run"]).status,
            duration(each["seconds"]),
            f"{each['reused_steps']}/{each['steps_done']}",
            printable(each["output"] or ""),
        )
        for each in found
    ]
    print_lines(columns(rows))


def _result(store: Store, run_id: str, wanted: Wanted) -> dict[str, Any]:
    record = store.run(run_id)
    reused, done = reused_steps(store, run_id)
    told = result(record, (), cancel_asked=False)
    del told["stages"]
    steps = {"steps_done": done, "total_steps": num_steps(record), "reused_steps": reused}
    return {**told, "values": dict(wanted.values), **steps}
