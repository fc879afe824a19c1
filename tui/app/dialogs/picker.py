"""A list to pick from, with a line that filters it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.console import Group
from rich.padding import Padding
from rich.text import Text
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from tui.app.asking import asks
from tui.app.dialogs.base import Dialog
from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rich.console import RenderableType
    from textual.app import ComposeResult
    from textual.binding import BindingType


@dataclass(frozen=True, slots=True)
class Item:
    """value: what picking it gives. note: what is said of it, in a second line; empty for none."""

    value: str
    note: str = ""


class Picker(Dialog[str | None]):
    """Ends with the picked value, or None."""

    DEFAULT_CSS = """
    Picker Input { background: $foreground 8%; }
    Picker OptionList { height: auto; max-height: 16; border: none; padding: 0; margin-top: 1; }
    Picker OptionList:focus { border: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Close", id="picker.close"),
        Binding("down", "move(1)", "Down", id="picker.down", show=False, priority=True),
        Binding("up", "move(-1)", "Up", id="picker.up", show=False, priority=True),
    ]

    def __init__(
        self,
        title: str,
        items: Sequence[Item],
        chosen: str = "",
        later: Awaitable[Sequence[Item]] | None = None,
        on_move: Callable[[str], None] | None = None,
    ) -> None:
        """chosen: the value that is highlighted first. later: the same items with more said of them, which takes a
        while to find out. on_move: is told each value that is highlighted, to show it before it is picked."""
        super().__init__()
        self._on_move = on_move
        self._later = later
        self._title = title
        self._items = items
        self._found = list(items)
        self._chosen = chosen

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = self._title
            box.border_subtitle = "type to filter, enter picks, esc closes"
            yield Input(placeholder="filter", compact=True)
            yield OptionList(markup=False)

    def on_mount(self) -> None:
        self._fill()
        values = [item.value for item in self._found]
        if self._chosen in values:
            self.query_one(OptionList).highlighted = values.index(self._chosen)
        if self._later is not None:
            self._await(self._later)

    @asks()
    async def _await(self, later: Awaitable[Sequence[Item]]) -> None:
        self._items = await later
        found, listed = {item.value: item for item in self._items}, self.query_one(OptionList)
        highlighted = listed.highlighted
        self._found = [found[item.value] for item in self._found]
        self._fill()
        listed.highlighted = highlighted

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        words = event.value.lower().split()
        typed = " ".join(words)
        by_name = [item for item in self._items if _holds(item.value, words)]
        by_name.sort(key=lambda item: item.value.lower() != typed)
        by_note = [item for item in self._items if _holds(f"{item.value} {item.note}", words)]
        self._found = list(dict.fromkeys([*by_name, *by_note]))
        self._fill()

    def _fill(self) -> None:
        found = self.query_one(OptionList)
        options = [Option(_shown(item)) for item in self._found]
        found.set_options(options or [Option("nothing fits", disabled=True)])
        found.highlighted = 0 if options else None

    def action_move(self, by: int) -> None:
        """Through the list, wherever the focus is."""
        found = self.query_one(OptionList)
        if by > 0:
            found.action_cursor_down()
        else:
            found.action_cursor_up()

    def on_input_submitted(self) -> None:
        self._pick(self.query_one(OptionList).highlighted)

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        if self._on_move is not None and event.option_index < len(self._found):
            self._on_move(self._found[event.option_index].value)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self._pick(event.option_index)

    def _pick(self, index: int | None) -> None:
        if index is not None and index < len(self._found):
            self.dismiss(self._found[index].value)


def _shown(item: Item) -> Group:
    """The value, and below it the note, indented on each of its lines."""
    lines: list[RenderableType] = [Text(printable(item.value))]
    if item.note:
        lines.append(Padding(Text(printable(item.note)), (0, 0, 0, 2)))
    return Group(*lines)


def _holds(text: str, words: Sequence[str]) -> bool:
    return all(word in text.lower() for word in words)
