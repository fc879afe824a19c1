"""The filter line of the list of runs: `star preset:micro status:done tag:good since:2d pinned`.

Words must stand in the prompt, note, id, output or preset, all of them; `key:value` says more. Times are those of the
command line (tui.units).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from store.lineage.records import STATUSES
from tui.units import read_since, read_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from store.lineage.records import RunRecord
    from store.store import Store

KEYS = ("preset", "status", "tag", "since", "until")
# What the store does not look for itself is looked for among so many of its runs.
_LOOKED_AT = 100_000


class BadSearch(Exception):
    """A filter that means nothing; says what was expected."""


@dataclass(frozen=True, slots=True)
class Search:
    """What runs are wanted; everything that is given must fit."""

    words: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    status: str | None = None
    preset: str = ""
    since_ns: int | None = None
    until_ns: int | None = None
    is_pinned: bool = False

    def find(self, store: Store, limit: int) -> list[RunRecord]:
        """The newest runs first, at most `limit`."""
        is_all = len(self.words) < 2 and not self.is_pinned
        found = store.search(
            limit=limit if is_all else _LOOKED_AT,
            text=self.words[0] if self.words else "",
            tags=self.tags,
            status=self.status,
            preset=self.preset,
            since_ns=self.since_ns,
            until_ns=self.until_ns,
        )
        return [run for run in found if self._fits(run)][:limit]

    def _fits(self, run: RunRecord) -> bool:
        if self.is_pinned and not run.pinned:
            return False
        if len(self.words) < 2:
            return True
        text = f"{run.id}\n{run.preset}\n{run.output}\n{run.note}\n{run.spec_json.decode()}"
        return all(word.casefold() in text.casefold() for word in self.words[1:])


def parse(line: str) -> Search:
    """The search that a filter line means. Raises BadSearch."""
    try:
        parts = shlex.split(line)
    except ValueError:  # a quotation that is not closed yet, as while it is typed
        parts = line.replace('"', " ").replace("'", " ").split()
    search = Search()
    for part in parts:
        search = _with(search, part)
    return search


def complete(line: str, *, presets: Iterable[str], tags: Iterable[str]) -> str | None:
    """The line with its last word completed: a key, or a value of one; None where nothing begins like that."""
    space = line.rfind(" ") + 1
    before, word = line[:space], line[space:]
    if not word:
        return None
    key, colon, value = word.partition(":")
    if not colon:
        return _first_like(before, word, [*(f"{key}:" for key in KEYS), "pinned"])
    values = {"status": STATUSES, "preset": presets, "tag": tags}.get(key, ())
    return _first_like(f"{before}{key}:", value, values)


def _first_like(before: str, begun: str, candidates: Iterable[str]) -> str | None:
    return next((before + each for each in candidates if each.startswith(begun)), None)


def _with(search: Search, part: str) -> Search:
    key, colon, value = part.partition(":")
    if part == "pinned":
        return replace(search, is_pinned=True)
    if not colon or key not in KEYS:
        return replace(search, words=(*search.words, part))
    if not value:
        return search  # still being typed
    match key:
        case "status":
            if value not in STATUSES:
                raise BadSearch(f"status:{value} is none of {', '.join(STATUSES)}")
            return replace(search, status=value)
        case "tag":
            return replace(search, tags=(*search.tags, value))
        case "preset":
            return replace(search, preset=value)
    try:
        if key == "since":
            return replace(search, since_ns=read_since(value))
        return replace(search, until_ns=read_until(value))
    except ValueError as error:
        raise BadSearch(str(error)) from None
