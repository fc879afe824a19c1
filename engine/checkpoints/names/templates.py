"""Tables of names as templates, read in both directions.

A template is a name in which `{i}` (any letter) stands for an index and `{p}` for `weight` and `bias`. A pair of
templates with the same letters renames both ways, so that only what a table says needs to be right, not how it is
inverted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

# Three digits: the deepest published model has 40 blocks, and a name must not make anyone count to a million.
_INDEX = "(?P<{}>0|[1-9][0-9]{{0,2}})"
# No published name is half as long; longer ones are not searched, as a file may have many thousands.
_LONGEST = 160
_NUMBER = re.compile(r"(?<![^.])(?:[0-9]+|\{[a-z]\})(?![^.])")
_LETTER = re.compile(r"\{([a-z])\}")

Templates = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rename:
    """One direction of one pair: what a name must look like, what comes out, and which part of it this is."""

    template: str
    targets: tuple[str, ...]
    part: int = 0


@dataclass(frozen=True, slots=True)
class Naming:
    """How a layout spells the tensors of a component.

    to_original, from_original: by the name with its numbers blanked out. unused: names that this layout has and
    the component does without. optional_prefix: what some files of this layout leave out of every name.
    """

    to_original: dict[str, list[Rename]]
    from_original: dict[str, list[Rename]]
    unused: re.Pattern[str]
    optional_prefix: str = field(default="")


def naming(
    pairs: Iterable[tuple[str, Templates]], *, unused: Sequence[str] = (), optional_prefix: str = ""
) -> Naming:
    """The naming that a table of (original, theirs) makes; a tuple of several of theirs are the parts of one
    original tensor, along its first axis. unused: regular expressions."""
    table = Naming({}, {}, re.compile("|".join(unused) or "(?!)"), optional_prefix)
    for original, theirs in pairs:
        for leaf in ("weight", "bias") if "{p}" in original else ("",):
            mine = original.replace("{p}", leaf)
            parts = (theirs,) if isinstance(theirs, str) else theirs
            parts = tuple(part.replace("{p}", leaf) for part in parts)
            _add(table.from_original, mine, Rename(mine, parts))
            for number, part in enumerate(parts):
                _add(table.to_original, part, Rename(part, (mine,), number))
    return table


def renamed(table: dict[str, list[Rename]], name: str) -> tuple[tuple[str, ...], int] | None:
    """(the new name or names, the index of the part) of a name that the table has, else None."""
    if len(name) > _LONGEST:
        return None
    for rename in table.get(_blanked(name), ()):
        match = _pattern(rename.template).fullmatch(name)
        if match is not None:
            return tuple(
                target.format(**match.groupdict()) for target in rename.targets
            ), rename.part
    return None


def _add(table: dict[str, list[Rename]], template: str, rename: Rename) -> None:
    table.setdefault(_blanked(template), []).append(rename)


def _blanked(name: str) -> str:
    return _NUMBER.sub("#", name)


@cache  # at first use: there are 1,500 of them, and a viewer that starts needs none
def _pattern(template: str) -> re.Pattern[str]:
    pieces = _LETTER.split(template)  # text, letter, text, letter, ..., text
    return re.compile(
        "".join(
            _INDEX.format(piece) if odd % 2 else re.escape(piece)
            for odd, piece in enumerate(pieces)
        )
    )
