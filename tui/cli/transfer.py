"""The progress of one file that is loaded and checked, on stderr: a line that is overwritten, and one that stays."""

from __future__ import annotations

import time
from typing import Self

import click

from engine.checkpoints.known.catalogue import decimal_size
from tui.cli.overwritten import Pace, show
from tui.text import printable
from tui.units import clock


class Transfer:
    """To be entered while the file is loaded; nothing is overwritten where nobody watches."""

    def __init__(self, name: str, num_bytes: int) -> None:
        self._name = printable(name)
        self._num_bytes = num_bytes
        self._begun, self._pace = time.monotonic(), Pace()
        self._first: int | None = None

    def loaded(self, done: int) -> None:
        """done: bytes of the file that are here, those of before too."""
        now = time.monotonic()
        if self._first is None:
            self._begun, self._first = now, done
        rate = (done - self._first) / max(now - self._begun, 1e-3)
        left = f"  eta {clock((self._num_bytes - done) / rate)}" if rate > 0 else ""
        self._show(f"{decimal_size(done)}  {decimal_size(int(rate))}/s{left}", done)

    def checked(self, done: int) -> None:
        """done: bytes that were read again."""
        self._show("checking", done)

    def _show(self, told: str, done: int) -> None:
        if self._pace.is_due:
            share = 100 * done // max(1, self._num_bytes)
            show(f"{share:3} %  {self._name}  {told}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        show("")
        if kind is None:
            click.echo(f"✓ {self._name}  {decimal_size(self._num_bytes)}", err=True)
