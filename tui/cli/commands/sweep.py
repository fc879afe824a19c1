"""`modiff sweep`: the product of varied settings, with every shared step computed once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from tui.cli.options import (
    named_values,
    overwrite_option,
    preset_argument,
    prompt_options,
    quiet_option,
    result_json_option,
    set_option,
)
from tui.cli.output import Invocation
from tui.cli.seeds import drawn_in, drawn_seed

if TYPE_CHECKING:
    from engine.runs.sweep import Member
    from presets.spec import RunSpec
    from store.store import Store

# More is asked about with --yes: at a minute each, a thousand runs are most of a day.
MAX_UNASKED = 1000

_EPILOG = """\b
Examples:
  modiff sweep micro --over seed=1..8
  modiff sweep micro --over seed=1..4 --over guidance.scale=2,4,6 --from 10
  modiff sweep micro --over seed=1..8 --stop-at 5
  modiff sweep micro --over 'prompt="a red circle","a blue star"' --output "{index}-{seed}.mp4"

Values are separated by commas: numbers, bare or quoted text, TOML values, and ranges a..b or
a..b..step that include their ends. Exit codes: 0 all done, 1 one failed, 2 bad input, 130 cancelled.
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
@click.option(
    "--stop-at",
    type=click.IntRange(min=1),
    metavar="STEP",
    help="Do only so many steps of each; `modiff finish` goes on with the good ones.",
)
@prompt_options
@set_option
@click.option(
    "--output",
    metavar="PATTERN",
    default="",
    help="Where the videos go, in the format of its ending; {run}, {index}, {seed} and other keys in it become each "
    "run's own.  "
    "[default: modiff-{run}.mp4]",
)
@overwrite_option
@click.option("--yes", "-y", is_flag=True, help=f"Queue more than {MAX_UNASKED} runs.")
@click.option("--detach", is_flag=True, help="Print the ids of the runs and leave them running.")
@quiet_option
@result_json_option
@click.pass_obj
def sweep(
    invocation: Invocation,
    preset: str,
    over: tuple[str, ...],
    from_step: int | None,
    stop_at: int | None,
    prompt: str | None,
    negative_prompt: str | None,
    seed: int | str | None,
    overrides: tuple[str, ...],
    output: str,
    overwrite: bool,
    yes: bool,
    detach: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Make a run for every combination of values.

    PRESET is a name from `modiff presets list` or a path that ends in .toml. Nothing is queued before
    all runs are known to be valid. They share the tag sweep/ID, and steps that several of them have in
    common are computed once.
    """
    from engine import client
    from engine.output.taken import check_output
    from engine.process.launch import retire_other_engines
    from engine.runs.sweep import count, make_members, parse_axes, with_outputs
    from presets.library import load_preset
    from store.lineage.queue import new_id
    from store.store import open_store
    from tui.cli.follow import Manner
    from tui.cli.many import Wanted, follow_many
    from tui.cli.prompts import warn_of_prompts

    axes = parse_axes(drawn_in(over, quiet=quiet))
    overrides = drawn_in(overrides, quiet=quiet)
    if (total := count(axes)) > MAX_UNASKED and not yes:
        raise click.UsageError(f"this would queue {total} runs; add --yes if it should")
    values = named_values(
        prompt=prompt,
        negative_prompt=negative_prompt,
        seed=drawn_seed(seed, quiet=quiet),
        output__overwrite=overwrite,
    )
    _refuse_set_and_varied([axis.key for axis in axes], values, overrides)

    def load(extra: Sequence[str]) -> RunSpec:
        return load_preset(preset, [*overrides, *extra], values=values)

    sweep_id = new_id()
    tag = f"sweep/{sweep_id}"
    with open_store() as store:
        check = partial(client.check, store)
        members = make_members(axes, load, check, from_step=from_step, stop_at=stop_at)
        members = with_outputs(members, output)
        store.recover()
        retire_other_engines(store)
        for member in members:
            check_output(store, member.spec)
        if not quiet:
            warn_of_prompts(member.spec for member in members)
        wanted = [
            Wanted(partial(_queue, store, member, preset, stop_at, tag), member.values)
            for member in members
        ]
        manner = Manner(detach=detach, quiet=quiet, as_json=as_json)
        note = f"{'1 run' if total == 1 else f'{total} runs'}; modiff runs --tag {tag}"
        about = {"sweep": sweep_id, "tag": tag}
        return follow_many(store, wanted, manner, note=note, about=about)


def _refuse_set_and_varied(
    varied: Sequence[str], values: dict[str, object], overrides: Sequence[str]
) -> None:
    from presets.errors import PresetError

    given = {*values, *(text.partition("=")[0].strip() for text in overrides)}
    for key in varied:
        if key in given:
            raise PresetError("is both set and varied; leave one of them out", key=key)


def _queue(store: Store, member: Member, preset: str, stop_at: int | None, tag: str) -> str:
    from engine.client import submit

    run_id = submit(
        store,
        member.spec,
        preset=preset,
        segments=member.segments,
        stop_at=stop_at,
        is_checked=True,
    )
    store.tag(run_id, [tag])
    return run_id
