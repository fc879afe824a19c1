"""The log of a run: plain lines with their level as a word, followed until the reader scrolls up."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, get_args

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.text import printable

Level = Literal["info", "warning", "error"]

LEVELS: tuple[Level, ...] = get_args(Level)
MAX_LINES = 2000

_WORD_CELLS = max(map(len, LEVELS))


class _Line(NamedTuple):
    time: str
    level: Level
    text: str

    def __str__(self) -> str:
        return f"{self.time} {self.level:{_WORD_CELLS}} {self.text}"


class LogView(ScrollView, can_focus=True):
    """At most MAX_LINES lines, those of at least `level` shown; `e` follows, `l` changes the level.

    The lines below the level are kept too, so that lowering it shows them. A line is drawn when it is in sight: of a
    thousand that come in a second, few ever are (Textual's RichLog draws each when it comes).
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "log-view--error",
        "log-view--time",
        "log-view--warning",
    }
    DEFAULT_CSS = """
    LogView { background: transparent; overflow-x: auto; scrollbar-size: 0 1; scrollbar-background: $background; }
    LogView > .log-view--time { color: $foreground-muted; }
    LogView > .log-view--warning { color: $text-warning; }
    LogView > .log-view--error { color: $text-error; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "follow", "Follow", id="live.follow"),
        Binding("l", "level", "Level", id="live.level"),
    ]

    def __init__(
        self, *, name: str | None = None, id: str | None = None, classes: str | None = None
    ) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self.level: Level = "info"
        self.auto_scroll = True
        self._kept: deque[_Line] = deque(maxlen=MAX_LINES)
        self._shown: deque[_Line] = deque(maxlen=MAX_LINES)
        self._styles: dict[str, Style] = {}  # by part; kept, because each walks all ancestors
        self._describe()

    @property
    def lines(self) -> list[str]:
        """The lines that the level lets through, oldest first."""
        return [str(line) for line in self._shown]

    def add(self, lines: Sequence[tuple[str, str, str]]) -> None:
        """Add (time, level, text) lines at the end, in one batch; an unknown level is `info`."""
        known = [
            _Line(printable(time), _level(level), printable(text))
            for time, level, text in lines[-MAX_LINES:]
        ]
        self._kept.extend(known)
        self._show(known)

    def clear(self) -> None:
        """Forget all lines, also those that the level hides."""
        self._kept.clear()
        self._show_anew()

    def render_line(self, y: int) -> Strip:
        left, top = self.scroll_offset
        width = self.scrollable_content_region.width
        plain = self._styled("plain")
        if top + y >= len(self._shown):
            return Strip.blank(width, plain)
        line = self._shown[top + y]
        strip = Strip(
            [
                Segment(line.time, self._styled("time")),
                Segment(f" {line.level:{_WORD_CELLS}} {line.text}", self._styled(line.level)),
            ]
        )
        return strip.crop_extend(left, left + width, plain)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles.clear()

    def action_follow(self) -> None:
        """Stay at the end as lines come, or stop doing so."""
        self._follow(not self.auto_scroll)

    def action_level(self) -> None:
        """Show info, warning or error lines and those above, in turns."""
        self.level = LEVELS[(LEVELS.index(self.level) + 1) % len(LEVELS)]
        self._show_anew()
        self._describe()

    # Who scrolls up wants to read: new lines must not take the text away. The end follows again.

    def action_scroll_up(self) -> None:
        self._follow(False)
        super().action_scroll_up()

    def action_page_up(self) -> None:
        self._follow(False)
        super().action_page_up()

    def action_scroll_home(self) -> None:
        self._follow(False)
        super().action_scroll_home()

    def action_scroll_end(self) -> None:
        self._follow(True)

    def on_mouse_scroll_up(self) -> None:
        self._follow(False)

    def on_resize(self) -> None:
        """Of another size, as when it is zoomed, it would begin at its top."""
        if self.auto_scroll:
            self.call_after_refresh(self.scroll_end, animate=False, x_axis=False)

    def _follow(self, is_on: bool) -> None:
        self.auto_scroll = is_on
        if is_on:
            self.scroll_end(animate=False)
        self._describe()

    def _show_anew(self) -> None:
        self._shown.clear()
        self.virtual_size = Size(0, 0)
        self._show(self._kept)

    def _show(self, lines: Sequence[_Line] | deque[_Line]) -> None:
        """Put the lines that the level lets through at the end."""
        shown = [line for line in lines if LEVELS.index(line.level) >= LEVELS.index(self.level)]
        self._shown.extend(shown)
        before = self.virtual_size
        widest = max((cell_len(str(line)) for line in shown), default=before.width)
        extent = Size(max(widest, before.width), len(self._shown))
        if extent.width == before.width and self.show_vertical_scrollbar:
            # more to scroll, and nothing else: the layout of the whole screen stays as it is
            self.set_reactive(LogView.virtual_size, extent)
            self.vertical_scrollbar.window_virtual_size = extent.height
        else:
            self.virtual_size = extent
        if self.auto_scroll:
            self.scroll_end(animate=False, immediate=False, x_axis=False)
        self.refresh()

    def _styled(self, part: str) -> Style:
        """The style of a part, on the background of the log, which is another one while focused."""
        if part not in self._styles:
            style = self.rich_style
            if part not in ("plain", "info"):
                own = self.get_component_rich_style(f"log-view--{part}")
                style += Style(color=own.color, bold=own.bold)
            self._styles[part] = style
        return self._styles[part]

    def _describe(self) -> None:
        level = self.level if self.level == LEVELS[-1] else f"{self.level}+"
        self.border_subtitle = f"follow {'on' if self.auto_scroll else 'off'}  level {level}"


def _level(word: str) -> Level:
    return next((level for level in LEVELS if level == word.lower()), "info")
