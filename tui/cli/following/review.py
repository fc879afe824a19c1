"""Reading an expanded prompt before the run goes on: approve it, edit it, have it written anew, or take one's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from tui.cli.following.follow import exit_code, follow_queued, latest_stages, result
from tui.cli.output import Invocation, print_json
from tui.cli.settings.prompts import warn
from tui.describe.prompts.expansion import is_to_review, waiting_prompt
from tui.errors import CANCELLED
from tui.text import escaped

if TYPE_CHECKING:
    from store.store import Store
    from tui.cli.following.manner import Manner

_APPROVE, _EDIT, _AGAIN, _MINE, _LATER = "a", "e", "r", "m", "q"
_QUESTION = "[a]pprove, [e]dit, [r]oll again, use [m]ine, [q]uit"


def check_can_ask(*, detach: bool = False) -> None:
    """Raises UsageError where nobody could answer."""
    if detach:
        raise click.UsageError("--review asks, and --detach leaves; give one of them")
    if not _is_somebody_there():
        raise click.UsageError(
            "--review asks in a terminal, and there is none; leave it out to run with the prompt as it is expanded"
        )


def _is_somebody_there() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def run_reviewed(
    invocation: Invocation, store: Store, queue: Callable[[], str], manner: Manner
) -> int:
    """Queue a run that stops once its prompt is expanded, ask, and follow it to its end; returns the exit code."""
    while True:
        code = follow_queued(invocation, store, queue, replace(manner, as_json=False, notify=False))
        run_id = str(invocation.run)
        record = store.run(run_id)
        if not is_to_review(record):
            if manner.as_json:
                print_json(result(record, latest_stages(store, run_id), code != 0))
            return code or exit_code(record, cancel_asked=False)
        answer = _answer(store, run_id)
        queue = answer.queue
        if not answer.is_again:
            return follow_queued(invocation, store, queue, manner)


class _Answer:
    """queue: queues the run again, as it was answered. is_again: it will wait once more."""

    def __init__(self, store: Store, run_id: str, *, is_again: bool = False, **how: object) -> None:
        self.is_again = is_again
        self._store, self._run_id, self._how = store, run_id, how

    def queue(self) -> str:
        from engine.client import review

        review(self._store, self._run_id, again=self.is_again, **self._how)  # type: ignore[arg-type]
        return self._run_id


def _answer(store: Store, run_id: str) -> _Answer:
    """What is to become of the run. Raises Exit where that is left for later."""
    waiting = waiting_prompt(store, run_id)
    if waiting is None:
        raise click.ClickException(
            f"run {run_id} does not wait for its prompt to be read; `modiff show {run_id}` tells how it stands"
        )
    if not _is_somebody_there():
        raise click.UsageError(
            f"what is to become of run {run_id} is asked in a terminal, and there is none; "
            f"`modiff finish {run_id}` goes on with its expanded prompt as it is"
        )
    click.echo(f"{waiting.by}:\n\n{escaped(waiting.text)}\n", err=True)
    warn(waiting.warnings)
    choices = click.Choice([_APPROVE, _EDIT, _AGAIN, _MINE, _LATER])
    while True:
        try:
            word = click.prompt(
                _QUESTION, type=choices, show_choices=False, err=True, prompt_suffix=": "
            )
        except click.Abort:
            word = _LATER
        if word == _LATER:
            click.echo(f"run {run_id} waits; `modiff review {run_id}` asks again", err=True)
            raise click.exceptions.Exit(CANCELLED)
        if word == _APPROVE:
            return _Answer(store, run_id)
        if word == _AGAIN:
            return _Answer(store, run_id, is_again=True)
        if word == _MINE:
            return _Answer(store, run_id, as_typed=True)
        if edited := _edited(waiting.text):
            return _Answer(store, run_id, text=edited)


def _edited(text: str) -> str:
    """The text as it comes back from the user's editor, "" where it comes back empty or as it was."""
    edited = click.edit(text + "\n", extension=".txt")
    edited = (edited or "").strip()
    if not edited or edited == text:
        click.echo("nothing was changed", err=True)
        return ""
    return edited


def review_waiting(invocation: Invocation, store: Store, run_id: str, manner: Manner) -> int:
    """Ask for a run that waits, and follow it to its end; returns the exit code."""
    invocation.run = run_id
    answer = _answer(store, run_id)
    if answer.is_again:
        return run_reviewed(invocation, store, answer.queue, manner)
    return follow_queued(invocation, store, answer.queue, manner)
