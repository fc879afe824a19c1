"""`modiff run`: from a preset to a file, made by the background engine while this process watches.

Whatever can be refused is refused before anything is queued. stdout gets the output path, or with
`--json` one object; all else goes to stderr.
"""

from __future__ import annotations

import shlex
from dataclasses import replace

import click

from tui.cli.completion import complete_run
from tui.cli.following.manner import Manner, manner_options
from tui.cli.options import preset_argument, stop_at_option
from tui.cli.output import Invocation
from tui.cli.settings.fitting import applied, fit_option
from tui.cli.settings.media import check_continued, going_on
from tui.cli.settings.options import Given, expand_option, output_option, settings_options

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
@settings_options
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
@output_option
@stop_at_option
@fit_option
@manner_options
@click.pass_obj
def run(
    invocation: Invocation,
    preset: str,
    given: Given,
    continued: str | None,
    expand: bool,
    review: bool,
    output: str | None,
    stop_at: int | None,
    fit: str | None,
    manner: Manner,
) -> int:
    """Make a video from a preset.

    PRESET is a name from `modiff presets list`, a path that ends in .toml, or a file that a run wrote, whose settings
    travel with it. An output that
    exists is never replaced without --overwrite.
    """
    from engine.client import submit
    from presets.expansion import expands
    from store.store import open_store
    from tui.cli.following.follow import follow_queued
    from tui.cli.following.review import check_can_ask, run_reviewed
    from tui.cli.run_of_file import preset_of_file
    from tui.cli.settings.prompts import prompt_of_preset, tell, warn_of_prompts
    from tui.describe.inputs import looked_at

    if review:
        check_can_ask(detach=manner.detach)
    named = preset
    spec, preset = given.of_preset(named, expansion__enabled=expand, output__path=output)
    check_continued(continued, given.media, spec)
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
        if not manner.quiet:
            warn_of_prompts([spec])
        spec, notes = looked_at(store, spec)
        if fit is not None:
            spec, told = applied(store, spec, fit)
            notes = (*notes, *told)
        notes = (*prompt_of_preset(spec, preset, given.prompt), *notes)
        tell(notes, quiet=manner.quiet)
        manner = replace(manner, notes=notes)

        def queue(stop_at: int | None) -> str:
            origin = preset or preset_of_file(store, named)
            run_id = submit(store, spec, preset=origin, stop_at=stop_at)
            if before:
                store.note(run_id, f"goes on from the last frame of {before}")
            return run_id

        if review:
            return run_reviewed(invocation, store, lambda: queue(0), manner)
        again = shlex.join(["modiff", *invocation.arguments])
        return follow_queued(
            invocation, store, lambda: queue(stop_at), replace(manner, again=again)
        )
