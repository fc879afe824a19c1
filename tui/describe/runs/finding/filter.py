"""What runs are wanted: `star seed:7 guidance.scale:>3 status:done tag:sweep/* rating:>=4 since:2d pinned`.

Words must stand in the prompt, note, id, output or preset, all of them; `key:value` says more, where a key is one of
KEYS or any setting (see `setting_keys`). Times are those of the command line (tui.units). The same words in the filter
line of the app and behind `modiff runs`.
"""

from __future__ import annotations

import math
import operator
import re
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from msgspec import inspect

from store.errors import BadRequest
from store.lineage.records import MAX_RATING, STATUSES, Compared
from tui.describe.runs.finding.setting_keys import (
    UnknownKey,
    given_files,
    item_setting,
    setting,
    short_names,
)
from tui.units import read_since, read_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from store.lineage.records import RunRecord
    from store.store import Store
    from tui.describe.runs.finding.setting_keys import Setting

KEYS = ("preset", "status", "tag", "since", "until", "rating", "is", "text")
_IS = ("pinned",)
_KEY = re.compile(r"[a-z_][\w.+\[\]-]*", re.IGNORECASE)
_COMPARED = re.compile(r"(<=|>=|<|>|=)?(.*)", re.DOTALL)
_HOLDS = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class BadSearch(BadRequest):
    """A filter that means nothing; says what was expected."""


@dataclass(frozen=True, slots=True)
class Search:
    """What runs are wanted; everything that is given must fit. As of `store.search`."""

    words: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    status: str | None = None
    preset: str = ""
    since_ns: int | None = None
    until_ns: int | None = None
    is_pinned: bool = False
    compared: tuple[Compared, ...] = ()

    def find(self, store: Store, limit: int) -> list[RunRecord]:
        """The newest runs first, at most `limit`."""
        return store.search(
            limit=limit,
            words=self.words,
            tags=self.tags,
            status=self.status,
            preset=self.preset,
            since_ns=self.since_ns,
            until_ns=self.until_ns,
            is_pinned=self.is_pinned,
            compared=self.compared,
        )


def parse(line: str) -> Search:
    """The search that a filter line means; what is being typed in it means nothing yet. Raises BadSearch."""
    try:
        parts = shlex.split(line)
    except ValueError:  # a quotation that is not closed yet
        parts = line.replace('"', " ").replace("'", " ").split()
    return search_of(parts, is_typed=True)


def search_of(parts: Iterable[str], *, is_typed: bool = False) -> Search:
    """The search that the parts of a filter mean. is_typed: a key may still lack its value. Raises BadSearch."""
    search = Search()
    for part in parts:
        search = _with(search, part, is_typed=is_typed)
    return search


def complete(line: str, *, presets: Iterable[str], tags: Iterable[str]) -> str | None:
    """The line with its last word completed: a key, or a value of one; None where nothing begins like that."""
    space = line.rfind(" ") + 1
    before, word = line[:space], line[space:]
    if not word:
        return None
    key, colon, value = word.partition(":")
    if not colon:
        keys = [*KEYS, *(name for name in short_names() if name not in KEYS)]
        return _first_like(before, word, [*(f"{key}:" for key in keys), "pinned"])
    values = {"status": STATUSES, "preset": presets, "tag": tags, "is": _IS}.get(key)
    return _first_like(f"{before}{key}:", value, _choices(key) if values is None else values)


def _choices(key: str) -> Sequence[str]:
    """The values of a setting of which there are few."""
    try:
        field = setting(key).field
    except UnknownKey:
        return ()
    match field.type if field else None:
        case inspect.LiteralType(values):
            return [str(value) for value in values]
        case inspect.BoolType():
            return ("true", "false")
    return ()


def _first_like(before: str, begun: str, candidates: Iterable[str]) -> str | None:
    return next((before + each for each in candidates if each.startswith(begun)), None)


def _with(search: Search, part: str, *, is_typed: bool) -> Search:
    key, colon, value = part.partition(":")
    if part == "pinned":
        return replace(search, is_pinned=True)
    if not colon or not _KEY.fullmatch(key) or value.startswith("//"):
        return replace(search, words=(*search.words, part))
    wanted = None if key in KEYS else _setting(key)
    if not value:
        if is_typed:
            return search
        raise BadSearch(
            f"{part} has no value; expected {key}:VALUE, in quotes for the shell where it begins with < or >"
        )
    match key:
        case "status":
            if value not in STATUSES:
                raise BadSearch(f"status:{value} is none of {', '.join(STATUSES)}")
            return replace(search, status=value)
        case "tag":
            return replace(search, tags=(*search.tags, value))
        case "preset":
            return replace(search, preset=value)
        case "text":
            return replace(search, words=(*search.words, value))
        case "is":
            if value in _IS:
                return replace(search, is_pinned=True)
            if is_typed and any(each.startswith(value) for each in _IS):
                return search
            raise BadSearch(f"is:{value}: expected is:{' or is:'.join(_IS)}")
        case "since" | "until":
            return _with_moment(search, key, value)
    compared = _compared(key, wanted, value, is_typed=is_typed)
    return search if compared is None else replace(search, compared=(*search.compared, compared))


def _setting(key: str) -> Setting:
    try:
        found = setting(key, KEYS)
        # what has a name is asked for by that, as components are
        return item_setting(f"{found.key}[N].name") or found
    except UnknownKey as error:
        raise BadSearch(f"{error}, or text:{key}:… looks for the words") from None


def _with_moment(search: Search, key: str, value: str) -> Search:
    try:
        if key == "since":
            return replace(search, since_ns=read_since(value))
        return replace(search, until_ns=read_until(value))
    except ValueError as error:
        raise BadSearch(str(error)) from None


def _compared(name: str, wanted: Setting | None, text: str, *, is_typed: bool) -> Compared | None:
    """wanted: None for the rating. Returns None where a value is still to come."""
    found = _COMPARED.fullmatch(text)
    assert found  # anything fits
    comparison, rest = found[1] or "=", found[2].strip()
    if not rest and is_typed:
        return None
    number = _number(rest)
    if wanted is None:
        if not isinstance(number, int) or not 0 <= number <= MAX_RATING:
            raise BadSearch(f"rating:{text}: expected 0 to {MAX_RATING} stars, as in rating:>=4")
        return Compared("rating", comparison, number)
    kind = wanted.field.type if wanted.field else None
    value: bool | int | float | str
    if number is not None and not isinstance(kind, inspect.StrType | inspect.LiteralType):
        value = number
    elif isinstance(kind, inspect.IntType | inspect.FloatType | inspect.UnionType):
        raise BadSearch(f"{name}:{text}: expected a number, as in {name}:7 or {name}:>=7")
    elif isinstance(kind, inspect.BoolType) or (kind is None and rest in ("true", "false")):
        if rest not in ("true", "false"):
            raise BadSearch(f"{name}:{text}: expected true or false")
        value = rest == "true"
    else:
        value = rest
    if comparison != "=" and isinstance(value, bool | str):
        raise BadSearch(f"{name}:{text}: only numbers are more or less; expected {name}:VALUE")
    default = wanted.field.default if wanted.field else None
    is_file = wanted.key in given_files()
    fits_absent = not is_file and _fits(default, comparison, value)
    return Compared(wanted.key, comparison, value, fits_absent=fits_absent, is_file=is_file)


def _number(text: str) -> int | float | None:
    try:
        number = int(text) if re.fullmatch(r"[+-]?\d{1,40}", text, re.ASCII) else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _fits(default: object, comparison: str, value: bool | int | float | str) -> bool:
    """Whether a setting that is not there, and so has its default, fits."""
    if isinstance(default, str) and isinstance(value, str):
        pattern = ".*".join(map(re.escape, value.casefold().split("*")))
        return bool(re.fullmatch(pattern, default.casefold(), re.DOTALL))
    if isinstance(default, bool) or isinstance(value, bool):
        return default is value
    if isinstance(default, int | float) and isinstance(value, int | float):
        return bool(_HOLDS[comparison](default, value))
    return False
