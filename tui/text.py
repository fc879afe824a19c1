"""Text that reaches a terminal: untrusted strings made harmless, columns.

Everything that a person typed or a file held passes through `printable` before it is printed: a
prompt may carry escape sequences, and a terminal obeys them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_UNESCAPED = re.compile(r"[\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """`text` on one line, with every character that a terminal could act on shown as an escape."""
    return "".join(
        character
        if character.isprintable()
        else " "
        if character in "\n\t"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def escaped(document: str) -> str:
    """A JSON or TOML text with the same meaning, without what a terminal could act on.

    DEL, C1 controls and bidirectional overrides become backslash, u and four digits. Writers of JSON
    and TOML escape the other control characters themselves, and put these in quoted strings only.
    """
    return _UNESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def counted(number: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns, measured in terminal cells; the last column is free."""
    from rich.cells import cell_len

    if not rows:
        return []
    widths = [max(cell_len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return [
        "  ".join(
            [
                *(
                    cell + " " * (width - cell_len(cell))
                    for cell, width in zip(row, widths, strict=False)
                ),
                row[-1],
            ]
        ).rstrip()
        for row in rows
    ]


def shorten(line: str, width: int) -> str:
    """The line cut to `width` terminal cells, with an ellipsis where something is missing."""
    from rich.cells import cell_len, set_cell_size

    return line if cell_len(line) <= width else f"{set_cell_size(line, width - 1).rstrip()}…"


def shorten_front(path: str, width: int) -> str:
    """The end of a line, as paths are told apart by it, in `width` terminal cells."""
    from rich.cells import cell_len

    if cell_len(path) <= width:
        return path
    while path and cell_len(path) > width - 1:
        path = path[max(1, len(path) - width) :]
    return f"…{path}"
