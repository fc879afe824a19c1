"""What is seen first: the frame of the screen that is about to open, while that is still imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import Horizontal
from textual.events import Key
from textual.screen import Screen
from textual.widgets.option_list import Option

from tui.frame import TopLine
from tui.sections import SECTIONS
from tui.widgets.list_panel import ListPanel

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from tui.app import ModiffApp


class Start(Screen[None]):
    """The top line, and the stages where the form comes. Keys are kept for the screen after it."""

    app: ModiffApp
    CSS_PATH = "../styles/start.tcss"
    AUTO_FOCUS = ""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[Key] = []

    def compose(self) -> ComposeResult:
        yield TopLine(self.app.first_mode)
        with Horizontal(id="main"):
            if self.app.first_mode == "compose":
                stages = ListPanel("stages", id="stages")
                stages.add_options(Option(f"  {section.title}") for section in SECTIONS)
                yield stages

    def on_key(self, event: Key) -> None:
        event.stop()
        self.keys.append(Key(event.key, event.character))
