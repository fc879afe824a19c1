"""What to do with work that goes on when the app is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from tui.app.dialogs.base import Dialog
from tui.text import printable

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from tui.describe.health import Status


class Leaving(Dialog[str | None]):
    """Ends with "detach", "cancel", or None to stay."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "choose('detach')", "Leave it running", id="leave.detach"),
        Binding("c", "choose('cancel')", "Cancel it", id="leave.cancel"),
        Binding("escape", "choose('')", "Stay", id="leave.stay"),
    ]

    def __init__(self, status: Status) -> None:
        super().__init__()
        self._status = status

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = "work goes on"
            box.border_subtitle = "enter chooses, esc stays"
            yield Static(self._sentence() + "\n", markup=False)
            yield OptionList(
                Option(f"d    {self._what_then()}", "detach"),
                Option("c    Cancel all of it; steps that are done stay in the store", "cancel"),
                Option("esc  Stay here", "stay"),
            )

    def _sentence(self) -> str:
        running, num_queued = self._status.running, self._status.num_queued
        count = "1 run waits" if num_queued == 1 else f"{num_queued} runs wait"
        if not running:
            return f"No run is at work, but {count} in the queue."
        told = f"Run {printable(running[0].id)} is at work"
        if len(running) > 1:
            told = f"{len(running)} runs are at work"
        return f"{told}; {count} in the queue." if num_queued else f"{told}."

    def _what_then(self) -> str:
        """What becomes of the work when it is left."""
        if self._status.engines:
            return "Leave; the engine goes on, `modiff` shows it again"
        return "Leave; what waits goes on when an engine starts again"

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        chosen = event.option_id
        self.dismiss(None if chosen in (None, "stay") else chosen)

    def action_choose(self, what: str) -> None:
        self.dismiss(what or None)
