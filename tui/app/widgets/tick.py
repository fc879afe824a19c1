"""A check box whose state is seen without colour."""

from __future__ import annotations

from textual.widgets import Checkbox


class Tick(Checkbox):
    """The mark is there only when it is set: Textual's has it always, in another colour."""

    BUTTON_INNER = " "

    def watch_value(self) -> None:
        self.BUTTON_INNER = "✓" if self.value else " "
        super().watch_value()
        self.refresh()
