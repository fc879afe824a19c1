"""`modiff show`: all that is known about one run, from its record, its links and its log."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tui.cli.commands.runs.list import spec_of
from tui.cli.looking import store_as_it_is
from tui.cli.options import json_option, run_argument
from tui.cli.output import print_json
from tui.cli.run_of_file import resolve_run
from tui.describe.prompts import expansion
from tui.describe.runs import of_file as run_of_file
from tui.describe.runs.detail import COMMAND_LINE, detail, lines
from tui.describe.runs.following.state import state_of
from tui.describe.runs.run import data, run_rows, stages_data
from tui.text import escaped, printable
from tui.units import size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.output.mark import Mark
    from store.lineage.events import Event
    from store.lineage.records import RunLink, RunRecord
    from tui.describe.runs.detail import Detail
    from tui.describe.runs.run import RunRow

_EPILOG = """\b
Examples:
  modiff show k3f
  modiff show k3f --json | jq '.steps[] | select(.source == "computed")'
"""


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
            run_id = resolve_run(store, run)
        except run_of_file.RunElsewhere as elsewhere:
            if elsewhere.mark.settings is None:
                raise
            _show_file(elsewhere.path, elsewhere.mark, as_json=as_json)
            return
        known = detail(store, run_id)
        events = [event for _, event in store.events(run_id)]
        [row] = run_rows(store, [known.record])
    if as_json:
        print_json(_details(known, row, events))
        return
    told = [*_given(run, known), *lines(known, COMMAND_LINE), *_lines(known, events)]
    width = max(10, *(len(name) + 1 for name, _ in told))
    for name, value in told:
        click.echo(f"{name:<{width}}{value}")
    click.echo()
    click.echo(_toml(known.record), nl=False)


def _given(run: str, known: Detail) -> list[tuple[str, str]]:
    """The file that was asked for, where it isn't what the run wrote: a copy, or moved."""
    if not run_of_file.is_file_name(run):
        return []
    path = str(run_of_file.path_of(run))
    return [] if path == known.record.output else [("file", printable(path))]


def _show_file(path: Path, mark: Mark, *, as_json: bool) -> None:
    from presets.library.saving import dump_preset

    spec = run_of_file.settings_in(path)
    if as_json:
        print_json(run_of_file.as_json(path, mark))
        return
    for name, value in run_of_file.lines(path, mark):
        click.echo(f"{name:<10}{printable(value)}")
    click.echo()
    click.echo(escaped(dump_preset(spec)), nl=False)


def _details(known: Detail, row: RunRow, events: Sequence[Event]) -> dict[str, Any]:
    found = _event_summary(events)
    about = data(row)
    del about["differs"]  # there is none to differ from
    return {
        **about,
        "changes": dict(known.changes),
        "expansion": expansion.as_json(known.expanded),
        "inputs": dict(known.inputs),
        "latents": known.record.latents or found["latents"],
        "children": list(known.children),
        "stop_at": known.record.stop_at,
        "origin": known.record.origin,
        "engine": known.record.engine,
        "stages": stages_data(known.stages),
        "elsewhere": [
            {"component": kind, **asdict(each), "seconds": round(each.seconds, 3)}
            for kind, each in known.elsewhere.items()
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
        "events": found,
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


def _event_summary(events: Sequence[Event]) -> dict[str, Any]:
    """What the event log says beyond the stages: counts by kind, last step, memory, latents."""
    from store.lineage.events import Message

    state = state_of("", events)
    return {
        "counts": dict(Counter(type(event).__struct_config__.tag for event in events)),
        "step": state.steps_done,
        "total_steps": len(state.steps),
        "peak_rss_bytes": state.peak_rss_bytes,
        "peak_device_bytes": state.peak_device_bytes,
        "latents": state.latents or None,
        "messages": [
            {"level": event.level, "text": event.text}
            for event in events
            if isinstance(event, Message)
        ],
    }


def _lines(known: Detail, events: Sequence[Event]) -> list[tuple[str, str]]:
    """What is of no use in a list of runs: the engine, memory, digests and messages."""
    found = _event_summary(events)
    told = [
        ("engine", known.record.engine),
        ("memory", f"at most {_memory(found)}" if found["peak_rss_bytes"] else ""),
        ("latents", known.record.latents or found["latents"] or ""),
    ]
    told += [(message["level"], message["text"]) for message in found["messages"]]
    return [(printable(name), printable(value)) for name, value in told if value]


def _memory(found: dict[str, Any]) -> str:
    device = found["peak_device_bytes"]
    return size(found["peak_rss_bytes"]) + (f", {size(device)} on the device" if device else "")


def _toml(record: RunRecord) -> str:
    import tomli_w

    return escaped(tomli_w.dumps(spec_of(record)))
