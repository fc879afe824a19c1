"""What to do with work that goes on when the app is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from tui.lab import Status


class Leaving(ModalScreen[str | None]):
    """Ends with "detach", "cancel", or None to stay."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("d", "choose('detach')", "Leave it running"),
        ("c", "choose('cancel')", "Cancel it"),
        ("escape", "choose('')", "Stay"),
    ]

    def __init__(self, status: Status) -> None:
        super().__init__(classes="dialog")
        self._status = status

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = "work goes on"
            yield Static(self._sentence() + "\n", markup=False)
            yield OptionList(
                Option(
                    "d  Leave it running: the engine goes on, `modiff` shows it again", "detach"
                ),
                Option("c  Cancel it: steps that are done stay in the store", "cancel"),
                Option("esc  Stay here", "stay"),
            )

    def _sentence(self) -> str:
        running, num_queued = self._status.running, self._status.num_queued
        told = f"Run {running.id} is at work" if running else "No run is at work"
        return told + (f", {num_queued} more in the queue." if num_queued else ".")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        chosen = event.option_id
        self.dismiss(None if chosen in (None, "stay") else chosen)

    def action_choose(self, what: str) -> None:
        self.dismiss(what or None)
