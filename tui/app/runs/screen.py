"""The runs screen: every run that there was, found, looked into, gone on with."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding
from textual.containers import Horizontal
from textual.worker import WorkerCancelled

from tui.app.asking import asks, is_there, told
from tui.app.base import ModiffScreen
from tui.app.messages import BranchFrom, ContinueFrom
from tui.app.run_view.player import open_or_play, play_or_tell
from tui.app.runs import actions as run_actions
from tui.app.runs.details import RunDetails
from tui.app.runs.list import RUN_LIMIT, RunList
from tui.app.top_line import TopLine
from tui.app.widgets.footer import Footer
from tui.describe.runs import run as summary
from tui.describe.runs.families import families
from tui.describe.runs.finding import filter as searching

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from tui.describe.runs.run import RunRow

# While it is on the screen the list is read so often where runs come and go, and so often at least: who else has the
# store open may tag a run.
_LOOK_SECONDS = 0.5
_REST_SECONDS = 2.0
# How the filter begins that a sweep is shown by.
SWEEP_FILTER = "tag:sweep/"
# An enter that is pressed twice, where the first one led here, is no wish to open a run.
TWICE_SECONDS = 0.5


class Runs(ModiffScreen):
    """Every run that there was: find one, see all about it, go on from any of its steps."""

    CSS_PATH = "runs.tcss"
    AUTO_FOCUS = "RunList Listing"
    NEAR_ONLY = frozenset({"mark", "filter", "tab", "back"})
    FOR_A_RUN = frozenset(
        {
            *("branch", "continue", "go_on", "play", "replay", "verify", "pin", "tags", "note"),
            *("load", "export", "remove", "copy", "copy_id", "compare"),
        }
    )
    HELP = (
        "Every run that there was: find one, see all about it, go on from any of its steps.\n\n"
        "The filter takes words, which must all stand in prompt, note, id, preset or output, any setting (seed:7, "
        "guidance.scale:>3, steps:<=20, scheduler.name:dpm*), preset:NAME, status:done, tag:NAME, tag:sweep/*, "
        "rating:>=4, since:2d, until:2026-11-01 and pinned. DIFFERS tells the settings in which the listed runs of one "
        "preset differ.\n\n"
        "The first two marks are A and B, which d compares; r, X and delete take all that are marked. "
        "G shows the runs as pictures under what tells them from each other. "
        "[ and ] change the tab of the details, and inside its panels the panel; there , and . change the tab."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", id="list.filter"),
        Binding("G", "gallery", "Gallery", id="runs.gallery", tooltip="Thumbnails, and back"),
        Binding("t", "switch", "Tree", id="runs.tree", tooltip="Table or tree of branches"),
        Binding("m", "mark", "Mark", id="list.mark", tooltip="Mark for d, r, X and delete"),
        Binding("d", "compare", "Compare", id="runs.diff", tooltip="Compare A and B, or with A"),
        Binding("b", "branch", "Branch", id="runs.branch", tooltip="Branch from a step"),
        Binding("c", "continue", "Continue", id="run.continue", tooltip="A video that begins with its last frame"),
        Binding("r", "go_on", "Resume", id="runs.resume", tooltip="Resume, or finish what stopped early"),
        Binding("v", "play", "Play", id="runs.play", tooltip="Play the video in the terminal"),
        Binding("o", "open", "Open in the player", id="runs.open", show=False),
        Binding("R", "replay", "Replay", id="runs.replay", show=False),
        Binding("V", "verify", "Verify", id="runs.verify", show=False),
        Binding("asterisk", "rate", "Stars", id="runs.rate", show=False, key_display="*", tooltip="A rating"),
        Binding("p", "pin", "Pin or unpin", id="runs.pin", show=False),
        Binding("T", "tags", "Tags", id="runs.tags", show=False),
        Binding("n", "note", "Note", id="runs.note", show=False),
        Binding("l", "load", "Load into Compose", id="runs.load", show=False),
        Binding("X", "export", "Export a bundle", id="runs.export", show=False),
        Binding("delete", "remove", "Remove", id="runs.remove", show=False, tooltip="Delete from the list"),
        Binding("y", "copy", "Copy as command", id="app.copy", show=False),
        Binding("Y", "copy_id", "Copy the id", id="runs.copy_id", show=False),
        Binding("left_square_bracket,comma", "tab(-1)", "Tab back", id="panel.prev", show=False),
        Binding("right_square_bracket,full_stop", "tab(1)", "Next tab", id="panel.next", show=False ),
        Binding("escape", "back", "Back", id="app.back", show=False),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._search = searching.Search()
        self._known: tuple[object, ...] | None = None
        self._told: tuple[object, ...] | None = None
        self._looked_at = 0.0
        self._trouble = ""
        self._minute = 0
        self._led_here_at = -TWICE_SECONDS
        # the newest run when somebody went from here to another screen; None: nobody has
        self._left_at: str | None = None
        # by run that is seen, how it stood when its picture was asked for
        self._pictured: dict[str, tuple[str, int | None]] = {}

    def compose(self) -> ComposeResult:
        yield TopLine("runs")
        with Horizontal(id="body"):
            preferences = self.app.preferences
            yield RunList(preferences.runs_filter, is_in_tree=preferences.runs_view == "tree")
            yield RunDetails()
        yield Footer()

    @property
    def runs(self) -> RunList:
        return self.query_one(RunList)

    @property
    def details(self) -> RunDetails:
        return self.query_one(RunDetails)

    @property
    def chosen_run(self) -> str:
        row = self.runs.current if self.is_mounted else None
        return row.record.id if row is not None else ""

    async def choose_run(self, run_id: str, *, is_alone: bool = False) -> None:
        with suppress(WorkerCancelled):  # the screen looks again by itself
            await self.look().wait()
        if is_alone:
            self.runs.clear_marks()
        self.runs.select(run_id)
        self.runs.focus_list()

    # The list

    def on_mount(self) -> None:
        try:
            self._search = searching.parse(self.app.preferences.runs_filter)
        except searching.BadSearch as error:
            self.runs.tell(str(error))
        self.set_interval(_LOOK_SECONDS, self._look_if_seen)

    def on_screen_suspend(self) -> None:
        if self.app.current_mode != "runs":  # else only a dialog has come over it
            self._left_at = self.app.status.newest_run if self.app.status else ""

    def on_screen_resume(self) -> None:
        left_at, self._left_at = self._left_at, None
        if left_at is not None:
            self._let_go_of_sweep(left_at)
            self._come_back(left_at)
        else:
            self._look_if_seen()

    def _let_go_of_sweep(self, left_at: str) -> None:
        """The filter that shows a sweep was not typed: it must not hide the run that was made since."""
        status, line = self.app.status, self.app.preferences.runs_filter
        is_new = status is not None and status.newest_run != left_at
        if is_new and line.startswith(SWEEP_FILTER) and self.runs.line == line:
            self._search_for("")

    @asks(exclusive=True, group="back")
    async def _come_back(self, left_at: str) -> None:
        """To the list, and there to the run that was made meanwhile."""
        self.remove_class("-opened")
        self.runs.focus_list()
        with suppress(WorkerCancelled):  # the screen looks again by itself
            await self.look().wait()
        newest = self.runs.newest
        status = self.app.status
        if newest and status is not None and newest == status.newest_run != left_at:
            self.runs.select(newest)

    def _search_for(self, line: str) -> None:
        """By another filter from the next look on, which need not wait for the field to tell of it."""
        self.runs.fill_filter(line)
        self._search, self._known = searching.parse(line), None

    def _look_if_seen(self) -> None:
        is_looking = any(
            worker.group == "look" and worker.node is self and not worker.is_finished
            for worker in self.workers
        )
        status = self.app.status
        told = (
            (status.running, status.num_queued, status.newest_run, status.orphans)
            if status is not None
            else None
        )
        is_due = time.monotonic() - self._looked_at >= _REST_SECONDS
        if self.is_active and not is_looking and (is_due or told != self._told):
            self._told = told
            self.look()

    @asks(exclusive=True, group="look")
    async def look(self) -> None:
        """Read the list again, and draw it where anything has changed."""
        self._looked_at = time.monotonic()
        try:
            rows = await self.app.lab.read(summary.found_rows, self._search, RUN_LIMIT)
            ancestors = await self.app.lab.read(summary.ancestors, rows)
            is_part = self._search != searching.Search()
            total = await self.app.lab.read(lambda store: store.num_runs()) if is_part else None
            minute = time.time_ns() // 60_000_000_000  # the ages that are told change with it
            known = (*rows, None, *ancestors, total, minute)
            if known != self._known:
                relatives = await asyncio.to_thread(families, rows, ancestors)
                self._known = known
                self.runs.show(rows, relatives, total)
            if minute != self._minute:
                self._minute = minute
                self.details.redraw()
            self._tell("")
            self._fetch_pictures()
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            if is_there(self):
                self._tell(self.app.line_for(error))

    def _tell(self, trouble: str) -> None:
        """What keeps the list from being read; what is said of a filter stays until that changes."""
        if trouble != self._trouble:
            self._trouble = trouble
            self.runs.tell(trouble)

    def on_run_list_filtered(self, message: RunList.Filtered) -> None:
        self.app.preferences.runs_filter = message.line
        if message.search != self._search:
            self._search, self._known = message.search, None
            self.look()

    def on_run_list_moved(self, message: RunList.Moved) -> None:
        self.details.show(message.row)
        self.refresh_bindings()

    def on_run_list_opened(self) -> None:
        if time.monotonic() - self._led_here_at < TWICE_SECONDS:
            return
        self.add_class("-opened")
        self.details.focus_content()

    # The gallery

    def show_gallery(self, line: str) -> None:
        """The runs that fit a filter, as pictures."""
        self._led_here_at = time.monotonic()
        self.runs.forget()
        self._search_for(line)
        self.look()  # one that is under way would show those of the filter before
        if not self.runs.is_in_gallery:
            self.action_gallery()
        self.remove_class("-opened")

    def action_gallery(self) -> None:
        """Thumbnails in a grid, and back."""
        self.remove_class("-opened")
        self.runs.switch_gallery()
        self.set_class(self.runs.is_in_gallery, "-gallery")

    def on_thumbnails_seen(self) -> None:
        self._fetch_pictures()

    @asks(exclusive=True, group="pictures")
    async def _fetch_pictures(self) -> None:
        """Those of the tiles that are seen, in one question: of runs that have none yet, that stand otherwise than
        before, and that are at work."""
        if not self.runs.is_in_gallery or self.app.preferences.images == "off":
            return
        records = {row.record.id: row.record for row in self.runs.rows}
        seen = [records[run_id] for run_id in self.runs.thumbnails.seen if run_id in records]
        stands = {run.id: (run.status, run.ended_ns) for run in seen}
        # the pictures of others are not kept
        self._pictured = {run: at for run, at in self._pictured.items() if run in stands}
        wanted = [
            run.id
            for run in seen
            if run.status == "running" or self._pictured.get(run.id) != stands[run.id]
        ]
        if not wanted:
            return
        pictures = await self.app.lab.read.indexed(summary.thumbnails, wanted)
        self._pictured = stands
        self.runs.thumbnails.show_pictures(pictures)

    def action_filter(self) -> None:
        """To the line that says which runs are wanted."""
        self.remove_class("-opened")
        self.runs.focus_filter()

    def action_switch(self) -> None:
        """From table to tree and back."""
        self.runs.switch()
        self.set_class(self.runs.is_in_gallery, "-gallery")
        self.app.preferences.runs_view = "tree" if self.runs.is_in_tree else "table"

    def action_back(self) -> None:
        """One level back: from the details or the filter to the list, from marks to none, from some runs to all."""
        has_list = bool(self.runs.newest)  # else there is none to go back to
        is_away = self.has_class("-opened") or not self.runs.has_list_focus
        self.remove_class("-opened")
        if has_list and is_away:
            self.runs.focus_list()
        elif self.runs.is_in_gallery:
            self.action_gallery()
        elif self.runs.marks:
            self.runs.clear_marks()
            self.notify("no run is marked any more")
        elif self.app.preferences.runs_filter:
            self.runs.fill_filter("")
            self.notify("all runs are shown again")

    def action_tab(self, by: int) -> None:
        """The next tab of the details."""
        self.details.turn_tab(by)

    def action_mark(self) -> None:
        """Mark the run, or take its mark."""
        self.runs.toggle_mark()
        self.refresh_bindings()

    # One run

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        row = self.runs.current if self.is_mounted else None
        if row is None and action in (self.FOR_A_RUN - {"go_on"}) | {"mark", "rate"}:
            return False
        if action == "go_on":
            marked = self.runs.marked if self.is_mounted else []
            return any(summary.can_go_on(each.record) for each in (marked or [row] if row else []))
        if action in ("replay", "verify", "continue"):
            return row is not None and row.record.status == "done"
        if action in ("play", "open"):
            return row is not None and bool(row.record.output) and row.record.status == "done"
        return True

    @asks(group="act")
    async def _do(self, doing: Awaitable[Any]) -> None:
        await told(self, doing)
        self.look()
        self.details.show(self.runs.current)  # what came of it may be in no list

    def _current(self) -> RunRow:
        row = self.runs.current
        assert row is not None  # check_action sees to it
        return row

    def _chosen(self) -> list[RunRow]:
        """The marked runs, or the current one."""
        return self.runs.marked or [self._current()]

    def action_go_on(self) -> None:
        """Resume the marked runs, or this one, or take them to their end."""
        rows, watch = self._chosen(), not self.runs.is_in_gallery

        async def go_on() -> None:
            self.runs.unmark(await run_actions.go_on(self.app, rows, watch=watch))

        self._do(go_on())

    def action_replay(self) -> None:
        """Make its output again from the store."""
        self._do(run_actions.replay(self.app, self._current()))

    def action_verify(self) -> None:
        """Compute it again and compare."""
        self._do(run_actions.verify(self.app, self._current()))

    def action_pin(self) -> None:
        """Pin it, or take the pin off."""
        self._do(run_actions.pin(self.app, self._current()))

    def action_rate(self) -> None:
        """Give it stars."""
        self._do(run_actions.rate(self.app, self._current()))

    def action_tags(self) -> None:
        """Change its tags."""
        self._do(run_actions.edit_tags(self.app, self._current()))

    def action_note(self) -> None:
        """Change its note."""
        self._do(run_actions.edit_note(self.app, self._current()))

    def action_play(self) -> None:
        """Play its video in the terminal."""
        self._do(play_or_tell(self.app, self._current().record))

    def action_open(self) -> None:
        """Open its file in the desktop's player."""
        self._do(open_or_play(self.app, self._current().record))

    def action_export(self) -> None:
        """Write the marked runs, or this one, as a bundle."""
        self._do(run_actions.export(self.app, self._chosen()))

    def action_remove(self) -> None:
        """Remove the marked runs, or this one."""
        self._do(run_actions.remove(self.app, self._chosen()))

    def action_load(self) -> None:
        """Its settings into Compose."""
        try:
            run_actions.load(self.app, self._current())
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            self.app.tell_error(error)

    @asks(group="act")
    async def action_copy(self) -> None:
        """The command that makes it again, into the clipboard."""
        await self.app.copy_command(self._current().record.id)

    def action_copy_id(self) -> None:
        """Its id into the clipboard."""
        self.app.copy(self._current().record.id)

    def action_branch(self) -> None:
        """Branch from the step that is looked at, or from one yet to be chosen."""
        self.post_message(BranchFrom(self._current().record.id, self.details.cursor))

    def action_continue(self) -> None:
        """Compose a video that begins with its last frame."""
        self.post_message(ContinueFrom(self._current().record.id))

    def action_compare(self) -> None:
        """Compare the two marked runs; the current one with a marked one, or with its parent."""
        row = self._current()
        pair = [each.record.id for each in self.runs.marked]
        if len(pair) == 1 and pair[0] != row.record.id:
            pair.append(row.record.id)
        elif not pair and row.record.parent:
            pair = [row.record.parent, row.record.id]
        if len(pair) == 2:
            from tui.app.runs.compare import Compare

            self.app.push_screen(Compare(pair[0], pair[1]))
        else:
            way = "go to another run for d" if pair else "mark one or two runs with m"
            self.notify(f"{way} to compare them", severity="warning")
