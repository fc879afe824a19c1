"""The components screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.screen import Screen
from textual.widgets import Footer, Static

from tui.frame import TopLine

if TYPE_CHECKING:
    from textual.app import ComposeResult


class Components(Screen[None]):
    """To come."""

    def compose(self) -> ComposeResult:
        yield TopLine("components")
        yield Static("components")
        yield Footer()
