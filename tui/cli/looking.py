"""The store for commands that only look, or give space back: they work where nothing can be written."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from store.store import Store


@contextlib.contextmanager
def store_as_it_is(*, to_clean: bool = False) -> Iterator[Store]:
    """The user's store, in which runs of dead engines are at rest as far as that could be written; else it is said.

    to_clean: as of store.store.open_as_it_is.
    """
    from store.store import open_as_it_is

    with open_as_it_is(to_clean=to_clean) as store:
        _, problem = store.recover_if_possible()
        if problem is not None:
            click.echo(
                f"runs of engines that are gone are told as running: {printable(str(problem))}",
                err=True,
            )
        yield store
