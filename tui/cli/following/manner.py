"""How a command follows the runs that it queues, and the options that say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import click

from tui.cli.options import quiet_option, result_json_option

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Manner:
    """How a command follows. again: how to go on with a run that its engine left unfinished,
    `modiff resume` where empty. notify: call whoever looks elsewhere at the end. notes: what was said of what the run
    begins from."""

    detach: bool = False
    quiet: bool = False
    as_json: bool = False
    again: str = ""
    notify: bool = False
    notes: tuple[str, ...] = ()


_DETACH = click.option(
    "--detach", is_flag=True, help="Print the ids of what is queued and leave it running."
)
_NOTIFY = click.option(
    "--notify",
    is_flag=True,
    help="Call you at the end: the terminal's bell, and a notification of the desktop.",
)


def manner_options(command: F) -> F:
    """--detach, --notify, --quiet and --json; the command gets one argument for them, `manner`."""
    return _DETACH(waiting_options(command))


def waiting_options(command: F) -> F:
    """The same without --detach, for a command that asks something."""

    @wraps(command)
    def with_manner(*arguments: Any, **options: Any) -> Any:
        names = options.keys() & {"detach", "quiet", "as_json", "notify"}
        manner = Manner(**{name: options.pop(name) for name in names})
        return command(*arguments, manner=manner, **options)

    described: Any = with_manner
    for option in (result_json_option, quiet_option, _NOTIFY):
        described = option(described)
    return described  # type: ignore[no-any-return]
