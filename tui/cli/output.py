"""What a command leaves on stdout and stderr beside its words: paths, the last object of `--json`."""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tui.errors import CANCELLED
from tui.text import escaped, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from store.store import Store

_MAKE_RUNS = ("run", "branch", "resume", "replay", "review")


@dataclass(slots=True)
class Invocation:
    """One call of `modiff`: its arguments, and the run that it is about once there is one."""

    arguments: tuple[str, ...] = ()
    run: str | None = None

    @property
    def wants_json(self) -> bool:
        """Whether stdout must end with a JSON value, also on failure.

        Read from the raw arguments, because a command line that click refused was never parsed.
        """
        return "--json" in self.arguments


def print_json(data: Mapping[str, object]) -> None:
    """An object as JSON on stdout: one line for a program, indented for a person at a terminal."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(escaped(json.dumps(data, indent=indent, ensure_ascii=False)))


def print_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """Harmless lines, on stdout or stderr."""
    for line in lines:
        click.echo(line, err=err)


def print_failure(
    invocation: Invocation, code: int, line: str, models: Sequence[dict[str, Any]] = ()
) -> None:
    """What `--json` ends with where a command did not do what it was asked; of one that makes a run, as it tells of
    runs. models: those of the run, where some of them are not here."""
    told: dict[str, object] = {
        "status": "cancelled" if code == CANCELLED else "failed",
        "error": line,
    }
    if invocation.arguments[0] in _MAKE_RUNS:
        told = {"run": invocation.run, **told, "output": None, "seconds": 0.0, "stages": []}
    print_json(told | ({"models": list(models)} if models else {}))


def close_output() -> None:
    """Point stdout and stderr away from the reader that has gone, so that the last flush is silent."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def flush_output() -> None:
    """Hand what is buffered for stdout to the system; OSError where that takes it no more."""
    if sys.stdout is not None:  # None when it was closed before we came, as by `>&-`
        sys.stdout.flush()


def is_of_output(error: Exception) -> bool:
    """Whether an error came up while stdout or stderr was written, as on a full disk.

    Told by where it was raised: the error names no file, and it may be gone when the stream is tried again.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_code in (click.echo.__code__, flush_output.__code__)


def echo_path(path: str | Path) -> None:
    """A path as it is for a program that reads it, and on a terminal without what that would obey."""
    text = str(path)
    click.echo(printable(text) if sys.stdout.isatty() else os.fsencode(text))


def waiting_line(store: Store) -> str:
    """The line that names the way on, or "" when nothing waits or an engine lives."""
    count = store.num_queued()
    if not count or store.engines():
        return ""
    if count == 1:
        return "1 run waits and no engine runs; modiff engine start goes on with it"
    return f"{count} runs wait and no engine runs; modiff engine start goes on with them"
