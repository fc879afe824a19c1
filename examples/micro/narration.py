"""How the recipe tells of its progress; here and not in `__main__`, because ranks must be able to import it."""

from __future__ import annotations

import click


def narrate(line: str) -> None:
    """Progress goes to stderr; stdout stays free for data."""
    click.echo(line, err=True)
