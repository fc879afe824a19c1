"""`modiff show`: all that is known about one run, from its record, its links and its log."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from tui.cli.commands.runs import spec_of, summary, timestamp
from tui.cli.looking import store_as_it_is
from tui.cli.options import json_option, run_argument
from tui.cli.output import print_json
from tui.cli.run_of_file import resolve_run
from tui.describe import run_of_file
from tui.describe.run import points_told
from tui.text import escaped, printable
from tui.units import duration, size

if TYPE_CHECKING:
    from pathlib import Path

    from engine.output.mark import Mark
    from store.lineage.events import Event
    from store.lineage.records import RunLink, RunRecord, StageRecord
    from store.store import Store

_EPILOG = """\b
Examples:
  modiff show k3f
  modiff show k3f --json | jq '.steps[] | select(.source == "computed")'
"""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the store holds about one run. points: the steps that it can be branched at without
    computing one again."""

    record: RunRecord
    tags: tuple[str, ...]
    children: tuple[str, ...]
    stages: list[StageRecord]
    links: list[RunLink]
    events: list[Event]
    points: list[int]
    has_latents: bool

    @property
    def steps(self) -> list[RunLink]:
        return [link for link in self.links if link.stage == "step"]


@click.command(epilog=_EPILOG)
@run_argument
@json_option
def show(run: str, as_json: bool) -> None:
    """Show all that is known about one run.

    RUN is an id from `modiff runs`, the beginning of one, or a file that it wrote. Of a run that is not in this store
    the settings are told that travelled with the file.
    """
    with store_as_it_is() as store:
        try:
            known = _look_up(store, resolve_run(store, run))
        except run_of_file.RunElsewhere as elsewhere:
            if elsewhere.mark.settings is None:
                raise
            _show_file(elsewhere.path, elsewhere.mark, as_json=as_json)
            return
    if as_json:
        print_json(_details(known))
        return
    for name, value in _lines(known):
        click.echo(f"{name:<10}{value}")
    click.echo()
    click.echo(_toml(known.record), nl=False)


def _show_file(path: Path, mark: Mark, *, as_json: bool) -> None:
    from presets.library import dump_preset

    spec = run_of_file.settings_in(path)
    if as_json:
        print_json(run_of_file.as_json(path, mark))
        return
    for name, value in run_of_file.lines(path, mark):
        click.echo(f"{name:<10}{printable(value)}")
    click.echo()
    click.echo(escaped(dump_preset(spec)), nl=False)


def _look_up(store: Store, run_id: str) -> _Known:
    from engine.runs.branch_points import branch_points
    from store.blobs.blobs import is_stored

    record = store.run(run_id)
    links = store.links_of(run_id)
    return _Known(
        record=record,
        tags=store.tags_of([run_id])[run_id],
        children=tuple(child.id for child in store.children(run_id)),
        stages=store.stages(run_id),
        links=links,
        events=[event for _, event in store.events(run_id)],
        points=branch_points(store, record, [link for link in links if link.stage == "step"]),
        has_latents=is_stored(store.root, record.latents),
    )


def _details(known: _Known) -> dict[str, Any]:
    events = _event_summary(known.events)
    return {
        **summary(known.record, known.tags),
        "latents": known.record.latents or events["latents"],
        "children": list(known.children),
        "stop_at": known.record.stop_at,
        "origin": known.record.origin,
        "engine": known.record.engine,
        "stages": [
            {"name": stage.name, "seconds": round(stage.seconds, 3), "cached": stage.cached}
            for stage in known.stages
        ],
        "steps": [
            {
                "index": link.index,
                "sigma": link.sigma,
                "timestep": link.timestep,
                **_link(link),
            }
            for link in known.steps
        ],
        "links": [
            {"stage": link.stage, "index": link.index, **_link(link)}
            for link in known.links
            if link.stage != "step"
        ],
        "branch_at": [*known.points, *(["decode"] if known.has_latents else [])],
        "environment": known.record.environment,
        "events": events,
        "spec": spec_of(known.record),
    }


def _link(link: RunLink) -> dict[str, Any]:
    return {
        "key": link.key,
        "digest": link.digest,
        "latents": link.latents,
        "source": link.source,
        "seconds": round(link.seconds, 4),
    }


def _event_summary(events: list[Event]) -> dict[str, Any]:
    """What the event log says beyond the stages: counts by kind, last step, memory, latents."""
    from store.lineage.events import LatentsStored, MemorySampled, Message, StepFinished

    found: dict[str, Any] = {
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
                found["step"], found["total_steps"] = event.step, event.total
            case MemorySampled():
                for name in ("rss_bytes", "device_bytes"):
                    peak = f"peak_{name}"
                    found[peak] = max(found[peak], getattr(event, name))
            case LatentsStored():
                found["latents"] = event.digest
            case Message():
                found["messages"].append({"level": event.level, "text": event.text})
            case _:
                pass
    return found


def _lines(known: _Known) -> list[tuple[str, str]]:
    """`modiff show` for people, as (name, value); what is not known is left out."""
    record = known.record
    found = _event_summary(known.events)
    is_missing = record.status == "done" and not os.path.exists(record.output)
    lines = [
        ("run", record.id),
        ("status", record.status + _asked(record)),
        ("preset", printable(record.preset)),
        ("prompt", printable(spec_of(record).get("prompt", ""))),
        ("output", printable(record.output) + (" (no longer there)" if is_missing else "")),
        ("note", printable(record.note)),
        ("tags", ", ".join(printable(tag) for tag in known.tags)),
        ("pinned", "yes" if record.pinned else ""),
        ("from", _origin(record)),
        ("branches", ", ".join(known.children)),
        ("created", timestamp(record.created_ns) or ""),
        ("time", "" if record.seconds is None else duration(record.seconds)),
        ("engine", record.engine),
        ("stages", ", ".join(_stage(stage) for stage in known.stages)),
        ("steps", _steps(known, found)),
        ("branch at", _branch_at(known)),
        ("memory", f"at most {_memory(found)}" if found["peak_rss_bytes"] else ""),
        ("latents", record.latents or found["latents"] or ""),
        ("error", printable(record.error)),
    ]
    lines += [
        (printable(message["level"]), printable(message["text"])) for message in found["messages"]
    ]
    return [(name, value) for name, value in lines if value]


def _asked(record: RunRecord) -> str:
    if record.is_finished:
        return ""
    if record.cancel_requested:
        return " (asked to cancel)"
    return " (asked to pause)" if record.pause_requested else ""


def _origin(record: RunRecord) -> str:
    """`k3f..., from step 12 on`, and where the run came from when that was elsewhere."""
    parts = []
    if record.parent:
        step = "" if record.parent_step is None else f", after its step {record.parent_step}"
        parts.append(f"{record.parent}{step}")
    if record.origin == "import":
        parts.append("a bundle")
    return "; ".join(parts)


def _steps(known: _Known, found: dict[str, Any]) -> str:
    """`20 of 20, 12 reused and 8 computed`."""
    counts = Counter(link.source for link in known.steps)
    if not found["step"] and not counts:
        return ""
    done = found["step"] or sum(counts.values())
    total = found["total_steps"] or done
    sources = " and ".join(
        f"{counts[name]} {name}" for name in ("reused", "computed") if counts[name]
    )
    stop = known.record.stop_at
    early = "" if stop is None else f"; it was to stop at {stop}, `modiff finish` goes on"
    return f"{done} of {total}{', ' if sources else ''}{sources}{early}"


def _branch_at(known: _Known) -> str:
    """`0-12, 20, decode`: what is stored; any other step is computed again from the nearest before it."""
    if not known.steps:
        return ""
    return points_told(known.points, has_latents=known.has_latents)


def _stage(stage: StageRecord) -> str:
    return f"{printable(stage.name)} {duration(stage.seconds)}{' cached' if stage.cached else ''}"


def _memory(found: dict[str, Any]) -> str:
    device = found["peak_device_bytes"]
    return size(found["peak_rss_bytes"]) + (f", {size(device)} on the device" if device else "")


def _toml(record: RunRecord) -> str:
    import tomli_w

    return escaped(tomli_w.dumps(spec_of(record)))
