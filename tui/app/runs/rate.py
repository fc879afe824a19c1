"""How well one likes what a run made: one key."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import Static

from store.lineage.records import MAX_RATING
from tui.app.dialogs.base import Dialog

if TYPE_CHECKING:
    from textual import events
    from textual.app import ComposeResult
    from textual.binding import BindingType


_STARS = {str(stars) for stars in range(MAX_RATING + 1)}


class Rate(Dialog[int | None]):
    """Ends with the stars that were given, 0 for none of them, or None where it was left."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Leave", id="app.back"),
    ]

    def __init__(self, run_id: str, rating: int) -> None:
        """rating: what it has."""
        super().__init__()
        self._run_id, self._rating = run_id, rating

    def on_key(self, event: events.Key) -> None:
        """Digits are no bindings here: those are the app's, for its screens."""
        if event.character is not None and event.character in _STARS:
            event.stop()
            self.dismiss(int(event.character))

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = f"run {self._run_id}"
            box.border_subtitle = "esc leaves"
            given = "★" * self._rating + "☆" * (MAX_RATING - self._rating)
            yield Static(
                f"{given}\n\n1 to {MAX_RATING} gives stars, 0 takes them off. They keep nothing: p pins.",
                markup=False,
            )
