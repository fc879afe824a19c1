"""The run that is meant by its id, the beginning of that, or a file that it wrote."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from store.errors import UnknownRun
from tui.text import printable, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.store import Store

# what engine.stages.video writes into a video: the latents that it was decoded from
_MARK = re.compile(r"modiff (sha256:[0-9a-f]{64})")
_IDS_SHOWN = 5
_CELLS_SHOWN = 200


def resolve_run(store: Store, given: str) -> str:
    """The id of the run that is meant. A text with a dot or a slash is a file, as in no id.

    A file is found by its bytes, which the store knows, or by the mark that is in it, however it was renamed, moved
    or cut. Of several runs that made it the one that wrote it there, else the first; the others are told. Raises
    UnknownRun, for a file with what it says of itself.
    """
    if not set(given) & set("./~\\"):
        return store.resolve(given)
    path = Path(os.path.abspath(os.path.expanduser(given)))
    if not os.path.isfile(path):
        raise UnknownRun(f"{given}: no such file; `modiff runs` lists the runs")
    return _of_file(store, path)


def _of_file(store: Store, path: Path) -> str:
    from engine.output.reading import comment_of

    if runs := store.runs_of(_digest(path)):
        return _chosen(store, path, runs)
    comment = comment_of(path)
    mark = _MARK.fullmatch(comment)
    if mark is None:
        told = f"; its comment is {shorten(comment, _CELLS_SHOWN)!r}" if comment else ""
        raise UnknownRun(
            f"{path}: no run of this store made it, and it has no mark of modiff{told}"
        )
    if runs := store.runs_of(mark[1]):
        return _chosen(store, path, runs)
    raise UnknownRun(
        f"{path}: modiff made it, from latents {mark[1]}, but no run of this store; `modiff store export` where "
        "that was and `modiff store import` here bring its run and settings"
    )


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise UnknownRun(f"{path}: cannot be read ({error.strerror})") from None


def _chosen(store: Store, path: Path, runs: Sequence[str]) -> str:
    run_id = next((each for each in runs if store.run(each).output == str(path)), runs[0])
    others = [each for each in runs if each != run_id]
    if others:
        more = f" and {len(others) - _IDS_SHOWN} more" if len(others) > _IDS_SHOWN else ""
        click.echo(
            f"{printable(path.name)} is taken for that of run {run_id}; the same was made by "
            f"{', '.join(others[:_IDS_SHOWN])}{more}",
            err=True,
        )
    return run_id
