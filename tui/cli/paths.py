"""Paths as data on stdout."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from tui.text import printable


def echo_path(path: str | Path) -> None:
    """A path as it is for a program that reads it, and on a terminal without what that would obey."""
    text = str(path)
    click.echo(printable(text) if sys.stdout.isatty() else os.fsencode(text))
