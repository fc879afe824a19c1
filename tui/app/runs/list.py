"""The list of runs: a filter, and below it a table, the tree of what was branched from what, or a gallery."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from rich.cells import cell_len
from textual import getters
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.suggester import Suggester
from textual.widgets import ContentSwitcher, Input, Static, Tree

from tui.app.base import ModiffBase
from tui.app.runs import gallery
from tui.app.runs.tree import RunTree
from tui.app.widgets.empty import Empty
from tui.app.widgets.listing import Column, Listing, Row
from tui.app.widgets.thumbnails import Thumbnails, Tile
from tui.describe.runs.changes import values_within
from tui.describe.runs.families import mark_of
from tui.describe.runs.finding import filter as searching
from tui.describe.runs.finding.columns import cell, fitting, room
from tui.describe.runs.run import PIN
from tui.text import counted, shorten

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from textual import events
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from tui.describe.runs.families import Relative
    from tui.describe.runs.run import RunRow

# The list ends with so many.
RUN_LIMIT = 500
_COLUMNS = (
    *("symbol", "preset", "rating", "differs", "progress", "time", "age", "tags", "pin", "prompt"),
)
# A column is as wide as what is in it, up to so many cells; the prompt has what is left.
_MOST_CELLS = {"preset": 14, "differs": 32, "tags": 14}
_TITLES = {"symbol": "STATUS", "progress": "STEPS", "rating": "STARS", "pin": PIN}
_NUMBERS = ("progress", "time", "age")
# Left out where no run that is shown says anything there; and in this order where there is no room for the prompt.
_FOR_SOME = ("rating", "differs", "tags", "pin")
_LEAST = ("progress", "tags", "time", "preset", "age")
_MIN_PROMPT_CELLS = 20
_MIN_DIFFERS_CELLS = 16
_MARK_AND_RUN_CELLS = 18  # with what is between columns and the scroll bar
_GALLERY_FPS = 4.0
_NO_RUNS = "no runs yet\n\n1 opens Compose; ctrl+r starts a run there"
_READING = "…"
_NONE_FIT = "no run fits\n\n/ changes the filter"


def table(
    shown: Sequence[RunRow], marks: Sequence[str], now_ns: int, width: int
) -> tuple[list[Column], list[Row]]:
    """The columns that say something of these runs and have room, and a row for each run. marks: of runs, in their
    order. width: of the table, in cells."""
    cells = {
        name: [_TITLES.get(name) or name.upper(), *(_cell(row, name, now_ns) for row in shown)]
        for name in _COLUMNS
    }
    names = [name for name in _COLUMNS if name not in _FOR_SOME or any(cells[name][1:])]
    left = width - _MARK_AND_RUN_CELLS
    names = fitting(names, cells, left, least=_LEAST, min_cells=_MIN_PROMPT_CELLS)
    lacking = max(0, _MIN_PROMPT_CELLS - room(names, cells, left))
    columns = [
        Column("", 1),
        Column("RUN", 10),
        *(_column(name, cells[name], lacking if name == "differs" else 0) for name in names),
    ]
    if "differs" in names:
        at = 2 + names.index("differs")
        cells["differs"][1:] = [values_within(row.differs, columns[at].width) for row in shown]
        columns[at] = _column("differs", cells["differs"], 0)  # what was left out needs no room
    rows = [
        Row(
            row.record.id,
            (mark_of(row.record.id, marks), row.record.id, *(cells[name][at] for name in names)),
        )
        for at, row in enumerate(shown, start=1)
    ]
    return columns, rows


def found_told(number: int, total: int | None) -> str:
    """`11 runs`, `11 of 28 runs` where not all are wanted, `500+ runs` where the list ends before they do."""
    more = "+" if number >= RUN_LIMIT else ""
    if total is None:
        return counted(number, "run").replace(" ", f"{more} ")
    return f"{number}{more} of {counted(total, 'run')}"


def _cell(row: RunRow, name: str, now_ns: int) -> str:
    if name == "differs":
        return values_within(row.differs, _MOST_CELLS[name])
    text = cell(row, name, now_ns)
    return shorten(text, _MOST_CELLS[name]) if name in _MOST_CELLS else text


def _column(name: str, cells: Sequence[str], lacking: int) -> Column:
    """lacking: cells that others need more."""
    widest = max(map(cell_len, cells))
    width = 0 if name == "prompt" else max(widest - lacking, min(widest, _MIN_DIFFERS_CELLS))
    return Column(cells[0], width, is_number=name in _NUMBERS)


class RunTable(Listing):
    """The table of runs, in which G is left to the screen, for the gallery."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "last" and super().check_action(action, parameters)


class RunTiles(Thumbnails):
    """The gallery. At the foot, before all other keys, are those that one comes for."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Open", id="thumbnails.choose"),
        Binding("asterisk", "rate", "Stars", id="runs.rate", key_display="*"),
        Binding("r", "go_on", "Finish", id="runs.resume"),
    ]

    async def action_rate(self) -> None:
        """Give the run under the cursor stars."""
        await self.run_action("screen.rate")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self.screen.check_action(action, parameters) if action == "go_on" else True

    async def action_go_on(self) -> None:
        """Take the marked runs, or the one under the cursor, to their end."""
        await self.run_action("screen.go_on")


class RunList(Vertical):
    """Holds the runs that are shown, which of them is current, and which are marked, in their order."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("g", "first", "First", show=False, id="list.first")
    ]

    class Moved(Message):
        """Another run is current, or the current one has changed; None: there is none."""

        def __init__(self, row: RunRow | None) -> None:
            super().__init__()
            self.row = row

    class Opened(Message):
        """Enter on a run."""

    class Filtered(Message):
        """Another filter is wanted."""

        def __init__(self, line: str, search: searching.Search) -> None:
            super().__init__()
            self.line, self.search = line, search

    app = getters.app(ModiffBase)

    def __init__(self, line: str, *, is_in_tree: bool = False) -> None:
        """line: the filter to begin with."""
        super().__init__(classes="panel")
        self.marks: list[str] = []
        self._line = line
        # that were ever shown here: completed while the filter that is typed has no run yet
        self.presets: dict[str, None] = {}
        self.tags: dict[str, None] = {}
        self._rows: dict[str, RunRow] = {}
        self._relatives: tuple[Relative, ...] = ()
        self._fitting: Sequence[str] = ()
        self._is_in_tree = is_in_tree
        self._is_in_gallery = False
        self._is_reading = False  # those of another filter: until they are there none is shown
        self._titles: dict[str, str] = {}  # of the tiles, for the runs that fit
        self._entitle()
        self._moved: RunRow | None = None

    def compose(self) -> ComposeResult:
        with Horizontal(id="filter-line"):
            yield Static("filter ", id="filter-label")
            yield _Filter(
                self._line,
                placeholder="words seed:7 steps:<=20 status: tag: rating:>=4 since: pinned",
                suggester=_Filters(self),
                select_on_focus=False,
                compact=True,
                id="filter",
            )
            yield Static("", id="found", markup=False)
        yield Static("", id="problem", markup=False)
        with ContentSwitcher(initial="tree" if self._is_in_tree else "table", id="views"):
            yield RunTable(table((), (), 0, 80)[0], id="table")
            yield RunTree()
            yield RunTiles(fps=0.0 if self.app.is_remote else _GALLERY_FPS, id="gallery")
            yield Empty(_NO_RUNS, id="empty")

    # What is shown

    @property
    def current(self) -> RunRow | None:
        return self._rows.get(self._view.current)

    @property
    def rows(self) -> Sequence[RunRow]:
        """Those that fit the filter, and what they descend from."""
        return list(self._rows.values())

    @property
    def newest(self) -> str:
        """The id of the newest run that fits, "" for none."""
        return self._fitting[0] if self._fitting else ""

    @property
    def marked(self) -> list[RunRow]:
        """In the order in which they were marked."""
        return [self._rows[run_id] for run_id in self.marks]

    @property
    def has_list_focus(self) -> bool:
        return self._view.has_focus

    @property
    def _view(self) -> Listing | RunTree | Thumbnails:
        if self._is_in_gallery:
            return self.thumbnails
        return self.query_one(RunTree) if self._is_in_tree else self.query_one(Listing)

    @property
    def thumbnails(self) -> Thumbnails:
        return self.query_one(Thumbnails)

    def show(
        self, rows: Sequence[RunRow], relatives: Sequence[Relative], total: int | None = None
    ) -> None:
        """rows: those that fit. relatives: the same and their ancestors, as families. total: how many runs there are,
        where not all are wanted."""
        self._rows = {each.row.record.id: each.row for each in relatives}
        self._relatives = tuple(relatives)
        self.presets |= dict.fromkeys(row.record.preset for row in rows if row.record.preset)
        self.tags |= dict.fromkeys(tag for row in rows for tag in row.tags)
        self.marks = [run_id for run_id in self.marks if run_id in self._rows]
        self.query_one("#found", Static).update(f" {found_told(len(rows), total)}")
        self._fitting = [row.record.id for row in rows]
        was_reading, self._is_reading = self._is_reading, False
        self._draw()
        if was_reading:
            self.focus_list()

    def forget(self) -> None:
        """Show no run until those of another filter are read, which then have the focus."""
        self._rows, self._relatives, self._fitting = {}, (), ()
        self.marks.clear()
        self._is_reading = True
        self.query_one("#found", Static).update("")
        self._draw()

    def _draw(self) -> None:
        view = "gallery" if self._is_in_gallery else "tree" if self._is_in_tree else "table"
        if not self._fitting:
            line = self.line
            told = _READING if self._is_reading else _NONE_FIT if line else _NO_RUNS
            self.query_one("#empty", Empty).update(told)
            view = "empty"
        had_focus = self.query_one("#views").has_focus_within
        self.query_one(ContentSwitcher).current = view
        if self._is_in_gallery:
            self._draw_gallery()
        elif self._is_in_tree:
            self.query_one(RunTree).show(self._relatives, self.marks)
        else:
            shown = [self._rows[run_id] for run_id in self._fitting]
            listing = self.query_one(Listing)
            # the table itself has no width yet where it was hidden
            width = self.query_one(ContentSwitcher).size.width or 80
            columns, rows = table(shown, self.marks, time.time_ns(), width)
            listing.show(rows, columns=columns)
        if had_focus and view != "empty":
            self._view.focus()
        self._tell_move()

    def _draw_gallery(self) -> None:
        rows = gallery.in_order([self._rows[run_id] for run_id in self._fitting])
        if self._titles.keys() != {*self._fitting}:  # what a run is made of does not change
            self._titles = gallery.titles(rows)
        tiles = [
            Tile(
                row.record.id,
                self._titles[row.record.id],
                gallery.line(row.record),
                mark_of(row.record.id, self.marks),
            )
            for row in rows
        ]
        self.thumbnails.show(tiles, gallery.aspect(rows))
        self._entitle()

    def tell(self, problem: str) -> None:
        """What keeps the list from being read, or a filter from meaning something; "" for nothing."""
        self.query_one("#problem", Static).update(problem)
        self.query_one("#problem").display = bool(problem)

    # What people do

    def focus_list(self) -> None:
        """To the runs, from the filter or from elsewhere."""
        self._view.focus()

    def focus_filter(self) -> None:
        """To its end, where another word can be typed at once."""
        line = self.query_one(Input)
        if line.value.strip():
            line.value = f"{line.value.rstrip()} "
        line.cursor_position = len(line.value)
        line.focus()

    @property
    def line(self) -> str:
        """The filter as it stands there."""
        return self.query_one(Input).value.strip()

    def fill_filter(self, line: str) -> None:
        """Another filter, as if it had been typed."""
        self.query_one(Input).value = line

    def switch(self) -> None:
        """From table to tree and back, on the same run; from the gallery to what was before."""
        if self._is_in_gallery:
            self._change_to(is_in_tree=self._is_in_tree, is_in_gallery=False)
        else:
            self._change_to(is_in_tree=not self._is_in_tree, is_in_gallery=False)

    def switch_gallery(self) -> None:
        """To the gallery, and back to the table or the tree, on the same run."""
        self._change_to(is_in_tree=self._is_in_tree, is_in_gallery=not self._is_in_gallery)

    def _change_to(self, *, is_in_tree: bool, is_in_gallery: bool) -> None:
        run_id = self._view.current
        has_focus = self.query_one("#views").has_focus_within
        self._is_in_tree, self._is_in_gallery = is_in_tree, is_in_gallery
        self._entitle()
        self._draw()
        self.select(run_id)
        if has_focus and self._fitting:
            self._view.focus()

    @property
    def is_in_tree(self) -> bool:
        """Whether it is a tree of branches, rather than a table."""
        return self._is_in_tree

    @property
    def is_in_gallery(self) -> bool:
        """Whether it is a grid of thumbnails, whatever was there before."""
        return self._is_in_gallery

    def _entitle(self) -> None:
        title = "runs and branches" if self._is_in_tree else "runs"
        if self._is_in_gallery:
            tiles = self.thumbnails
            title = gallery.heading(tiles.keys, tiles.seen)
        if self.border_title != title:
            self.border_title = title

    def action_first(self) -> None:
        """To the first run."""
        if self._is_in_gallery:
            self.thumbnails.action_jump(0)
        elif self._is_in_tree:
            self.query_one(RunTree).action_scroll_home()
        else:
            self.query_one(Listing).action_scroll_top()

    def select(self, run_id: str) -> None:
        """Make a run current, where it is shown."""
        self._view.select(run_id)

    def toggle_mark(self) -> None:
        """Mark the current run, or take its mark."""
        run_id = self._view.current
        if run_id in self.marks:
            self.marks.remove(run_id)
        elif run_id:
            self.marks.append(run_id)
        self._draw()

    def clear_marks(self) -> None:
        """Take all marks."""
        self.unmark(tuple(self.marks))

    def unmark(self, run_ids: Collection[str]) -> None:
        """Take the marks of these runs."""
        self.marks = [run_id for run_id in self.marks if run_id not in run_ids]
        self._draw()

    def on_resize(self) -> None:
        """Other columns have room now."""
        if self._fitting and not self._is_in_tree:
            self.call_after_refresh(self._draw)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        try:
            search = searching.parse(event.value)
        except searching.BadSearch as error:
            self.tell(str(error))
            return
        self.tell("")
        self.post_message(self.Filtered(event.value.rstrip(), search))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter takes the value that is offered for a key, and goes to the runs."""
        event.stop()
        offered = searching.complete(event.value, presets=self.presets, tags=self.tags)
        _, colon, _ = event.value.rpartition(" ")[2].partition(":")
        if colon and offered and not (self._fitting or self._is_reading):
            event.input.value = offered
        self.focus_list()

    def on_data_table_row_highlighted(self, event: Listing.RowHighlighted) -> None:
        event.stop()
        self._tell_move()

    def on_tree_node_highlighted(self, event: Tree.NodeHighlighted[str]) -> None:
        event.stop()
        self._tell_move()

    def on_data_table_row_selected(self, event: Listing.RowSelected) -> None:
        event.stop()
        self.post_message(self.Opened())

    def on_tree_node_selected(self, event: Tree.NodeSelected[str]) -> None:
        event.stop()
        self.post_message(self.Opened())

    def on_thumbnails_moved(self, event: Thumbnails.Moved) -> None:
        event.stop()
        self._tell_move()

    def on_thumbnails_seen(self) -> None:
        self._entitle()

    def on_thumbnails_chosen(self, event: Thumbnails.Chosen) -> None:
        event.stop()
        self.post_message(self.Opened())

    def _tell_move(self) -> None:
        row = self.current
        # a narrow tile cuts it
        told = self._titles.get(row.record.id, "") if row and self._is_in_gallery else ""
        if str(self.border_subtitle or "") != told:
            self.border_subtitle = Content(told)
        if row != self._moved:
            self._moved = row
            self.post_message(self.Moved(row))


class _Filter(Input):
    """The filter line. The key that leads to it, pressed once more, is no part of it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_fresh = False

    def on_focus(self) -> None:
        self._is_fresh = True

    def on_blur(self) -> None:
        self._is_fresh = False
        self.value = self.value.rstrip()  # the space that nothing was typed behind

    async def _on_key(self, event: events.Key) -> None:
        is_fresh, self._is_fresh = self._is_fresh, False
        if is_fresh and event.key == "slash":
            event.stop()
            event.prevent_default()
        else:
            await super()._on_key(event)


class _Filters(Suggester):
    """Completes the last word of a filter from keys, statuses, and what runs have that were shown."""

    def __init__(self, runs: RunList) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._runs = runs

    async def get_suggestion(self, value: str) -> str | None:
        return searching.complete(value, presets=self._runs.presets, tags=self._runs.tags)
