"""`modiff sweep`: the product of varied settings, with every shared step computed once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tui.cli.following.manner import Manner, manner_options
from tui.cli.options import preset_argument, stop_at_option
from tui.cli.settings.media import check_media, check_varied
from tui.cli.settings.options import Given, settings_options
from tui.cli.settings.seeds import drawn_in
from tui.describe.runs.sweeps import MAX_UNASKED, range_lines
from tui.text import counted, printable

if TYPE_CHECKING:
    from presets.spec.run import RunSpec
    from store.store import Store

_EPILOG = """\b
Examples:
  modiff sweep micro --over seed=1..8
  modiff sweep micro --over seed=1..4 --over guidance.scale=2,4,6 --from 10
  modiff sweep micro --over seed=1..8 --stop-at 5 --sheet grid.png
  modiff sweep micro --over "seed=8 random" --stop-at 5
  modiff sweep micro --over 'prompt="a red circle","a blue star"' --output "{index}-{seed}.mp4"

Values are separated by commas: numbers, bare or quoted text, TOML values, and ranges FIRST..LAST or
FIRST..LAST..STEP, with LAST where a step meets it; of seeds also random and N random, which are
drawn and told.
Exit codes: 0 all done, 1 one failed, 2 bad input, 130 cancelled.
"""


@click.command(epilog=_EPILOG)
@preset_argument
@click.option(
    "--over",
    metavar="KEY=VALUES",
    multiple=True,
    required=True,
    help="What to vary, for example seed=1..8 or guidance.scale=4,5,6. Repeatable: all combinations are made.",
)
@click.option(
    "--from",
    "from_step",
    type=click.IntRange(min=1),
    metavar="STEP",
    help="What is varied holds from this step on, and the preset's own before; a seed always holds from 0.",
)
@stop_at_option
@settings_options
@click.option(
    "--output",
    metavar="PATTERN",
    default="",
    help="Where the videos go, in the format of its ending; {run}, {index}, {seed} and other keys in it become each "
    "run's own.  "
    "[default: modiff-{run}.mp4]",
)
@click.option(
    "--sheet",
    is_flag=False,
    flag_value="",
    metavar="[FILE]",
    help="Draw a contact sheet at the end, as `modiff sheet` does.  [default: modiff-sheet-ID.png]",
)
@click.option("--yes", "-y", is_flag=True, help=f"Queue more than {MAX_UNASKED} runs.")
@manner_options
def sweep(
    preset: str,
    over: tuple[str, ...],
    from_step: int | None,
    stop_at: int | None,
    given: Given,
    output: str,
    sheet: str | None,
    yes: bool,
    manner: Manner,
) -> int:
    """Make a run for every combination of values.

    PRESET is a name from `modiff presets list` or a path that ends in .toml. Nothing is queued before
    all runs are known to be valid. They share the tag sweep/ID, and steps that several of them have in
    common are computed once.
    """
    from engine.process.launch import retire_other_engines
    from engine.runs.sweep import count, new_tag, parse_axes, queue_member
    from presets.library.loading import load_preset
    from store.store import open_store
    from tui.cli.following.follow import Wanted
    from tui.cli.following.many import follow_many
    from tui.cli.settings.prompts import prompt_of_preset, tell, warn_of_prompts
    from tui.describe.inputs import strengths_told
    from tui.describe.runs.sweeps import checked_members

    axes = parse_axes(drawn_in(over, quiet=manner.quiet))
    if (total := count(axes)) > MAX_UNASKED and not yes:
        told = "".join(f" ({line})" for line in range_lines(axes))
        raise click.UsageError(f"this would queue {total} runs{told}; add --yes if it should")
    _refuse_set_and_varied([axis.key for axis in axes], given)

    def load(extra: Sequence[str]) -> RunSpec:
        return load_preset(preset, [*given.overrides, *extra], values=given.values)

    tag = new_tag()
    sweep_id = tag.removeprefix("sweep/")
    target = _sheet_target(sheet, sweep_id, total, detach=manner.detach)
    with open_store() as store:
        members = checked_members(
            store, axes, load, from_step=from_step, stop_at=stop_at, pattern=output
        )
        for member in members:
            check_media(given.media, given.overrides, member.spec)
            check_varied(member.values, member.spec)
        store.recover()
        retire_other_engines(store)
        if not manner.quiet:
            warn_of_prompts(member.spec for member in members)
        said = (note for each in members for note in (*each.notes, *strengths_told(each.spec)))
        own = (
            note for each in members for note in prompt_of_preset(each.spec, preset, given.prompt)
        )
        notes = tuple(dict.fromkeys((*own, *said)))
        tell(notes, quiet=manner.quiet)
        for line in range_lines(axes) if not manner.quiet else ():
            click.echo(line, err=True)
        queue = partial(queue_member, store, preset=preset, stop_at=stop_at, tag=tag)
        wanted = [Wanted(partial(queue, member), member.values) for member in members]
        note = f"{counted(total, 'run')}; modiff runs --tag {tag}"
        about = {"sweep": sweep_id, "tag": tag, **({"notes": list(notes)} if notes else {})}
        at_end = partial(_draw_sheet, store, target, tag, quiet=manner.quiet)
        return follow_many(store, wanted, manner, note=note, about=about, at_end=at_end)


def _sheet_target(sheet: str | None, sweep_id: str, total: int, *, detach: bool) -> Path | None:
    """Where the contact sheet goes; what is wrong with it is said before anything is queued."""
    from tui.cli.commands.runs.sheet import NUM_FRAMES, check_sheet_size, sheet_target

    if sheet is None:
        return None
    if detach:
        raise click.UsageError(
            f"with --detach nobody is there to draw a sheet; `modiff sheet --tag sweep/{sweep_id}` does it later"
        )
    check_sheet_size(total, NUM_FRAMES)
    return sheet_target(Path(sheet) if sheet else None, sweep_id, overwrite=False)


def _draw_sheet(
    store: Store, target: Path | None, tag: str, run_ids: Sequence[str], *, quiet: bool
) -> dict[str, object]:
    """The contact sheet at a sweep's end, or how to have one. That it cannot be written takes nothing from the
    runs, which are told of next."""
    from engine.errors import EngineError
    from tui.cli.commands.runs.sheet import NUM_FRAMES, make_sheet

    if target is None:
        if not quiet:
            click.echo(f"modiff sheet --tag {tag} shows them side by side", err=True)
        return {}
    try:
        runs = [store.run(run_id) for run_id in run_ids]
        make_sheet(store, runs, target, num_frames=NUM_FRAMES, overwrite=False)
    except EngineError as error:
        click.echo(f"modiff: no sheet was drawn: {printable(str(error))}", err=True)
        return {"sheet": None}
    if not quiet:
        click.echo(f"sheet: {printable(str(target))}", err=True)
    return {"sheet": str(target)}


def _refuse_set_and_varied(varied: Sequence[str], given: Given) -> None:
    from presets.errors import PresetError

    is_set = {*given.values, *(text.partition("=")[0].strip() for text in given.overrides)}
    for key in varied:
        if key in is_set:
            raise PresetError("is both set and varied; leave one of them out", key=key)
