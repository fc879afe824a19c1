"""What a screen is for and the keys that work on it now, read from its own bindings: `?` everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from rich.table import Table
from rich.text import Text
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.widgets import Static

from tui.app.dialogs.base import Dialog
from tui.app.top_line import TABS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import App, ComposeResult
    from textual.binding import BindingType
    from textual.dom import DOMNode
    from textual.screen import Screen

_KEYS_WIDTH = 24
# Textual's own words for what lists and lines of text do, by action.
_PLAIN = {
    "select_cursor": "Open what is under the cursor",
    "cursor_up": "Up",
    "cursor_down": "Down",
    "cursor_left": "Left",
    "cursor_right": "Right",
    "page_up": "A page up",
    "page_down": "A page down",
    "scroll_top": "To the first row",
    "scroll_bottom": "To the last row",
    "scroll_home": "To the beginning",
    "scroll_end": "To the end",
    "scroll_up": "A line up",
    "scroll_down": "A line down",
}
# Textual gives every screen keys for these.
_EVERYWHERE = ("app.focus_next", "app.focus_previous", "screen.copy_text")
_NAMES = {
    "Listing": "list",
    "DataTable": "list",
    "Input": "line of text",
    "TextArea": "text",
    "VerticalScroll": "panel",
    "Tabs": "tabs",
    "ContentTabs": "tabs",
}


class Help(Dialog[None]):
    """What a screen is for (its HELP, or what its class says of itself), and every key that acts on it now."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,f1,q", "dismiss", "Close", id="help.close")
    ]

    def __init__(self, screen: Screen[Any]) -> None:
        super().__init__()
        self._about = screen

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box") as box:
            box.border_title = f"help: {type(self._about).__name__.lower()}"
            box.border_subtitle = "esc closes"
            yield Static(
                self._about.HELP or (type(self._about).__doc__ or "").strip(), markup=False
            )
            for title, keys in sections(self._about):
                yield Static(f"\n{title}", markup=False)
                yield Static(_table(keys))
            if self._about.focused is None:
                yield Static("\nTab goes to a panel; its keys are listed here then.", markup=False)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()


def sections(screen: Screen[Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(title, [(keys, what they do)]) in the order of the bindings; keys of one action stand together."""
    taken = {each.key for _, each in screen.app._bindings if each.priority}
    found: dict[DOMNode, dict[str, tuple[list[str], str]]] = {}
    for node, binding, is_enabled, _ in screen.active_bindings.values():
        if not binding.description or not is_enabled or node is screen.app or binding.system:
            continue
        if node is screen and binding.id is None and binding.action in _EVERYWHERE:
            continue
        if binding.id is None and binding.key in taken:
            continue  # Textual's own, whose key the app has for something else
        keys, _ = found.setdefault(node, {}).setdefault(binding.action, ([], _words(binding)))
        keys.append(shown_key(screen.app, binding))
    told: dict[str, list[tuple[str, str]]] = {}  # panels in one another may have one name
    for node in sorted(found, key=lambda node: node is not screen):
        title = "On this screen" if node is screen else f"In the {_name(node)}"
        told.setdefault(title, []).extend(
            (joined(keys), what) for keys, what in found[node].values()
        )
    return [*told.items(), ("Everywhere", _everywhere())]


def shown_key(app: App[Any], binding: Binding) -> str:
    """The key itself: a footer may show one key for two."""
    return app.get_key_display(replace(binding, key_display=None))


def _everywhere() -> list[tuple[str, str]]:
    numbers = [number for number, _, _ in TABS.values()]
    return [
        (f"{numbers[0]} to {numbers[-1]}", "The screens of the top line, where no text is typed"),
        (
            f"alt+{numbers[0]} to {numbers[-1]}",
            "The same from anywhere, also out of a line of text",
        ),
        ("^pgup, ^pgdn", "The screen before, the next one; from anywhere"),
        ("tab, shift+tab", "From panel to panel"),
        ("^c", "Copy the text that is selected with the mouse"),
        ("esc", "One step back; it never leaves modiff"),
        ("^p", "Every action by its name, every preset, the recent runs"),
        ("f8", "Copy what the last error said"),
        ("f9", "A letter on each panel and field: it goes there"),
        ("?, f1", "This help"),
        ("^q", "Leave modiff; asks where a run is at work"),
    ]


def joined(keys: Sequence[str]) -> str:
    """Several keys for one thing, of which one may be the comma."""
    return (" " if "," in keys else ", ").join(dict.fromkeys(keys))


def _words(binding: Binding) -> str:
    name = binding.action.rpartition(".")[2].partition("(")[0]
    if binding.id is None and name in _PLAIN:
        return _PLAIN[name]
    words = binding.tooltip or binding.description
    return words[:1].upper() + words[1:]


def _name(node: DOMNode) -> str:
    title = getattr(node, "border_title", None)
    name = _NAMES.get(type(node).__name__, "panel")
    return f"{name} “{title}”" if title else name


def _table(keys: list[tuple[str, str]]) -> Table:
    """Keys beside what they do, which stays in its column where it takes several lines."""
    table = Table.grid(padding=(0, 2))
    table.add_column(width=_KEYS_WIDTH)
    table.add_column(ratio=1)
    for key, what in keys:
        table.add_row(Text(f"  {key}"), Text(what))
    return table
