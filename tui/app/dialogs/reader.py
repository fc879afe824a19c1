"""Lines to be read over any screen: a report, a log, all about one thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from tui.app.dialogs.base import Dialog
from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType


class Reader(Dialog[None]):
    """Lines that scroll; the keys of lists move them, esc closes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss", "Close", id="reader.close"),
        Binding("j", "roll('down')", "Down", id="reader.down", show=False),
        Binding("k", "roll('up')", "Up", id="reader.up", show=False),
        Binding("g", "roll('home')", "Top", id="reader.top", show=False),
        Binding("G", "roll('end')", "Bottom", id="reader.bottom", show=False),
        Binding("y", "copy", "Copy", id="reader.copy"),
    ]
    CSS = """
    Reader.dialog > .box { width: 110; }
    Reader Static { height: auto; }
    """

    def __init__(self, title: str, lines: Sequence[str], *, at_end: bool = False) -> None:
        """lines: untrusted text. at_end: begin with the last of them, as for a log."""
        super().__init__()
        self._title, self._lines, self._at_end = title, [printable(line) for line in lines], at_end

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box") as box:
            box.border_title = Content(printable(self._title))
            box.border_subtitle = "y copies, esc closes"
            yield Static("\n".join(self._lines) or "(nothing)", markup=False)

    def on_mount(self) -> None:
        box = self.query_one(VerticalScroll)
        box.focus()
        if self._at_end:
            self.call_after_refresh(box.scroll_end, animate=False)

    def action_roll(self, where: str) -> None:
        """One line up or down, or to an end."""
        getattr(self.query_one(VerticalScroll), f"scroll_{where}")(animate=False)

    def action_copy(self) -> None:
        self.app.copy_to_clipboard("\n".join(self._lines))
        self.notify(f"{len(self._lines)} lines are copied")
