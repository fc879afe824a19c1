"""`modiff plan`: what of a run is stored, what would be computed, and what that would take."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from tui.cli.looking import store_as_it_is
from tui.cli.options import json_option, preset_argument, stop_at_option
from tui.cli.output import print_json, print_lines
from tui.cli.settings.fitting import fit_option, fitting_of
from tui.cli.settings.options import Given, expand_option, output_option, settings_options
from tui.text import columns, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.fit.learned import Learned
    from engine.fit.work import Memory
    from store.store import Store

_EPILOG = """\b
Examples:
  modiff plan micro
  modiff plan wan2.1-t2v-14b --set scheduler.steps=30 --seed 7
  modiff plan micro-i2v --image examples/pictures/red-circle.png
  modiff plan micro --json
  modiff plan wan2.1-t2v-14b --memory --set components.denoiser.device=cuda
  modiff plan wan2.1-t2v-14b --fit 12
"""


@click.command(epilog=_EPILOG)
@preset_argument
@settings_options
@expand_option
@output_option
@stop_at_option
@click.option(
    "--memory",
    "with_memory",
    is_flag=True,
    help="Also what each stage takes at most, by running its code without numbers: some seconds the first time.",
)
@fit_option
@json_option
def plan(
    preset: str,
    given: Given,
    expand: bool,
    output: str | None,
    stop_at: int | None,
    with_memory: bool,
    fit: str | None,
    as_json: bool,
) -> None:
    """Tell what a run would compute, before it does.

    PRESET is a name from `modiff presets list` or a path that ends in .toml; the options are those of
    `modiff run`. Nothing is queued, loaded or written. Times are those of like runs on this machine. Where models are
    missing, the plan is an estimate, and what is to be downloaded is told. A device that is not here may be named:
    what a run would take of it is told all the same.
    """
    from msgspec import to_builtins

    from engine.fit.learned import expected
    from tui.cli.settings.prompts import prompt_of_preset, warn
    from tui.describe.models import missing
    from tui.describe.plan import memory_estimate, planned, shown
    from tui.units import size

    named = preset
    spec, preset = given.of_preset(named, expansion__enabled=expand, output__path=output)
    with store_as_it_is() as store:
        made = planned(store, spec, stop_at=stop_at, with_memory=with_memory)
        fitting = None if fit is None else fitting_of(store, spec, fit)
        known = _learned(store) if with_memory else {}
    notes = (*prompt_of_preset(spec, preset, given.prompt), *made.notes)
    if as_json:
        print_json(
            {
                "total_steps": made.total_steps,
                "stored_steps": made.stored_steps,
                "needs": list(made.needs),
                "stages": [asdict(row) for row in made.rows],
                "seconds": None if made.seconds is None else round(made.seconds, 3),
                "bytes": made.bytes,
                "memory_bytes": made.memory_bytes,
                "device_bytes": made.device_bytes,
                "peak_bytes": None if made.memory is None else made.memory.peak_bytes,
                "memory": None if made.memory is None else to_builtins(made.memory),
                "expected_bytes": None if made.memory is None else expected(made.memory, known),
                "fit": None if fitting is None else fitting.as_json(named),
                "warnings": list(made.warnings),
                "notes": list(notes),
                "is_estimate": bool(made.missing),
                "weights_bytes": dict(made.weights),
                "missing_bytes": missing.missing_bytes(made.missing),
                "models": missing.as_json(made.missing),
            }
        )
        return
    warn(made.warnings)
    for note in notes:
        click.echo(printable(note), err=True)
    rows = [(*shown(row), printable(row.on), printable(row.about)) for row in made.rows]
    for line in columns([("STAGE", "STEPS", "STATE", "TIME", "DISK", "ON", ""), *rows]):
        click.echo(line.rstrip())
    if made.memory is not None:
        _print_memory(made.memory, known)
    if fitting is not None:
        click.echo()
        for line in fitting.lines(named, given.overrides):
            click.echo(printable(line))
        if made.missing:
            return  # what is to be downloaded is told without --fit
    if made.missing:
        click.echo(
            f"\nestimated from what is published, since models are missing:\nmemory  {memory_estimate(made)}"
        )
        click.echo("        and what the work itself takes, which grows with the size of the video")
        click.echo(f"disk    {size(made.bytes)} for the steps in the store, and the video\n")
        is_of_preset = not any(
            each.lstrip("+-").startswith("components.") for each in given.overrides
        )
        print_lines(missing.lines(made.missing, preset if is_of_preset else ""))
    elif made.seconds is None:
        click.echo("no like run is on record here, so not all times are known", err=True)


def _learned(store: Store) -> dict[str, Learned]:
    from engine.fit.learned import learned
    from store.index.index import open_index

    with open_index(store.root) as index:
        return learned(index)


def _print_memory(memory: Memory, known: Mapping[str, Learned]) -> None:
    import psutil

    from engine.fit.learned import Learned, expected
    from tui.describe.memory import HEADINGS, expected_lines, margin, memory_lines, memory_rows

    click.echo()
    rows = memory_rows(memory)
    for line in columns([HEADINGS, *rows] if rows else []):
        click.echo(printable(line))
    margins = {device: margin(known.get(device, Learned())) for device in memory.largest}
    told = memory_lines(memory, psutil.virtual_memory().total)
    for line in (*told, *expected_lines(expected(memory, known), margins)):
        click.echo(printable(line))
