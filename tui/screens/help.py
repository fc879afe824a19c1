"""The keys of a screen, read from its own bindings: `?` everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.text import columns

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.screen import Screen


class Help(ModalScreen[None]):
    """What a screen is for (its docstring's first line and its HELP), and every key that acts on it now."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,question_mark,f1,q", "dismiss", "Close")]

    def __init__(self, screen: Screen[Any]) -> None:
        super().__init__(classes="dialog")
        self._about = screen

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box") as box:
            box.border_title = f"help: {type(self._about).__name__.lower()}"
            box.border_subtitle = "esc closes"
            yield Static(_text(self._about), markup=False)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()


def _text(screen: Screen[Any]) -> str:
    about = (screen.HELP or type(screen).__doc__ or "").strip()
    keys: dict[str, str] = {}
    for _, binding, is_enabled, _ in screen.active_bindings.values():
        if binding.description and is_enabled and not binding.system:
            key = screen.app.get_key_display(binding)
            keys.setdefault(key, binding.tooltip or binding.description)
    everywhere = [
        ("1 to 6", "the screens of the top line"),
        ("Tab, Shift+Tab", "from panel to panel"),
        (screen.app.get_key_display(_palette(screen)), "every action, by its name"),
        ("ctrl+q", "leave; work that goes on is asked about"),
    ]
    lines = columns(list(keys.items()))
    return "\n".join([about, "", *lines, "", "Everywhere", *columns(everywhere)])


def _palette(screen: Screen[Any]) -> Any:
    return next(
        binding
        for _, binding, _, _ in screen.active_bindings.values()
        if binding.action.endswith("command_palette")
    )
