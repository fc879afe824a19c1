"""An expanded prompt, to be read before its run goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.widgets import Button, Static, TextArea

from tui.app.dialogs.base import Dialog
from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What is to become of a run. word: approve, again or mine. text: in place of the expanded one, if any."""

    word: str
    text: str = ""


class ReviewPrompt(Dialog[Reviewed | None]):
    """Ends with what was chosen, or None where it was left with esc: the run goes on waiting."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "choose('approve')", "Approve", id="review.approve", priority=True),
        Binding("escape", "dismiss(None)", "Leave", id="app.back"),
    ]
    CSS = """
    ReviewPrompt.dialog > .box { width: 90; }
    ReviewPrompt Static { height: auto; }
    ReviewPrompt TextArea { height: 10; margin-top: 1; }
    ReviewPrompt Horizontal { height: auto; align-horizontal: right; margin-top: 1; }
    ReviewPrompt Button { margin-left: 2; }
    ReviewPrompt .warning { color: $text-warning; }
    """

    def __init__(self, title: str, text: str, typed: str, warnings: Sequence[str] = ()) -> None:
        """title: who wrote it. text: the expanded prompt, which may be edited here. typed: what it was made from.
        All of it is untrusted."""
        super().__init__()
        self._title, self._text, self._typed, self._warnings = title, text, typed, warnings

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = "expanded prompt"
            box.border_subtitle = "ctrl+r approves, tab goes on, esc leaves the run waiting"
            yield Static(f"{printable(self._title)}, from: {printable(self._typed)}", markup=False)
            yield TextArea(printable(self._text), soft_wrap=True)
            lines = "\n".join(map(printable, self._warnings))
            yield Static(lines, classes="warning", markup=False)
            with Horizontal():
                yield Button("Approve", id="approve", variant="primary", compact=True)
                yield Button("Roll again", id="again", compact=True)
                yield Button("Use mine", id="mine", compact=True)

    def on_mount(self) -> None:
        area = self.query_one(TextArea)
        area.move_cursor(area.document.end)
        area.focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.action_choose(event.button.id or "approve")

    def action_choose(self, word: str) -> None:
        """Approve what is in the editor, have it written anew, or take what was typed."""
        text = self.query_one(TextArea).text.strip()
        is_edited = word == "approve" and text != printable(self._text).strip()
        if is_edited and not text:
            self.notify("there is no prompt to approve", severity="warning")
            return
        self.dismiss(Reviewed(word, text if is_edited else ""))
