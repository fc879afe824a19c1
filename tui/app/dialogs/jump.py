"""A letter on everything that can have the focus: that letter goes there."""

from __future__ import annotations

from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding
from textual.geometry import Offset
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Label

from tui.app.dialogs.base import Dialog

if TYPE_CHECKING:
    from textual import events
    from textual.app import ComposeResult
    from textual.binding import BindingType

# Those under the fingers first.
LETTERS = "asdfghjklqwertyuiopzxcvbnm" + ascii_uppercase


class Jump(Dialog[Widget | None]):
    """Ends with the widget that was chosen, or None."""

    DEFAULT_CSS = """
    Jump { background: $background 40%; }
    Jump.dialog { align: left top; }
    Jump Label {
        position: absolute;
        width: 3;
        height: 1;
        text-align: center;
        text-style: bold;
        color: $block-cursor-foreground;
        background: $block-cursor-background;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Leave", id="app.back")
    ]

    def __init__(self, targets: dict[str, tuple[Widget, Offset]]) -> None:
        """targets: by letter, as of `targets_on`."""
        super().__init__()
        self._targets = targets

    def compose(self) -> ComposeResult:
        for letter, (_, place) in self._targets.items():
            label = Label(letter)
            label.styles.offset = place
            yield label

    def on_key(self, event: events.Key) -> None:
        found = self._targets.get(event.character or "")
        if found is not None:
            event.stop()
            self.dismiss(found[0])


def targets_on(screen: Screen[Any]) -> dict[str, tuple[Widget, Offset]]:
    """By letter what can have the focus and is in sight, with the place of its letter on the screen."""
    shown = [
        (widget, region)
        for widget in screen.focus_chain
        if (region := screen.find_widget(widget).visible_region).area
    ]
    # on the border of a panel, beside its corner; in front of a line
    return {
        letter: (widget, Offset(region.x + (region.height > 2), region.y))
        for letter, (widget, region) in zip(LETTERS, shown, strict=False)
    }
