"""The list of runs: a filter, and below it a table, the tree of what was branched from what, or a gallery."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from textual import getters
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.suggester import Suggester
from textual.widgets import ContentSwitcher, Input, Static, Tree

from tui.app.base import ModiffBase
from tui.app.lab import RUN_LIMIT
from tui.app.runs import gallery
from tui.app.runs.tree import RunTree
from tui.app.widgets.listing import Column, Listing, Row
from tui.app.widgets.thumbnails import Thumbnails, Tile
from tui.describe import run as summary
from tui.describe import run_filter as searching
from tui.describe.changes import mark_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from tui.describe.changes import Relative
    from tui.describe.run import RunRow

_COLUMNS = (
    Column("", 1),
    Column("RUN", 10),
    Column("STATUS", 13),
    Column("PRESET", 12, from_width=110),
    Column("PROMPT", 0),
    Column("STEPS", 6, from_width=88, is_number=True),
    Column("TIME", 7, from_width=62, is_number=True),
    Column("AGE", 6, is_number=True),
    Column("TAGS", 14, from_width=100),
    Column("★", 1),
)
_GALLERY_FPS = 4.0
_NO_RUNS = "no runs yet\n\n1 opens Compose; ctrl+r starts a run there"
_NONE_FIT = "no run fits\n\n/ changes the filter"


class RunTable(Listing):
    """The table of runs, in which G is left to the screen, for the gallery."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "last" and super().check_action(action, parameters)


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
        self._titles: dict[str, str] = {}  # of the tiles, for the runs that fit
        self._entitle()
        self._moved: RunRow | None = None

    def compose(self) -> ComposeResult:
        with Horizontal(id="filter-line"):
            yield Static("filter ", id="filter-label")
            yield Input(
                self._line,
                placeholder="words status: tag: preset: since: pinned",
                suggester=_Filters(self),
                select_on_focus=False,
                compact=True,
                id="filter",
            )
            yield Static("", id="found", markup=False)
        yield Static("", id="problem", markup=False)
        with ContentSwitcher(initial="tree" if self._is_in_tree else "table", id="views"):
            yield RunTable(_COLUMNS, id="table")
            yield RunTree()
            yield Thumbnails(fps=0.0 if self.app.is_remote else _GALLERY_FPS, id="gallery")
            yield Static(_NO_RUNS, id="empty")

    # What is shown

    @property
    def current(self) -> RunRow | None:
        return self._rows.get(self._view.current)

    @property
    def rows(self) -> Sequence[RunRow]:
        """Those that fit the filter, and what they descend from."""
        return list(self._rows.values())

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

    def show(self, rows: Sequence[RunRow], relatives: Sequence[Relative]) -> None:
        """rows: those that fit. relatives: the same and their ancestors, as families."""
        self._rows = {each.row.record.id: each.row for each in relatives}
        self._relatives = tuple(relatives)
        self.presets |= dict.fromkeys(row.record.preset for row in rows if row.record.preset)
        self.tags |= dict.fromkeys(tag for row in rows for tag in row.tags)
        self.marks = [run_id for run_id in self.marks if run_id in self._rows]
        more = "+" if len(rows) >= RUN_LIMIT else ""
        self.query_one("#found", Static).update(
            f" {len(rows)}{more} run{'' if len(rows) == 1 else 's'}"
        )
        self._fitting = [row.record.id for row in rows]
        self._draw()

    def _draw(self) -> None:
        view = "gallery" if self._is_in_gallery else "tree" if self._is_in_tree else "table"
        if not self._fitting:
            line = self.query_one(Input).value.strip()
            self.query_one("#empty", Static).update(_NONE_FIT if line else _NO_RUNS)
            view = "empty"
        had_focus = self.query_one("#views").has_focus_within
        self.query_one(ContentSwitcher).current = view
        if self._is_in_gallery:
            self._draw_gallery()
        elif self._is_in_tree:
            self.query_one(RunTree).show(self._relatives, self.marks)
        else:
            now = time.time_ns()
            self.query_one(Listing).show(
                [
                    Row(run_id, summary.cells(self._rows[run_id], mark_of(run_id, self.marks), now))
                    for run_id in self._fitting
                ]
            )
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

    def tell(self, problem: str) -> None:
        """What keeps the list from being read, or a filter from meaning something; "" for nothing."""
        self.query_one("#problem", Static).update(problem)
        self.query_one("#problem").display = bool(problem)

    # What people do

    def focus_list(self) -> None:
        """To the runs, from the filter or from elsewhere."""
        self._view.focus()

    def focus_filter(self) -> None:
        self.query_one(Input).focus()

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
        self.border_title = "gallery" if self._is_in_gallery else title

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
        self.marks.clear()
        self._draw()

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        try:
            search = searching.parse(event.value)
        except searching.BadSearch as error:
            self.tell(str(error))
            return
        self.tell("")
        self.post_message(self.Filtered(event.value, search))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
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


class _Filters(Suggester):
    """Completes the last word of a filter from keys, statuses, and what runs have that were shown."""

    def __init__(self, runs: RunList) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._runs = runs

    async def get_suggestion(self, value: str) -> str | None:
        return searching.complete(value, presets=self._runs.presets, tags=self._runs.tags)
