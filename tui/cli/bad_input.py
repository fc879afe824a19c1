"""What a command raises that cannot do what it was asked for, where its usage would not help."""

from __future__ import annotations

import click

from tui.errors import BAD_INPUT


class BadInput(click.ClickException):
    """Ends a command with the exit code of bad input and one line; nothing was loaded or written."""

    exit_code = BAD_INPUT
