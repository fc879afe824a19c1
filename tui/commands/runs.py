"""`modiff runs`, `modiff show` and `modiff cancel`: runs past and present, read from the store."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tui.completion import complete_run
from tui.failures import FAILED
from tui.text import columns, duration, escaped, printable, shorten, size
from tui.waiting import waiting_line

if TYPE_CHECKING:
    from store.events import Event
    from store.records import RunRecord, StageRecord

STATUSES = ("queued", "running", "done", "failed", "cancelled", "interrupted")

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_run = click.argument("run", shell_complete=complete_run)


@click.command()
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many."
)
@click.option("--status", type=click.Choice(STATUSES), help="Only runs of this status.")
@_json
def runs(limit: int, status: str | None, as_json: bool) -> None:
    """List runs, newest first."""
    from store.store import open_store

    with open_store() as store:
        store.recover()  # a run whose engine was killed must not be listed as running
        records = store.runs(limit=limit, status=status)
        waiting = waiting_line(store)
    if as_json:
        _print_json([_summary(record) for record in records])
        return
    if waiting:
        click.echo(waiting, err=True)
    if not records:
        of_status = f" {status}" if status else ""
        click.echo(f"no{of_status} runs; `modiff run micro` makes one", err=True)
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
            printable(_spec(record).get("prompt", "")),
        )
        for record in records
    ]
    # On a terminal a line is a run; in a file or a pipe nothing is cut.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in columns(rows):
        click.echo(shorten(line, width) if width else line)


@click.command()
@_run
@_json
def show(run: str, as_json: bool) -> None:
    """Show all that is known about one run.

    RUN is an id from `modiff runs`, or the beginning of one.
    """
    from store.store import open_store

    with open_store() as store:
        store.recover()
        run_id = store.resolve(run)
        record = store.run(run_id)
        stages = store.stages(run_id)
        events = [event for _, event in store.events(run_id)]
    if as_json:
        _print_json(_details(record, stages, events))
        return
    for name, value in _lines(record, stages, events):
        click.echo(f"{name:<10}{value}")
    click.echo()
    click.echo(_toml(record), nl=False)


@click.command()
@_run
@_json
def cancel(run: str, as_json: bool) -> int:
    """Cancel a run that is queued or running.

    RUN is an id from `modiff runs`, or the beginning of one. A running one stops when its present
    step ends. Exit code 1 when the run has already ended in another way.
    """
    from store.store import open_store

    with open_store() as store:
        run_id = store.resolve(run)
        status = store.request_cancel(run_id)
    if as_json:
        _print_json({"run": run_id, "status": status})
    elif status == "running":
        click.echo(f"run {run_id} stops when its present step ends", err=True)
    elif status == "cancelled":
        click.echo(f"run {run_id} is cancelled", err=True)
    else:
        click.echo(f"run {run_id} is already {status}; there is nothing to cancel", err=True)
    return 0 if status in ("running", "cancelled") else FAILED


def _summary(record: RunRecord) -> dict[str, Any]:
    """A run as JSON; times are UTC, seconds count from the lease to the end."""
    return {
        "run": record.id,
        "status": record.status,
        "preset": record.preset,
        "prompt": _spec(record).get("prompt", ""),
        "output": record.output,
        "error": record.error,
        "cancel_requested": record.cancel_requested,
        "created": _timestamp(record.created_ns),
        "started": _timestamp(record.started_ns),
        "ended": _timestamp(record.ended_ns),
        "seconds": None if record.seconds is None else round(record.seconds, 3),
    }


def _details(record: RunRecord, stages: list[StageRecord], events: list[Event]) -> dict[str, Any]:
    return {
        **_summary(record),
        "engine": record.engine,
        "stages": [
            {"name": stage.name, "seconds": round(stage.seconds, 3), "cached": stage.cached}
            for stage in stages
        ],
        "events": _event_summary(events),
        "spec": _spec(record),
    }


def _event_summary(events: list[Event]) -> dict[str, Any]:
    """What the event log says beyond the stages: counts by kind, last step, memory, latents."""
    from store.events import LatentsStored, MemorySampled, Message, StepFinished

    summary: dict[str, Any] = {
        "counts": dict(Counter(type(event).__struct_config__.tag for event in events)),
        "step": 0,
        "total_steps": 0,
        "peak_rss_bytes": 0,
        "peak_device_bytes": 0,
        "latents": None,
        "messages": [],
    }
    for event in events:
        match event:
            case StepFinished():
                summary["step"], summary["total_steps"] = event.step, event.total
            case MemorySampled():
                for name in ("rss_bytes", "device_bytes"):
                    peak = f"peak_{name}"
                    summary[peak] = max(summary[peak], getattr(event, name))
            case LatentsStored():
                summary["latents"] = event.digest
            case Message():
                summary["messages"].append({"level": event.level, "text": event.text})
            case _:
                pass
    return summary


def _lines(
    record: RunRecord, stages: list[StageRecord], events: list[Event]
) -> list[tuple[str, str]]:
    """`modiff show` for people, as (name, value); what is not known is left out."""
    summary = _event_summary(events)
    is_missing = record.status == "done" and not Path(record.output).exists()
    flag = " (asked to cancel)" if record.cancel_requested and not record.is_finished else ""
    lines = [
        ("run", record.id),
        ("status", record.status + flag),
        ("preset", printable(record.preset)),
        ("prompt", printable(_spec(record).get("prompt", ""))),
        ("output", printable(record.output) + (" (no longer there)" if is_missing else "")),
        ("created", _timestamp(record.created_ns) or ""),
        ("time", "" if record.seconds is None else duration(record.seconds)),
        ("engine", record.engine),
        ("stages", ", ".join(_stage(stage) for stage in stages)),
        ("steps", f"{summary['step']} of {summary['total_steps']}" if summary["step"] else ""),
        ("memory", f"at most {_memory(summary)}" if summary["peak_rss_bytes"] else ""),
        ("latents", summary["latents"] or ""),
        ("error", printable(record.error)),
    ]
    lines += [
        (printable(message["level"]), printable(message["text"])) for message in summary["messages"]
    ]
    return [(name, value) for name, value in lines if value]


def _stage(stage: StageRecord) -> str:
    return f"{printable(stage.name)} {duration(stage.seconds)}{' cached' if stage.cached else ''}"


def _memory(summary: dict[str, Any]) -> str:
    device = summary["peak_device_bytes"]
    return size(summary["peak_rss_bytes"]) + (f", {size(device)} on the device" if device else "")


def _spec(record: RunRecord) -> dict[str, Any]:
    """The stored spec as it is: also one that a newer version wrote can be shown."""
    spec: dict[str, Any] = json.loads(record.spec_json)
    return spec


def _toml(record: RunRecord) -> str:
    import tomli_w

    return escaped(tomli_w.dumps(_spec(record)))


def _timestamp(ns: int | None) -> str | None:
    return None if ns is None else datetime.fromtimestamp(ns / 1e9, UTC).isoformat(" ", "seconds")


def _age(ns: int) -> str:
    """Whole units, the largest that fits: `12 s`, `5 min`, `3 h`, `9 d`."""
    seconds = max(0, ns // 1_000_000_000)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _print_json(data: object) -> None:
    click.echo(json.dumps(data, indent=2))
