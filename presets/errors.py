"""The one error of this package: bad input, told in one line that names the key."""

from __future__ import annotations

MAX_KEY = 200  # characters of a key in a line; a file may have longer ones


class PresetError(ValueError):
    """A preset, an override or a run specification that cannot be used.

    `str(error)` is the whole line, `key: problem (in source)`. The parts are kept for a form,
    which shows the problem beside the field: `key` is dotted (`scheduler.steps`,
    `extensions[0].name`) or empty when no single key is to blame, `source` is the file that set
    it or empty.
    """

    def __init__(self, problem: str, *, key: str = "", source: str = "") -> None:
        self.problem = problem
        self.key = key
        self.source = source
        shown = key if len(key) <= MAX_KEY else f"{key[: MAX_KEY - 3]}..."
        line = f"{shown}: {problem}" if key else problem
        super().__init__(_printable(f"{line} (in {source})" if source else line))


def _printable(text: str) -> str:
    # Keys and values come from files and command lines: a newline or a terminal escape must not
    # act here.
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
