"""Lines of names and values, whose values stay in their column where they need several lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions

# a name and the two blanks or more after it, or an arrow
_BEFORE_VALUE = re.compile(r"\s*(?:→ |\S+(?: \S+)*\s{2,})(?=\S)")
_MIN_VALUE_CELLS = 12


@dataclass(frozen=True, slots=True)
class Hanging:
    """A Rich renderable. lines: as `tui.text.columns` makes them."""

    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width = options.max_width
        for line in self.lines:
            found = _BEFORE_VALUE.match(line)
            name = found.group() if found else ""
            room = width - cell_len(name)
            if cell_len(line) <= width or room < _MIN_VALUE_CELLS:
                yield Text(line)
                continue
            first, *rest = Text(line[len(name) :]).wrap(console, room)
            yield Text(name) + first
            for more in rest:
                yield Text(" " * cell_len(name)) + more
