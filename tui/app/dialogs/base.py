"""What every question over a screen is."""

from __future__ import annotations

from textual.await_complete import AwaitComplete
from textual.screen import ModalScreen, ScreenResultType


class Dialog(ModalScreen[ScreenResultType]):
    """Ends once. Textual takes the next screen away for a second answer, as two quick presses of enter give, and ends
    the app where there is none."""

    def __init__(self) -> None:
        super().__init__(classes="dialog")

    def dismiss(self, result: ScreenResultType | None = None) -> AwaitComplete:
        return super().dismiss(result) if self.is_active else AwaitComplete()
