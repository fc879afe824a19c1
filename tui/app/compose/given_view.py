"""Below the path of a picture or a clip: the picture, and what it is and becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import getters
from textual.containers import Horizontal
from textual.widgets import Static

from tui.app.base import ModiffBase
from tui.app.widgets.list_panel import put
from tui.app.widgets.picture import Picture
from tui.text import printable

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from tui.describe.given import Look


class GivenView(Horizontal):
    """Shows a look; takes no room where there is nothing to be seen."""

    app = getters.app(ModiffBase)
    DEFAULT_CSS = """
    GivenView { height: auto; margin: 0 0 1 2; }
    GivenView > Picture { width: 22; height: 9; margin-right: 2; }
    GivenView > Static { width: 1fr; height: auto; color: $text-muted; }
    """

    def __init__(self, name: str) -> None:
        """name: of the setting, as `image`."""
        super().__init__(id=f"given-{name}")
        self.given = name
        self.wanted: object = None  # what is looked at
        self._look: Look | None = None
        self.display = False

    def compose(self) -> ComposeResult:
        yield Picture(graphics=self.app.graphics)
        yield Static(markup=False)

    def on_mount(self) -> None:
        if self._look is not None:
            self._draw(self._look)

    def show(self, look: Look) -> None:
        """Draw this, in the place of what was there; once it is composed."""
        self._look = look
        if self.children:
            self._draw(look)

    def _draw(self, look: Look) -> None:
        picture = self.query_one(Picture)
        has_picture = look.pixels is not None and self.app.preferences.images != "off"
        picture.display = has_picture
        picture.fps = 0.0 if self.app.is_remote else look.fps
        picture.show(look.pixels if has_picture else None)
        put(self.query_one(Static), "\n".join(map(printable, look.lines)))
        self.display = bool(look.lines)
