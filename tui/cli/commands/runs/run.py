"""`modiff run`: from a preset to a file, made by the background engine while this process watches.

Whatever can be refused is refused before anything is queued. stdout gets the output path, or with
`--json` one object; all else goes to stderr.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from presets.output.formats import choice_of_endings
from tui.cli.completion import complete_run
from tui.cli.fitting import applied, fit_option
from tui.cli.media import check_continued, check_media, going_on, media_options
from tui.cli.options import (
    detach_option,
    expand_option,
    named_values,
    notify_option,
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
    from collections.abc import Mapping

_EPILOG = """\b
Examples:
  modiff run micro
  modiff run micro --prompt "a small yellow star moves up over a black background" --seed 7
  modiff run wan2.1-t2v-1.3b --set scheduler.steps=30 --set frames=33 --output clip.mp4
  modiff run micro-i2v --image examples/pictures/red-circle.png
  modiff run micro-i2v --continue k3f --prompt "... moves up"
  modiff run micro --video clip.mp4 --strength 0.6 --prompt "a large blue circle moves left"
  modiff run micro --output clip.gif
  modiff run micro --set output.format=h265 --output clip.mp4
  modiff run micro --detach
  modiff run my-preset --prompt "a cat in the rain" --expand --review

Ctrl-C cancels the run, a second Ctrl-C leaves without waiting for the engine's word. Closing the
terminal or killing this command leaves the run alone: `modiff runs` finds it.

Exit codes: 0 done, 1 failed, 2 bad input, 130 cancelled.
"""


@click.command(epilog=_EPILOG)
@preset_argument
@prompt_options
@media_options
@click.option(
    "--continue",
    "continued",
    metavar="RUN",
    shell_complete=complete_run,
    help="Begin from the last frame of a run, in the place of --image: so a video of several parts is made.",
)
@expand_option
@click.option(
    "--review",
    is_flag=True,
    help="Show the expanded prompt before the run: approve it, edit it, have it written anew, or take your own.",
)
@click.option(
    "--output",
    metavar="FILE",
    help=f"Where the video goes, in the format of its ending: {choice_of_endings()}. {{run}} in it becomes the run's "
    "id.  [default: modiff-{run}.mp4]",
)
@overwrite_option
@set_option
@click.option(
    "--stop-at",
    type=click.IntRange(min=1),
    metavar="STEP",
    help="Do so many steps and show what they point to; `modiff finish` goes on.",
)
@fit_option
@result_json_option
@detach_option
@notify_option
@quiet_option
@click.pass_obj
def run(
    invocation: Invocation,
    preset: str,
    prompt: str | None,
    expand: bool,
    review: bool,
    negative_prompt: str | None,
    seed: int | str | None,
    media: Mapping[str, object],
    continued: str | None,
    output: str | None,
    overwrite: bool,
    overrides: tuple[str, ...],
    stop_at: int | None,
    fit: str | None,
    as_json: bool,
    detach: bool,
    notify: bool,
    quiet: bool,
) -> int:
    """Make a video from a preset.

    PRESET is a name from `modiff presets list`, a path that ends in .toml, or a file that a run wrote, whose settings
    travel with it. An output that
    exists is never replaced without --overwrite.
    """
    from engine.client import submit
    from presets.expansion import expands
    from store.store import open_store
    from tui.cli.follow import Manner, follow_queued
    from tui.cli.prompts import prompt_of_preset, tell, warn_of_prompts
    from tui.cli.review import check_can_ask, run_reviewed
    from tui.cli.run_of_file import load_settings
    from tui.describe.inputs import looked_at

    if review:
        check_can_ask(detach=detach)
    values = named_values(
        prompt=prompt,
        expansion__enabled=expand,
        negative_prompt=negative_prompt,
        seed=drawn_seed(seed, quiet=quiet),
        output__path=output,
        output__overwrite=overwrite,
    )
    values |= media
    spec, preset = load_settings(preset, drawn_in(overrides, quiet=quiet), values=values)
    check_media(media, overrides, spec)
    check_continued(continued, media, spec)
    if review and stop_at is not None:
        raise click.UsageError(
            "--review stops before the first step; leave out --stop-at, or --review"
        )
    if review and not expands(spec):
        raise click.UsageError(
            "--review shows an expanded prompt, and this run has none; add --expand"
        )
    with open_store() as store:
        before = ""
        if continued is not None:
            spec, before = going_on(store, continued, spec)
        if not quiet:
            warn_of_prompts([spec])
        spec, notes = looked_at(store, spec)
        if fit is not None:
            spec, told = applied(store, spec, fit)
            notes = (*notes, *told)
        notes = (*prompt_of_preset(spec, preset, prompt), *notes)
        tell(notes, quiet=quiet)
        manner = Manner(detach=detach, quiet=quiet, as_json=as_json, notify=notify, notes=notes)

        def queue(stop_at: int | None) -> str:
            run_id = submit(store, spec, preset=preset, stop_at=stop_at)
            if before:
                store.note(run_id, f"goes on from the last frame of {before}")
            return run_id

        if review:
            return run_reviewed(invocation, store, lambda: queue(0), manner)
        again = shlex.join(["modiff", *invocation.arguments])
        return follow_queued(
            invocation,
            store,
            lambda: queue(stop_at),
            replace(manner, again=again),
        )
