"""A choice on one line: all that can be chosen side by side, the chosen in brackets."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.binding import Binding
from textual.message import Message
from textual.widget import Widget

from tui.text import printable, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.style import Style
    from textual import events
    from textual.binding import BindingType


class ChoiceLine(Widget, can_focus=True):
    """One of several, or with `many` any of them. Where they do not fit side by side only the chosen is shown."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"choice-line--chosen", "choice-line--cursor"}
    DEFAULT_CSS = """
    ChoiceLine { height: 1; color: $text-muted; }
    ChoiceLine:focus { background: $surface-lighten-1; }
    ChoiceLine > .choice-line--chosen { color: $foreground; text-style: bold; }
    ChoiceLine > .choice-line--cursor { text-style: reverse; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "Choice before", show=False, id="choice.previous"),
        Binding("right,l", "move(1)", "Choice after", show=False, id="choice.next"),
        Binding("space", "choose", "Choose", show=False, id="choice.choose"),
    ]

    class Chosen(Message):
        """Something else is chosen now."""

    def __init__(
        self, choices: Sequence[str], chosen: Sequence[str], *, many: bool = False
    ) -> None:
        super().__init__()
        self._many = many
        self.show(choices, chosen)

    def show(self, choices: Sequence[str], chosen: Sequence[str]) -> None:
        """Choose from outside: nothing is told."""
        self._choices = tuple(choices)
        self.chosen = tuple(chosen)
        first = self.chosen[0] if self.chosen else ""
        self._cursor = self._choices.index(first) if first in self._choices else 0
        self.refresh()

    @property
    def cells(self) -> int:
        """How wide it is drawn."""
        return self.render().cell_len

    def render(self) -> Text:
        line = self._side_by_side()
        return line if line.cell_len <= self.size.width else self._alone()

    def _side_by_side(self) -> Text:
        line = Text(no_wrap=True)
        for index, choice in enumerate(self._choices):
            is_chosen = choice in self.chosen
            name = _word(choice)
            style = self._style("chosen") if is_chosen else ""
            if self.has_focus and index == self._cursor:
                style = self._style("cursor")
            line.append(f"[{name}]" if is_chosen else f" {name} ", style)
        return line

    def _alone(self) -> Text:
        place = f"{self._cursor + 1} of {len(self._choices)}"
        room = max(3, self.size.width - cell_len(place) - 6)
        chosen = shorten(", ".join(map(_word, self.chosen)), room)
        line = Text(no_wrap=True)
        line.append(f"‹ {chosen} ›", self._style("chosen"))
        return line.append(f"  {place}")

    def action_move(self, by: int) -> None:
        """To the next choice; a single one stops at the ends."""
        self._cursor = min(max(self._cursor + by, 0), len(self._choices) - 1)
        if not self._many:
            self._choose((self._choices[self._cursor],))
        self.refresh()

    def action_choose(self) -> None:
        """Take the one under the cursor in or out; of a single choice, on to the next one, round and round."""
        if not self._many:
            self._cursor = (self._cursor + 1) % len(self._choices)
            self._choose((self._choices[self._cursor],))
            return
        at = self._choices[self._cursor]
        taken = {*self.chosen} ^ {at}
        self._choose(tuple(choice for choice in self._choices if choice in taken))

    def _choose(self, chosen: tuple[str, ...]) -> None:
        if chosen != self.chosen:
            self.chosen = chosen
            self.post_message(self.Chosen())
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        if self._side_by_side().cell_len > self.size.width:
            self.action_choose()
            return
        end = 0
        for index, choice in enumerate(self._choices):
            end += cell_len(_word(choice)) + 2
            if event.x < end:
                self._cursor = index
                if self._many:
                    self.action_choose()
                else:
                    self._choose((choice,))
                return

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"choice-line--{name}", partial=True)


def _word(choice: str) -> str:
    """What is drawn of a choice, also of the empty one."""
    return printable(choice) or "none"
