"""The runs screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.screen import Screen
from textual.widgets import Footer, Static

from tui.frame import TopLine

if TYPE_CHECKING:
    from textual.app import ComposeResult


class Runs(Screen[None]):
    """To come."""

    def compose(self) -> ComposeResult:
        yield TopLine("runs")
        yield Static("runs")
        yield Footer()
