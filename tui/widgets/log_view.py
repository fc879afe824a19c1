"""The log of a run: plain lines with their level as a word, followed until the reader scrolls up."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.widgets import RichLog

from tui.text import printable

Level = Literal["info", "warning", "error"]

LEVELS: tuple[Level, ...] = get_args(Level)
MAX_LINES = 2000

_WORD_CELLS = max(map(len, LEVELS))


class LogView(RichLog):
    """At most MAX_LINES lines, those of at least `level` shown; `e` follows, `l` changes the level.

    The lines below the level are kept too, so that lowering it shows them.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "log-view--error",
        "log-view--time",
        "log-view--warning",
    }
    DEFAULT_CSS = """
    LogView { background: transparent; overflow-x: auto; scrollbar-size-horizontal: 0; }
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
        super().__init__(max_lines=MAX_LINES, min_width=1, name=name, id=id, classes=classes)
        self.level: Level = "info"
        self._kept: deque[tuple[str, Level, str]] = deque(maxlen=MAX_LINES)
        self._written_width = 0
        self._describe()

    def on_resize(self, event: Resize) -> None:
        """Lines were cut at the width that they were written for."""
        width, self._written_width = self._written_width, event.size.width
        if width not in (0, event.size.width):
            self._rewrite()

    def add(self, lines: Sequence[tuple[str, str, str]]) -> None:
        """Add (time, level, text) lines at the end, in one batch; an unknown level is `info`."""
        known = [(time, _level(level), text) for time, level, text in lines[-MAX_LINES:]]
        self._kept.extend(known)
        self._write(known)

    def clear(self) -> LogView:
        """Forget all lines, also those that the level hides."""
        self._kept.clear()
        super().clear()
        return self

    def action_follow(self) -> None:
        """Stay at the end as lines come, or stop doing so."""
        self._follow(not self.auto_scroll)

    def action_level(self) -> None:
        """Show info, warning or error lines and those above, in turns."""
        self.level = LEVELS[(LEVELS.index(self.level) + 1) % len(LEVELS)]
        self._rewrite()
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

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, lambda _theme: self._rewrite())

    def _follow(self, is_on: bool) -> None:
        self.auto_scroll = is_on
        if is_on:
            self.scroll_end(animate=False)
        self._describe()

    def _rewrite(self) -> None:
        super().clear()
        self._write(self._kept)

    def _write(
        self, lines: Sequence[tuple[str, Level, str]] | deque[tuple[str, Level, str]]
    ) -> None:
        """Draw the lines that the level lets through, as one text of many lines."""
        shown = [line for line in lines if LEVELS.index(line[1]) >= LEVELS.index(self.level)]
        if shown:
            self.write(Text("\n").join(map(self._text, shown)))

    def _text(self, line: tuple[str, Level, str]) -> Text:
        time, level, text = line
        return Text.assemble(
            (printable(time), self._colour("time")),
            (f" {level:{_WORD_CELLS}} {printable(text)}", self._colour(level)),
        )

    def _colour(self, part: str) -> Style:
        """The style of a part without its background, which is another one while focused."""
        if part == "info":
            return Style.null()
        style = self.get_component_rich_style(f"log-view--{part}")
        return Style(color=style.color, bold=style.bold)

    def _describe(self) -> None:
        level = self.level if self.level == LEVELS[-1] else f"{self.level}+"
        self.border_subtitle = f"follow {'on' if self.auto_scroll else 'off'}  level {level}"


def _level(word: str) -> Level:
    return next((level for level in LEVELS if level == word.lower()), "info")
