"""`modiff sheet`: a contact sheet of runs, to choose among them at a glance."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tui.cli.bad_input import BadInput
from tui.cli.completion import complete_run
from tui.cli.looking import store_as_it_is
from tui.cli.output import echo_path, print_json
from tui.cli.run_of_file import resolve_run
from tui.describe.runs.changes import values_told, varying_in
from tui.describe.runs.run import steps_told
from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.lineage.records import RunRecord
    from store.store import Store

NUM_FRAMES = 4
_SWEEP_TAG = re.compile(r"sweep/([a-z0-9]+)")

_EPILOG = """\b
Examples:
  modiff sheet --tag sweep/k3fq7a2mzd -o grid.png
  modiff sheet k3f q7a cat.mp4 --frames 8
  modiff sheet --filter "star preset:micro since:2d" --frames 1 -o stars.webp
"""


@click.command(epilog=_EPILOG)
@click.argument("run_prefixes", metavar="[RUN]...", nargs=-1, shell_complete=complete_run)
@click.option(
    "--tag", "tags", metavar="TAG", multiple=True, help="All runs with this tag. Repeatable: with all of them."
)  # fmt: skip
@click.option(
    "--filter", "line", metavar="LINE", default="",
    help="All runs that fit a filter of the app's Runs screen: words, preset:, status:, tag:, since:, until:, pinned.",
)  # fmt: skip
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), metavar="FILE",
    help="Ends in .png, .jpg or .webp.  [default: modiff-sheet-ID.png]",
)  # fmt: skip
@click.option(
    "--frames", "num_frames", type=click.IntRange(1, 16), default=NUM_FRAMES, show_default=True,
    help="How many frames of each, evenly spread; 1 is the middle one.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace a file that is already there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sheet(
    run_prefixes: tuple[str, ...],
    tags: tuple[str, ...],
    line: str,
    output: Path | None,
    num_frames: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Draw a contact sheet of runs.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote. Each run has a tile
    with some of its frames under what tells it from the others. A run without a video shows the preview
    of its last step.
    """
    if bool(run_prefixes) == bool(tags or line):
        raise click.UsageError("name the runs, or say which by --tag or --filter")
    with store_as_it_is() as store:
        runs = (
            [store.run(run_id) for run_id in _ids(store, run_prefixes)]
            if run_prefixes
            else _found(store, tags, line)
        )
        if not runs:
            raise BadInput("no run fits; `modiff runs` lists all")
        target = sheet_target(output, _name(tags, runs), overwrite=overwrite)
        made = make_sheet(store, runs, target, num_frames=num_frames, overwrite=overwrite)
    for each in made["runs"]:
        if each["problem"]:
            click.echo(printable(each["problem"]), err=True)
    if as_json:
        print_json(made)
    else:
        echo_path(target)


def sheet_target(output: Path | None, name: str, *, overwrite: bool) -> Path:
    """Where a sheet goes, by default named after `name`. Raises BadInput where there can be none."""
    from engine.compare.sheet import FORMATS
    from engine.output.paths import folder_problem

    target = (output or Path(f"modiff-sheet-{name}.png")).absolute()
    if target.suffix.lower() not in FORMATS:
        endings = ", ".join(FORMATS)
        raise BadInput(printable(f"expected a name that ends in {endings}, got {target.name}"))
    if os.path.isdir(target):
        raise BadInput(printable(f"{target} is a folder; name a file in it"))
    if os.path.lexists(target) and not overwrite:
        raise BadInput(
            printable(f"{target} is already there; choose another name or add --overwrite")
        )
    if problem := folder_problem(target):
        raise BadInput(printable(problem))
    return target


def check_sheet_size(num_runs: int, num_frames: int) -> None:
    """Raises BadInput, which names the limit, where there would be too much on a sheet."""
    from engine.compare.sheet import check_size
    from engine.errors import EngineError

    try:
        check_size(num_runs, num_frames)
    except EngineError as error:
        raise BadInput(str(error)) from None


def make_sheet(
    store: Store, runs: Sequence[RunRecord], target: Path, *, num_frames: int, overwrite: bool
) -> dict[str, Any]:
    """Draw the sheet; what it shows, as `modiff sheet --json` tells it. Raises BadInput where it would be too large,
    EngineError where it cannot be written."""
    from engine.compare.sheet import tile_of, write_sheet
    from store.index.index import open_index

    check_sheet_size(len(runs), num_frames)
    values = varying_in([run.spec_json for run in runs])
    labels = [values_told(each) or run.id for run, each in zip(runs, values, strict=True)]
    with open_index(store.root) as index:
        tiles = [
            tile_of(
                store, index, run, title=title, line=_line(run, title), num_frames=num_frames
            )
            for run, title in zip(runs, labels, strict=True)
        ]  # fmt: skip
    columns = write_sheet(target, tiles, num_frames=num_frames, replaces=overwrite)
    return {
        "output": str(target),
        "columns": columns,
        "frames": num_frames,
        "varying": list(values[0]),
        "runs": [
            {
                "run": run.id,
                "values": each,
                "shows": tile.source or None,
                "problem": tile.problem or None,
            }
            for run, each, tile in zip(runs, values, tiles, strict=True)
        ],
    }


def _ids(store: Store, prefixes: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(resolve_run(store, prefix) for prefix in prefixes))


def _found(store: Store, tags: Sequence[str], line: str) -> list[RunRecord]:
    """The oldest first, as they were queued."""
    from engine.compare.sheet import MAX_PICTURES
    from tui.describe.runs.finding.filter import BadSearch, search_of

    try:
        search = search_of(shlex.split(line))
    except ValueError as error:
        raise BadInput(f"--filter {line}: {error}") from None
    except BadSearch as error:
        raise BadInput(printable(str(error))) from None
    search = replace(search, tags=(*search.tags, *tags))
    return search.find(store, MAX_PICTURES + 1)[::-1]


def _name(tags: Sequence[str], runs: Sequence[RunRecord]) -> str:
    """The sweep's id, else that of the first run."""
    of_sweep = _SWEEP_TAG.fullmatch(tags[0]) if len(tags) == 1 else None
    return of_sweep[1] if of_sweep else runs[0].id


def _line(run: RunRecord, title: str) -> str:
    told = f"{run.status} {steps_told(run)}".rstrip()
    return told if title == run.id else f"{run.id}  {told}"
