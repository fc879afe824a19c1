"""The last thing between what is drawn and the terminal: nothing in a text may reach it as a command.

Lists and panels show such characters as escapes (`tui.text.printable`). Editors show what they hold, which may be the
prompt of somebody else's run.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.segment import Segment
from textual.filter import LineFilter

if TYPE_CHECKING:
    from textual.color import Color

# C0 and C1 controls, DEL, bidirectional overrides: all of them take no cell
_COMMANDS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Harmless(LineFilter):
    """Leaves out what a terminal would obey, but where a widget says that it is meant, as pictures do."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            segment
            if segment.control or segment.text.isprintable()
            else Segment(_COMMANDS.sub("", segment.text), segment.style)
            for segment in segments
        ]
