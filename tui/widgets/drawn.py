"""A widget that draws all of its lines at once and keeps them until something has changed."""

from __future__ import annotations

from collections.abc import Iterable

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from tui.text import printable, shorten


class Drawn(Widget):
    """Lines come from `draw`, once for each size, style and content; writing them again is free.

    A widget of this kind is never composed and asks for no layout: its size is its parent's affair.
    """

    ALLOW_SELECT = False
    _lines: list[Strip] | None = None
    _lines_size: tuple[int, int] = (0, 0)
    _plain: Style | None = None

    def draw(self, width: int, height: int) -> list[Strip]:
        """At most `height` lines for a content of `width` cells; both are at least 1."""
        raise NotImplementedError

    def redraw(self) -> None:
        """Forget the lines and paint when Textual next does; costs nothing while not visible."""
        self._lines = None
        self.refresh()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._lines = self._plain = None

    def render_line(self, y: int) -> Strip:
        width, height = self.size
        if self._lines is None or self._lines_size != (width, height):
            self._lines_size = (width, height)
            self._lines = self.draw(width, height) if width > 0 and height > 0 else []
        return self._lines[y] if y < len(self._lines) else Strip.blank(width, self.plain)

    @property
    def plain(self) -> Style:
        """The widget's own style; kept, because `rich_style` walks all ancestors at every call."""
        if self._plain is None:
            self._plain = self.rich_style
        return self._plain

    def styled(self, name: str) -> Style:
        """The style of the component class `name`, with the colours behind it."""
        return self.get_component_rich_style(name)

    def line(self, parts: Iterable[tuple[str, Style]], width: int) -> Strip:
        """Texts side by side as one line of exactly `width` cells: cut or filled at its end."""
        strip = Strip([Segment(text, style) for text, style in parts if text])
        return strip.adjust_cell_length(width, self.plain)

    def centred(self, text: str, style: Style, width: int, height: int) -> list[Strip]:
        """One line of text in the middle of `width` by `height` cells."""
        shown = shorten(printable(text), width)
        middle = " " * ((width - cell_len(shown)) // 2) + shown
        lines = [Strip.blank(width, self.plain)] * height
        lines[(height - 1) // 2] = self.line([(middle, style)], width)
        return lines
