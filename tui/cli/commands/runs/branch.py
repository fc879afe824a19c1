"""`modiff branch`, `pause`, `resume` and `finish`: runs that go on from steps that are done already."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import click

from presets.output.formats import choice_of_endings
from presets.settings.overrides import text_override
from tui.cli.commands.runs.list import stop
from tui.cli.media import check_media, media_options, media_overrides
from tui.cli.options import (
    detach_option,
    json_option,
    notify_option,
    overwrite_option,
    prompt_options,
    quiet_option,
    result_json_option,
    run_argument,
    runs_argument,
    set_option,
)
from tui.cli.output import Invocation
from tui.cli.run_of_file import resolve_run
from tui.cli.seeds import drawn_in

if TYPE_CHECKING:
    from collections.abc import Mapping

_BRANCH_EPILOG = """\b
Examples:
  modiff branch k3f --at 12 --prompt "a small yellow star moves up over a black background"
  modiff branch k3f --at 12 --set guidance.scale=4 --output tamer.mp4
  modiff branch k3f --at decode --set components.vae.tile_size=256

Exit codes: 0 done, 1 failed, 2 bad input, 130 cancelled.
"""
_RESUME_EPILOG = """\b
Examples:
  modiff resume k3f
  modiff resume k3f --detach
"""
_FINISH_EPILOG = """\b
Examples:
  modiff sweep micro --over seed=1..8 --stop-at 5
  modiff finish k3f q7a
"""


def _step_or_decode(
    _ctx: click.Context, _param: click.Parameter, text: str
) -> int | Literal["decode"]:
    if text == "decode":
        return "decode"
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise click.BadParameter(f"{text!r} is no step; expected a number from 0 on, or decode")
    return int(text)


@click.command(epilog=_BRANCH_EPILOG)
@run_argument
@click.option(
    "--at",
    callback=_step_or_decode,
    metavar="STEP|decode",
    required=True,
    help="How many steps to share with RUN; decode: all of them, and only decode again.",
)
@prompt_options
@media_options
@set_option
@click.option(
    "--output",
    default="",
    metavar="FILE",
    help=f"Where the video goes, in the format of its ending: {choice_of_endings()}. {{run}} in it becomes the run's "
    "id.  [default: modiff-{run}.mp4]",
)
@overwrite_option
@detach_option
@notify_option
@quiet_option
@result_json_option
@click.pass_obj
def branch(
    invocation: Invocation,
    run: str,
    at: int | Literal["decode"],
    prompt: str | None,
    negative_prompt: str | None,
    seed: int | str | None,
    media: Mapping[str, object],
    overrides: tuple[str, ...],
    output: str,
    overwrite: bool,
    detach: bool,
    notify: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Go on from a step of a run with other settings.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote. The new run has the
    first STEP steps of RUN, none of which is computed again as long as it is stored, and goes on with
    what is changed here; RUN stays as it is. `modiff show RUN` tells which steps are stored.
    """
    from engine import client
    from store.store import open_store
    from tui.cli.follow import Manner, follow_queued
    from tui.cli.prompts import tell, warn_of_prompts
    from tui.describe.inputs import looked_at

    texts = {"prompt": prompt, "negative_prompt": negative_prompt}
    changes = [
        *drawn_in(overrides, quiet=quiet),
        *(text_override(key, text) for key, text in texts.items() if text is not None),
        *drawn_in([f"seed={seed}"] if seed is not None else [], quiet=quiet),
        *media_overrides(media),
        *(["output.overwrite=true"] if overwrite else []),
    ]
    with open_store() as store:
        store.recover()
        run_id = resolve_run(store, run)
        wanted = client.branched(store, run_id, at=at, overrides=changes, output=output)
        check_media(media, overrides, wanted.spec)
        if not quiet:
            warn_of_prompts([wanted.spec])
        notes = looked_at(store, wanted.spec)[1] if media else ()
        tell(notes, quiet=quiet)
        return follow_queued(
            invocation,
            store,
            lambda: client.branch(store, run_id, at=at, overrides=changes, output=output),
            Manner(detach=detach, quiet=quiet, as_json=as_json, notify=notify, notes=notes),
        )


@click.command()
@run_argument
@json_option
def pause(run: str, as_json: bool) -> int:
    """Pause a run that is queued or running.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote. A running one stops
    when its present step ends; `modiff resume RUN` goes on from there. With an engine that does not answer
    it stops when that answers again. Exit code 1 when the run is already at rest.
    """
    told = {
        "running": "pauses when its present step ends",
        "paused": "is paused; `modiff resume {run}` goes on",
    }
    return stop(run, lambda store, run_id: store.request_pause(run_id), "pause", told, as_json)


@click.command(epilog=_RESUME_EPILOG)
@run_argument
@detach_option
@notify_option
@quiet_option
@result_json_option
@click.pass_obj
def resume(
    invocation: Invocation, run: str, detach: bool, notify: bool, quiet: bool, as_json: bool
) -> int:
    """Go on with a run that stopped before its end.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote: a run that was
    paused, interrupted or cancelled, or that failed. It goes on after its last stored step
    and ends with the same result as if nothing had happened.
    """
    from engine import client
    from store.store import open_store
    from tui.cli.follow import Manner, follow_queued

    with open_store() as store:
        store.recover()
        run_id = resolve_run(store, run)

        def queue() -> str:
            client.resume(store, run_id)
            return run_id

        manner = Manner(detach=detach, quiet=quiet, as_json=as_json, notify=notify)
        return follow_queued(invocation, store, queue, manner)


@click.command(epilog=_FINISH_EPILOG)
@runs_argument
@detach_option
@notify_option
@quiet_option
@result_json_option
@click.pass_obj
def finish(
    invocation: Invocation,
    run_prefixes: tuple[str, ...],
    detach: bool,
    notify: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Take runs that stopped early to their end.

    RUN is an id from `modiff runs`, the beginning of one, or a file that it wrote: a run of
    `modiff sweep --stop-at`. The steps that are done are not computed again.
    """
    from engine import client
    from store.store import open_store
    from tui.cli.follow import Manner, Wanted
    from tui.cli.many import follow_many

    with open_store() as store:
        store.recover()
        run_ids = list(dict.fromkeys(resolve_run(store, prefix) for prefix in run_prefixes))
        for run_id in run_ids:
            record = store.run(run_id)
            if record.stop_at is None:
                raise click.ClickException(
                    f"run {run_id} was not to stop early"
                    + (
                        ""
                        if record.status == "done"
                        else f" and is {record.status}; `modiff resume` goes on with it"
                    )
                )
            if record.status != "done":
                raise click.ClickException(
                    f"run {run_id} is {record.status}; expected one that is done up to its step "
                    f"{record.stop_at}, `modiff resume` goes on with others"
                )
        wanted = [Wanted(partial(client.finish, store, run_id)) for run_id in run_ids]
        return follow_many(
            store, wanted, Manner(detach=detach, quiet=quiet, as_json=as_json, notify=notify)
        )
