"""The one line of progress that is written over and over; nothing where nobody watches."""

from __future__ import annotations

import shutil
import sys
import time

import click

from tui.text import shorten

_EVERY_SECONDS = 0.1


def show(line: str) -> None:
    """In the place of the line before; "" takes that away."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        click.echo(f"\r\x1b[K{shorten(line, width - 1)}", err=True, nl=False)


class Pace:
    """Says when the line may be written again."""

    def __init__(self) -> None:
        self._shown = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether a moment has passed since it last was."""
        now = time.monotonic()
        is_due = now - self._shown >= _EVERY_SECONDS
        self._shown = now if is_due else self._shown
        return is_due
