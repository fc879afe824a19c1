"""Where there is nothing yet: what to do about it, on a hatched ground that is taken for no list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import Container
from textual.widgets import Static

if TYPE_CHECKING:
    from textual.app import ComposeResult


class Empty(Container):
    """A sentence in the middle."""

    DEFAULT_CSS = """
    Empty { height: 1fr; align: center middle; hatch: right $foreground 12%; }
    Empty > Static {
        width: auto;
        max-width: 80;
        height: auto;
        padding: 1 3;
        color: $text-muted;
        background: $background;
    }
    """

    def __init__(self, text: str, *, id: str) -> None:
        super().__init__(id=id)
        self._text = text

    def compose(self) -> ComposeResult:
        yield Static(self._text, markup=False)

    def update(self, text: str) -> None:
        self._text = text
        for shown in self.query(Static):
            shown.update(text)
