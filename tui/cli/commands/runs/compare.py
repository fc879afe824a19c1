"""`modiff compare`: two runs side by side, as text, as JSON, as a video and a contact sheet."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tui.cli.bad_input import BadInput
from tui.cli.completion import complete_run
from tui.cli.looking import store_as_it_is
from tui.cli.options import json_option
from tui.cli.output import echo_path, print_json, print_lines
from tui.cli.run_of_file import resolve_run
from tui.describe.comparison import data_of, lines, value_text
from tui.text import printable

if TYPE_CHECKING:
    from engine.compare.report import Comparison
    from engine.compare.settings import Difference
    from store.store import Store

MAX_CAPTIONS = 8  # beside a row of the contact sheet


@click.command()
@click.argument("a", shell_complete=complete_run)
@click.argument("b", shell_complete=complete_run)
@json_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Also write FILE.mp4, both side by side, and FILE.png, a contact sheet; a name that ends in .png writes "
    "the sheet alone.",
)
def compare(a: str, b: str, as_json: bool, output: Path | None) -> None:
    """Compare two runs, from settings to frames.

    A and B are ids from `modiff runs`, the beginnings of them, or videos that they wrote. Latents are
    told apart by relative L2 (the norm of B - A by that of A) and cosine, frames by PSNR of RGB and
    SSIM of luma (Wang et al. 2004).
    """
    from engine.compare.report import compare as compared

    os.getcwd()  # where there is none, a library of torch ends the process without a word
    targets = _targets(output)
    with store_as_it_is() as store:
        told = compared(store, resolve_run(store, a), resolve_run(store, b))
        if targets:
            _write(store, told, targets)
    data = data_of(told)
    if as_json:
        print_json({**data, "output": [str(target) for target in targets]})
        return
    print_lines(lines(data))
    for target in targets:
        echo_path(target)


def _targets(output: Path | None) -> list[Path]:
    """The files to write; raises before anything is computed where they cannot be."""
    from engine.output.paths import folder_problem

    if output is None:
        return []
    output = output.absolute()
    if output.suffix.lower() not in (".mp4", ".png"):
        raise BadInput(printable(f"expected a name that ends in .mp4 or .png, got {output.name}"))
    is_video = output.suffix.lower() == ".mp4"
    targets = [output, output.with_suffix(".png")] if is_video else [output]
    for target in targets:
        if os.path.lexists(target):
            raise BadInput(
                printable(f"{target} is there already; name another, nothing is overwritten")
            )
    if problem := folder_problem(output):
        raise BadInput(printable(problem))
    return targets


def _write(store: Store, told: Comparison, targets: Sequence[Path]) -> None:
    from engine.compare.pictures import Clip, write_sheet, write_side_by_side
    from engine.compare.report import video_of

    a, b = (
        Clip(run.id, video_of(store, run.id), _captions(told.settings, name))
        for name, run in (("a", told.a), ("b", told.b))
    )
    fps = json.loads(told.a.spec_json)["fps"]
    for target in targets:
        if target.suffix.lower() == ".mp4":
            write_side_by_side(target, a, b, fps=fps)
        else:
            write_sheet(target, a, b, told.frames)


def _captions(settings: Sequence[Difference], name: str) -> list[str]:
    """How a run differs, for a picture: short lines first, and nothing that its font has no letters for."""
    shown = [
        f"{each.key.removeprefix('components.')}: {value_text(getattr(each, name))}"
        for each in settings
        if not each.key.startswith("output.")
    ]
    return sorted(filter(str.isascii, shown), key=len)[:MAX_CAPTIONS]
