"""`modiff review`: the expanded prompt of a run that waits for somebody to read it."""

from __future__ import annotations

import click

from tui.cli.following.manner import Manner, waiting_options
from tui.cli.options import run_argument
from tui.cli.output import Invocation
from tui.cli.run_of_file import resolve_run

_EPILOG = """\b
Examples:
  modiff review k3f
"""


@click.command(epilog=_EPILOG)
@run_argument
@waiting_options
@click.pass_obj
def review(invocation: Invocation, run: str, manner: Manner) -> int:
    """Read the expanded prompt of a run, and let it go on.

    RUN is an id from `modiff runs`, or the beginning of one: a run of `modiff run --review` that was left before it was
    answered. Approve the prompt, edit it in your editor, have it written anew, or take your own.
    """
    from store.store import open_store
    from tui.cli.following.review import review_waiting

    with open_store() as store:
        store.recover()
        run_id = resolve_run(store, run)
        return review_waiting(invocation, store, run_id, manner)
