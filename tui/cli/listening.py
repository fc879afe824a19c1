"""What the commands say that listen at an address."""

from __future__ import annotations

import click

from tui.errors import BAD_INPUT
from tui.text import printable

# What Python and its event loop raise where nothing can be listened at.
REFUSED = (OSError, OverflowError, UnicodeError)


def cannot_listen(host: str, port: int, error: Exception) -> int:
    """Say why not; the exit code."""
    # Python adds what it was doing
    reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
    click.echo(
        f"modiff: cannot listen at {printable(host)}, port {port} ({printable(reason)}); "
        "choose others with --host and --port",
        err=True,
    )
    return BAD_INPUT
