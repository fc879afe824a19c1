"""The compose screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.screen import Screen
from textual.widgets import Footer, Static

from tui.frame import TopLine

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from presets.spec import RunSpec


class Compose(Screen[None]):
    """To come."""

    def compose(self) -> ComposeResult:
        yield TopLine("compose")
        yield Static("compose")
        yield Footer()

    def load_run(self, spec: RunSpec, preset: str) -> None:
        """To come."""
