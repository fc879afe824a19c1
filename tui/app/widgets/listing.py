"""A table of things that have names: it fits its width, keeps its cursor on the same thing and fills only when
something has changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.binding import Binding
from textual.widgets import DataTable
from textual.widgets.data_table import RowDoesNotExist

from tui.text import printable, shorten, shorten_front

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual import events
    from textual.binding import BindingType


@dataclass(frozen=True, slots=True)
class Column:
    """width: in cells; 0 for an even part of what the others leave, at least MIN_FREE_CELLS. from_width: of the
    table, below which the column is left out. is_number: set to the right. keeps_end: what is too long loses its
    beginning, as paths do."""

    title: str
    width: int
    from_width: int = 0
    is_number: bool = False
    keeps_end: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """key: unlike that of every other row. cells: as many as there are columns, untrusted text. style: of all."""

    key: str
    cells: tuple[str, ...]
    style: str = ""


MIN_FREE_CELLS = 8
_PADDING = 2  # cells beside every column
_SCROLLBAR = 2


class Listing(DataTable[Text]):
    """Rows by key under fixed columns."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False, id="list.down"),
        Binding("k", "cursor_up", "Up", show=False, id="list.up"),
        Binding("g", "scroll_top", "First", show=False, id="list.first"),
        Binding("G", "last", "Last", show=False, id="list.last"),
        Binding("home", "scroll_top", "First row", show=False, id="list.home"),
        Binding("end", "scroll_bottom", "Last row", show=False, id="list.end"),
    ]

    def __init__(self, columns: Sequence[Column], *, id: str) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=False)
        self._wanted = tuple(columns)
        self._told: tuple[Row, ...] = ()
        self._drawn: tuple[object, ...] = ()

    @property
    def current(self) -> str:
        """The key of the row under the cursor, "" for none."""
        if not 0 <= self.cursor_row < len(self._told):
            return ""
        return self._told[self.cursor_row].key

    def show(self, rows: Sequence[Row], *, columns: Sequence[Column] = ()) -> None:
        """Show these rows, under other columns where some are given. The cursor stays on its row, or at its place
        where that row is gone."""
        before, place = self.current, self.cursor_row
        self._told = tuple(rows)
        if columns:
            self._wanted = tuple(columns)
        self._fill(before, place)

    def select(self, key: str) -> None:
        """Move the cursor to a row; to where it is for a key that is not there."""
        try:
            self.move_cursor(row=self.get_row_index(key), animate=False)
        except RowDoesNotExist:
            return

    def action_last(self) -> None:
        """To the last row."""
        self.action_scroll_bottom()

    def on_resize(self, _event: events.Resize) -> None:
        self._fill(self.current, self.cursor_row)

    def _fill(self, key: str, place: int) -> None:
        width = self.size.width or 80
        shown = [i for i, column in enumerate(self._wanted) if width >= column.from_width]
        fixed = sum(self._wanted[i].width + _PADDING for i in shown)
        num_free = sum(not self._wanted[i].width for i in shown)
        free = max(MIN_FREE_CELLS, (width - fixed - _SCROLLBAR) // max(1, num_free))
        state = (self._told, self._wanted, tuple(shown), free)
        if state == self._drawn:
            return
        self._drawn = state
        self.clear(columns=True)
        widths = {i: self._wanted[i].width or free for i in shown}
        for i in shown:
            self.add_column(
                _aligned(self._wanted[i].title, self._wanted[i], widths[i], "bold"), width=widths[i]
            )
        for row in self._told:
            self.add_row(
                *(_aligned(row.cells[i], self._wanted[i], widths[i], row.style) for i in shown),
                key=row.key,
            )
        keys = [row.key for row in self._told]
        if keys:
            at = keys.index(key) if key in keys else max(0, min(place, len(keys) - 1))
            self.move_cursor(row=at, animate=False)


def _aligned(text: str, column: Column, width: int, style: str) -> Text:
    shown = printable(text)
    shown = shorten_front(shown, width) if column.keeps_end else shorten(shown, width)
    blank = " " * (width - cell_len(shown)) if column.is_number else ""
    return Text(blank + shown, style=style, no_wrap=True)
