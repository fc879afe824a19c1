"""`modiff branch`, `pause`, `resume` and `finish`: runs that go on from steps that are done already."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import click

from tui.cli.commands.runs.list import stop
from tui.cli.following.manner import Manner, manner_options
from tui.cli.options import json_option, run_argument, runs_argument
from tui.cli.output import Invocation
from tui.cli.run_of_file import resolve_run
from tui.cli.settings.media import check_media
from tui.cli.settings.options import Given, output_option, settings_options

if TYPE_CHECKING:
    from engine.client import Branched
    from store.lineage.records import RunRecord

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
@settings_options
@output_option
@manner_options
@click.pass_obj
def branch(
    invocation: Invocation,
    run: str,
    at: int | Literal["decode"],
    given: Given,
    output: str | None,
    manner: Manner,
) -> int:
    """Go on from a step of a run with other settings.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote. The new run has the
    first STEP steps of RUN, none of which is computed again as long as it is stored, and goes on with
    what is changed here, which must be something; RUN stays as it is. `modiff show RUN` tells which steps are stored.
    """
    from engine import client
    from store.store import open_store
    from tui.cli.following.follow import follow_queued
    from tui.cli.settings.prompts import tell, warn_of_prompts
    from tui.describe.inputs import looked_at

    with open_store() as store:
        store.recover()
        run_id = resolve_run(store, run)
        changes, path = given.as_overrides, output or ""
        wanted = client.branched(store, run_id, at=at, overrides=changes, output=path)
        check_media(given.media, given.overrides, wanted.spec)
        _refuse_unchanged(store.run(run_id), wanted)
        if not manner.quiet:
            warn_of_prompts([wanted.spec])
        notes = looked_at(store, wanted.spec)[1] if given.media else ()
        tell(notes, quiet=manner.quiet)
        return follow_queued(
            invocation,
            store,
            lambda: client.branch(store, run_id, at=at, overrides=changes, output=path),
            replace(manner, notes=notes),
        )


def _refuse_unchanged(run: RunRecord, wanted: Branched) -> None:
    """PresetError for a branch that would be its run once more."""
    from engine.client import is_unchanged
    from presets.errors import PresetError

    if not is_unchanged(run, wanted):
        return
    is_done = run.status == "done"
    way = f"`modiff replay {run.id}` makes its output again" if is_done else f"it is {_way_on(run)}"
    raise PresetError(
        f"nothing is changed, so this would be run {run.id} again, its steps reused as far as they are stored; "
        f"change something, as with --set guidance.scale=4; {way}"
    )


def _way_on(run: RunRecord) -> str:
    """The status of a run that is not done, and what is to be done about it."""
    if run.is_finished:
        return f"{run.status}; `modiff resume {run.id}` goes on with it"
    return f"{run.status}; `modiff show {run.id}` tells how far it is"


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
@manner_options
@click.pass_obj
def resume(invocation: Invocation, run: str, manner: Manner) -> int:
    """Go on with a run that stopped before its end.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote: a run that was
    paused, interrupted or cancelled, or that failed. It goes on after its last stored step
    and ends with the same result as if nothing had happened.
    """
    from engine import client
    from store.store import open_store
    from tui.cli.following.follow import follow_queued

    with open_store() as store:
        store.recover()
        run_id = invocation.run = resolve_run(store, run)

        def queue() -> str:
            client.resume(store, run_id)
            return run_id

        return follow_queued(invocation, store, queue, manner)


@click.command(epilog=_FINISH_EPILOG)
@runs_argument
@manner_options
def finish(run_prefixes: tuple[str, ...], manner: Manner) -> int:
    """Take runs that stopped early to their end.

    RUN is an id from `modiff runs`, the beginning of one, or a file that it wrote: a run of
    `modiff sweep --stop-at`. The steps that are done are not computed again.
    """
    from engine import client
    from store.store import open_store
    from tui.cli.following.follow import Wanted
    from tui.cli.following.many import follow_many

    with open_store() as store:
        store.recover()
        run_ids = list(dict.fromkeys(resolve_run(store, prefix) for prefix in run_prefixes))
        for run_id in run_ids:
            record = store.run(run_id)
            if record.stop_at is None:
                raise click.ClickException(
                    f"run {run_id} is done to its last step; there is nothing to finish"
                    if record.status == "done"
                    else f"run {run_id} was not to stop early and is {_way_on(record)}"
                )
            if record.status != "done":
                raise click.ClickException(
                    f"run {run_id} is not done up to its step {record.stop_at}, but {_way_on(record)}"
                )
        wanted = [Wanted(partial(client.finish, store, run_id)) for run_id in run_ids]
        return follow_many(store, wanted, manner)
