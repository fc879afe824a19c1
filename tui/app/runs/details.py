"""All about one run: its summary, the panels that the live screen has too, its settings."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text
from textual import getters
from textual.containers import Container, Vertical, VerticalScroll
from textual.widgets import Static, TabbedContent, TabPane, Tabs

from store.errors import UnknownRun
from tui.app.asking import asks
from tui.app.base import ModiffBase
from tui.app.run_view.feed import RunFeed
from tui.app.run_view.given import GivenPictures
from tui.app.run_view.view import RunView
from tui.app.widgets.picture import STEP_FPS, Picture
from tui.describe.runs.detail import detail as detail_of
from tui.describe.runs.detail import lines
from tui.describe.runs.given import given_files, given_to
from tui.text import escaped, printable

if TYPE_CHECKING:
    from textual import events
    from textual.app import ComposeResult, RenderResult

    from tui.describe.health import Status
    from tui.describe.runs.detail import Detail
    from tui.describe.runs.run import RunRow

# The cursor may pass over many runs on its way; only where it rests one is read.
_REST_SECONDS = 0.12
# From so many rows the picture lies below the summary, from so many columns beside it.
_BELOW_ROWS = 28
_BESIDE_COLUMNS = 76
_TABS = ("summary", "panels", "settings")


class RunDetails(Vertical):
    """Shows the run that `show` names, and keeps it up to date while it is at work."""

    app = getters.app(ModiffBase)

    def __init__(self) -> None:
        super().__init__(id="details")
        self.detail: Detail | None = None
        self._row: RunRow | None = None
        self._silence = ""
        self._feed: RunFeed | None = None

    def compose(self) -> ComposeResult:
        with TabbedContent(initial="summary"):
            with TabPane("summary", id="summary"), Container(id="summary-body"):
                with VerticalScroll():
                    yield Static(id="summary-lines")
                with Container(id="summary-pictures"):
                    yield Picture(graphics=self.app.graphics, id="summary-picture")
                    yield GivenPictures()
            with TabPane("panels", id="panels"):
                yield RunView()
            with TabPane("settings", id="settings"), VerticalScroll():
                yield Static(id="toml", markup=False)

    def on_resize(self, event: events.Resize) -> None:
        """The picture lies below the summary, beside it where that is too low, nowhere where there is no room."""
        is_high, is_wide = event.size.height >= _BELOW_ROWS, event.size.width >= _BESIDE_COLUMNS
        self.set_class(is_wide and not is_high, "-beside")
        has_picture = (is_high or is_wide) and self.app.preferences.images != "off"
        pictures = self.query_one("#summary-pictures")
        if has_picture != pictures.display:
            pictures.display = has_picture
            self._show_picture()

    @property
    def _picture(self) -> Picture:
        return self.query_one("#summary-picture", Picture)

    @property
    def cursor(self) -> int | None:
        """The step that somebody went to in the panels; None where nobody did, and while they are not open."""
        view = self.query_one(RunView)
        is_open = self.query_one(TabbedContent).active == "panels"
        return view.cursor if is_open and self._feed is not None and not view.is_following else None

    def show(self, row: RunRow | None) -> None:
        """Read a run and show it; None: there is none."""
        before, self._row = self._row, row
        if row is None:
            self._draw(None)
        if row is None or before is None or row.record.id != before.record.id:
            self._end_feed()
        self._read()

    def focus_content(self) -> None:
        """Into the tab that is open."""
        tab = self.query_one(TabbedContent).active
        inside: dict[str, str] = {"panels": "Timeline"}
        self.query_one(f"#{tab} {inside.get(tab, 'VerticalScroll')}").focus()

    def turn_tab(self, by: int) -> None:
        """Open the next tab, or the one before."""
        tabs = self.query_one(TabbedContent)
        has_focus = self.has_focus_within and not self.query_one(Tabs).has_focus
        tabs.active = _TABS[(_TABS.index(tabs.active) + by) % len(_TABS)]
        if has_focus:
            self.call_after_refresh(self.focus_content)

    def on_tabbed_content_tab_activated(self) -> None:
        self._follow()

    def on_mount(self) -> None:
        self.app.status_signal.subscribe(self, self._on_status)

    def _on_status(self, status: Status | None) -> None:
        if status is not None and status.silence != self._silence:
            self.redraw()

    @asks(exclusive=True, group="detail")
    async def _read(self) -> None:
        row = self._row
        if row is None:
            return
        is_other = self.detail is None or self.detail.record.id != row.record.id
        if is_other:
            await asyncio.sleep(_REST_SECONDS)
        try:
            self._draw(await self.app.lab.read(detail_of, row.record.id))
        except UnknownRun:
            self._draw(None)
        else:
            self._follow()

    def redraw(self) -> None:
        """The same again: the ages that are told have grown, or the engine says nothing more."""
        detail, status = self.detail, self.app.status
        self._silence = status.silence if status is not None else ""
        is_at_work = detail is not None and detail.record.status == "running"
        silence = self._silence if is_at_work else ""
        self.query_one("#summary-lines", Static).update(table(detail, silence) if detail else "")

    def _draw(self, detail: Detail | None) -> None:
        self.detail = detail
        self.redraw()
        self.query_one("#toml", Static).update(_toml(detail) if detail else "")
        self._show_picture()

    @asks(exclusive=True, group="picture")
    async def _show_picture(self) -> None:
        """The video, or how far it has come."""
        detail, picture = self.detail, self._picture
        given = self.query_one("#summary-pictures GivenPictures", GivenPictures)
        if detail is None or not self.query_one("#summary-pictures").display:
            picture.show(None)
            given.show(())
            return
        (shown,) = await self.app.lab.shown([(detail, None)])
        if detail is self.detail:
            picture.fps = 0.0 if self.app.is_remote else shown.fps or STEP_FPS
            picture.show(shown.preview, shown.told if shown.preview else "")
        has_given = bool(given_files(detail.spec))
        run_id = detail.record.id
        found = await self.app.lab.read.indexed(given_to, run_id) if has_given else ()
        if detail is self.detail:
            given.show(found)

    # The panels, while they are open

    def _follow(self) -> None:
        """Read the log of the run where its panels are open and nobody does so yet."""
        row = self._row
        is_open = self.query_one(TabbedContent).active == "panels"
        if row is None or not is_open:
            self._end_feed()
        elif self._feed is None or self._feed.run_id != row.record.id:
            self._end_feed()
            self._feed = RunFeed(self.app.lab, row.record.id, self.query_one(RunView))
            self._feed_panels(self._feed)
        elif self._feed.is_over and self._is_resumed(self._feed, row):
            self._feed_panels(self._feed)

    def _is_resumed(self, feed: RunFeed, row: RunRow) -> bool:
        """Whether the run has another attempt than the one that is drawn; it may have ended too."""
        drawn = feed.record
        return not row.record.is_finished or (
            drawn is not None and drawn.ended_ns != row.record.ended_ns
        )

    def _end_feed(self) -> None:
        if self._feed is not None:
            self._feed.end()
            self._feed = None

    @asks(exclusive=True, group="feed")
    async def _feed_panels(self, feed: RunFeed) -> None:
        """Until the run is over and its last page was drawn."""
        try:
            await feed.begin()
            while feed is self._feed:
                feed.silence = self.app.status.silence if self.app.status else ""
                is_seen = self._can_be_seen()
                is_full = await feed.turn() if is_seen else False
                if is_seen and feed.is_over and not is_full:
                    return
                await asyncio.sleep(0 if is_full else feed.pause_seconds(self.app.tick_seconds))
        except Exception as error:
            if feed is self._feed:
                self._end_feed()  # the next look begins again
            if not isinstance(error, UnknownRun):
                raise

    def on_run_view_preview_wanted(self) -> None:
        """A run at work shows it at its next turn."""
        if self._feed is not None and self._feed.is_over:
            self._show_preview(self._feed)

    @asks(exclusive=True, group="preview")
    async def _show_preview(self, feed: RunFeed) -> None:
        await feed.show_preview()

    def _can_be_seen(self) -> bool:
        return self.screen.is_active and bool(self.query_one(RunView).size)


def table(detail: Detail, silence: str) -> RenderResult:
    """silence: what keeps the engine that is at it from giving a sign of life, if anything."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines(detail):
        table.add_row(name, Text(value))
        if name == "status" and silence:
            table.add_row("engine", Text(f"▲ {printable(silence)}", style="bold"))
    return table


def _toml(detail: Detail) -> str:
    import tomli_w

    return escaped(tomli_w.dumps(json.loads(detail.record.spec_json)))
