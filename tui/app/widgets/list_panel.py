"""A list in a titled box."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding
from textual.widgets import OptionList
from textual.widgets.option_list import Option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.binding import BindingType
    from textual.widgets import Static


def put(widget: Static, text: str) -> None:
    """Show a text; one that is there already costs nothing."""
    if widget.content != text:
        widget.update(text)


class ListPanel(OptionList):
    """A list in a titled box, with the keys that lists have."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False, id="list.down"),
        Binding("k", "cursor_up", "Up", show=False, id="list.up"),
        Binding("g", "first", "First", show=False, id="list.first"),
        Binding("G", "last", "Last", show=False, id="list.last"),
    ]

    def __init__(self, title: str, *, id: str) -> None:  # Textual's own name for it
        super().__init__(id=id, classes="panel", markup=False)
        self.border_title = title
        self._listed: tuple[Sequence[tuple[str, Text]], str] = ((), "")

    @property
    def chosen(self) -> str:
        """The id of the highlighted line, a key of a field with its number; empty for none."""
        if self.highlighted is None:
            return ""
        return self.get_option_at_index(self.highlighted).id or ""

    def show_lines(self, lines: Sequence[tuple[str, Text]], nothing: str) -> None:
        """(key, text) by line; the highlight stays at its place. nothing: what an empty list says."""
        if (lines, nothing) == self._listed:
            return  # drawing a list anew lays out the whole screen
        self._listed = (lines, nothing)
        at = self.highlighted
        options = [Option(text, f"{number}:{key}") for number, (key, text) in enumerate(lines)]
        self.set_options(options or [Option(Text(nothing), disabled=True)])
        if options:
            self.highlighted = min(at or 0, len(options) - 1)

    @property
    def key(self) -> str:
        """The field that the highlighted line is about, empty for none."""
        return self.chosen.partition(":")[2]
