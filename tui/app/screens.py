"""The screens of the top line: how each is made when it is first opened, and the keys that open them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from textual.binding import Binding

from tui.app.top_line import TABS

if TYPE_CHECKING:
    from textual.binding import BindingType
    from textual.screen import Screen

    from tui.app.base import ModiffScreen

SCREEN_KEYS: tuple[BindingType, ...] = (
    *(
        Binding(number, f"open('{mode}')", name, id=f"app.screen.{mode}", show=False)
        for mode, (number, name, _) in TABS.items()
    ),
    *(  # also where a digit is text
        Binding(
            f"alt+{number}",
            f"open('{mode}')",
            name,
            id=f"app.screen_anywhere.{mode}",
            show=False,
            priority=True,
        )
        for mode, (number, name, _) in TABS.items()
    ),
    Binding(
        "ctrl+pageup",
        "turn(-1)",
        "Screen before",
        id="app.screen_before",
        show=False,
        priority=True,
    ),
    Binding(
        "ctrl+pagedown",
        "turn(1)",
        "Next screen",
        id="app.screen_after",
        show=False,
        priority=True,
    ),
)


def made_screen(mode: str) -> Screen[Any]:
    """The screen of a tab. Its module is imported when it is first opened.

    Its rules are added to those that are parsed already, and it knows how large it will be: Textual parses all rules
    anew for a screen, twice, and finds the styles of all that is on it three times.
    """
    made: ModiffScreen = getattr(import_module(f"tui.app.{mode}.screen"), mode.capitalize())()
    app = made.app
    for path in made.css_path:
        app.stylesheet.add_source(path.read_text(), (str(path), ""))
    made._css_update_count = app._css_update_count
    for breakpoints, extent in (
        (app.HORIZONTAL_BREAKPOINTS, app.size.width),
        (app.VERTICAL_BREAKPOINTS, app.size.height),
    ):
        made.add_class(
            max(each for each in breakpoints or () if extent >= each[0])[1], update=False
        )
    return made
