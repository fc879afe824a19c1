"""A widget that draws all of its lines at once and keeps them until something has changed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.dom import NoScreen
from textual.errors import NoWidget
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from tui.text import printable, shorten


class Drawn(Widget):
    """Lines come from `draw`, once for each size, style and content; writing them again is free, and only those that
    have changed are written: the rest of a widget costs the terminal, which may be far away, nothing.

    A widget of this kind is never composed and asks for no layout: its size is its parent's affair.
    """

    ALLOW_SELECT = False

    def __init__(
        self, *, name: str | None = None, id: str | None = None, classes: str | None = None
    ) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self._lines: list[Strip] | None = None
        self._lines_size = (0, 0)
        self._painted: list[Strip] | None = None  # while lines wait to be painted
        self._plain: Style | None = None
        self._styles_by_name: dict[str, Style] = {}

    def draw(self, width: int, height: int) -> list[Strip]:
        """At most `height` lines for a content of `width` cells; both are at least 1."""
        raise NotImplementedError

    def redraw(self) -> None:
        """Draw anew, once for all calls of a moment; what is hidden or scrolled away is drawn when it is seen."""
        drawn, self._lines = self._lines, None
        if self._painted is not None:
            return
        if drawn is None:
            self.refresh()
        else:
            self._painted = drawn
            self.call_next(self._repaint)

    def _repaint(self) -> None:
        """Paint the lines that differ from those that were painted last."""
        painted, self._painted = self._painted, None
        if painted is None or self._lines_size != self.size or not self.is_in_view:
            self.refresh()
            return
        width, height = self.size
        pairs = zip_longest(painted, self._drawn(width, height))
        changed = [y for y, (before, now) in enumerate(pairs) if before != now]
        if changed:
            self.refresh(*(Region(0, y, width, 1) for y in changed))

    def _drawn(self, width: int, height: int) -> list[Strip]:
        if self._lines is None or self._lines_size != (width, height):
            self._lines_size = (width, height)
            self._lines = self.draw(width, height) if width > 0 and height > 0 else []
        return self._lines

    @property
    def is_in_view(self) -> bool:
        """Whether any part of it is on the screen rather than hidden or scrolled away."""
        try:
            return bool(self.screen.find_widget(self).visible_region)
        except (NoScreen, NoWidget):
            return False

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._lines = self._painted = self._plain = None
        self._styles_by_name.clear()

    def render_line(self, y: int) -> Strip:
        width, height = self.size
        lines = self._drawn(width, height)
        return lines[y] if y < len(lines) else Strip.blank(width, self.plain)

    @property
    def plain(self) -> Style:
        """The widget's own style; kept, because `rich_style` walks all ancestors at every call."""
        if self._plain is None:
            self._plain = self.rich_style
        return self._plain

    def styled(self, name: str) -> Style:
        """The style of the component class `name`, with the colours behind it; kept as `plain` is."""
        if name not in self._styles_by_name:
            self._styles_by_name[name] = self.get_component_rich_style(name)
        return self._styles_by_name[name]

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
