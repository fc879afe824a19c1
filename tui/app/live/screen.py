"""The live screen: one run as it goes on, and what can be done to it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding

from store.errors import UnknownRun
from tui.app.asking import asks, told
from tui.app.base import ModiffScreen
from tui.app.dialogs.ask import confirm_cancel
from tui.app.messages import BranchFrom, ContinueFrom
from tui.app.run_view.feed import RunFeed
from tui.app.run_view.log_view import LogView
from tui.app.run_view.player import open_or_play, play_or_tell
from tui.app.run_view.review import review
from tui.app.run_view.timeline import Timeline
from tui.app.run_view.view import RunView
from tui.app.top_line import TopLine
from tui.app.widgets.empty import Empty
from tui.app.widgets.footer import Footer
from tui.describe.prompts.expansion import is_to_review
from tui.describe.runs.run import RESUMABLE

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.worker import Worker

    from tui.describe.health import Status

_EMPTY = """\
no runs yet

press 1 to compose one, then ctrl+r to start it"""


class Live(ModiffScreen):
    """One run as it goes on, and what can be done to it."""

    HELP = (
        "One run as it goes on: its stages and steps, what they do to the latents, and how long it will take. Move "
        "along the steps with the arrow keys: the picture and the values are those of that step, and b branches "
        "there. The run goes on when this app is left, and is found here again."
    )
    ALLOW_IN_MAXIMIZED_VIEW = "TopLine, Footer"
    FOR_A_RUN = frozenset(
        {"pause", "resume", "open_output", "branch", "continue", "cancel", "copy"}
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "Pause", id="live.pause"),
        Binding("space,r", "resume", "Resume", id="live.resume", key_display="r"),
        Binding("v", "play", "Play", id="live.play"),
        Binding("o,enter", "open_output", "Open", id="live.open", key_display="o"),
        Binding("b", "branch", "Branch here", id="live.branch"),
        Binding(
            "c", "continue", "Continue", id="run.continue",
            tooltip="a video that begins with its last frame",
        ),
        Binding("x", "cancel", "Cancel", id="live.cancel"),
        Binding("ctrl+d", "detach", "Detach", id="app.detach"),
        Binding("z", "zoom", "Zoom", id="app.zoom"),
        Binding("P", "preview", "Preview on or off", id="live.preview", show=False),
        Binding("n", "next", "Next run: go on to it or stay", id="live.next", show=False),
        Binding("l", "level", "Level of the log", id="live.log_level", show=False),
        Binding("y", "copy", "Copy as command", id="app.copy", show=False),
        Binding("Y", "copy_path", "Copy the path or the id", id="live.copy_path", show=False),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._feed: RunFeed | None = None
        self._reader: Worker[bool] | None = None
        self._goes_on = True
        # the runs at work when this one was chosen: none of them is the next one
        self._at_work: tuple[str, ...] = ()
        self._shows_previews = True
        self._known: tuple[object, ...] = ()
        # what ended before waits until it is asked for; the rest is asked for once
        self._asked_since, self._asked_for = time.time_ns(), ("", 0)

    def compose(self) -> ComposeResult:
        yield TopLine("live")
        yield Empty(_EMPTY, id="empty")
        yield RunView()
        yield Footer()

    def on_mount(self) -> None:
        self._shows_previews = not self.app.is_remote and self.app.preferences.images != "off"
        self.query_one(RunView).display = False
        self.app.status_signal.subscribe(self, self._on_status)

    def on_screen_resume(self) -> None:
        self.query_one(TopLine).show(self.app.status, self.app.trouble)
        if self._feed is not None:
            self._feed.look_again()
        self._watch()

    def on_screen_suspend(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        is_waiting = self._feed is not None and self._feed.state.status == "queued"
        if is_waiting and self.app.current_mode != "live":  # else only a dialog has come over it
            self.app.watched_run = ""  # who comes back wants to see the one at work

    @property
    def _is_reading(self) -> bool:
        return self._reader is not None and not (
            self._reader.is_finished or self._reader.is_cancelled
        )

    # Which run

    @property
    def chosen_run(self) -> str:
        return self._feed.run_id if self._feed is not None else ""

    async def choose_run(self, run_id: str, *, is_alone: bool = False) -> None:
        self.app.watched_run = run_id
        if self.chosen_run != run_id:
            self._watch()

    def _choose(self) -> str:
        """The run that was asked for, else the one at work, else the newest; "" for none."""
        status = self.app.status
        if self.app.watched_run or status is None:
            return self.app.watched_run
        return status.running[0].id if status.running else status.newest_run

    def _on_status(self, status: Status | None) -> None:
        """What another process does to runs is seen here: one begins, is resumed, is asked to stop."""
        if status is None or not self.is_active:
            return
        feed, running = self._feed, status.running
        if feed is not None:
            feed.silence = status.silence
        if feed is None:
            if self._choose() and not self._is_reading:
                self._watch()
            return
        watched = next((run for run in running if run.id == feed.run_id), None)
        new = [run.id for run in running if run.id not in self._at_work]
        if watched is not None:
            feed.record = watched
            if not self._is_reading:
                self._watch()
        elif new and feed.is_over and self._goes_on:
            self.app.watched_run = new[0]
        if self._choose() != feed.run_id:
            self._watch()

    def _watch(self) -> None:
        """Read and draw from now on, until the run is over."""
        self._reader = self.run_worker(self._reading, group="watch", exclusive=True)

    async def _reading(self) -> bool:
        return await self._told(self._read())

    async def _read(self) -> None:
        run_id = self._choose()
        self.query_one("#empty").display = not run_id
        self.query_one(RunView).display = bool(run_id)
        if not run_id:
            return
        feed = self._feed
        if feed is None or feed.run_id != run_id:
            feed = await self._begin(run_id)
        try:
            while True:
                is_full = await feed.turn()
                self._after_turn(feed)
                if feed.is_over and not is_full:
                    return
                self.app.follow(run_id, feed.progress)
                await asyncio.sleep(0 if is_full else feed.pause_seconds(self.app.tick_seconds))
        finally:
            self.app.follow("", None)

    async def _begin(self, run_id: str) -> RunFeed:
        if self._feed is not None:
            self._feed.end()
        view = self.query_one(RunView)
        status = self.app.status
        self._at_work = tuple(run.id for run in status.running) if status else ()
        self._feed = feed = RunFeed(self.app.lab, run_id, view)
        feed.shows_previews = self._shows_previews
        feed.silence = status.silence if status else ""
        self.app.watched_run = run_id
        await feed.begin()
        if self.focused is None:
            view.query_one(Timeline).focus()
        return feed

    def _forget(self) -> None:
        """The run was removed: the next look chooses another."""
        if self._feed is not None:
            self._feed.end()
        self._feed, self.app.watched_run = None, ""
        self.query_one(RunView).display = False
        self.query_one("#empty").display = True
        self.refresh_bindings()

    def _after_turn(self, feed: RunFeed) -> None:
        """Which keys there are follows the state of the run."""
        now = (feed.run_id, feed.state.status, bool(feed.state.steps))
        if now != self._known:
            self._known = now
            self.refresh_bindings()
        asked = (feed.run_id, feed.state.last_id)
        is_fresh = feed.state.last_ns > self._asked_since and asked != self._asked_for
        if self._is_to_review and is_fresh:
            self._asked_for = asked
            self.action_resume()

    def on_run_view_preview_wanted(self) -> None:
        """A run at work shows it at its next turn."""
        if not self._is_reading:
            self._show_preview()

    @asks(exclusive=True, group="preview")
    async def _show_preview(self) -> None:
        if self._feed is not None:
            await self._told(self._feed.show_preview())

    # What can be done

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        status = self._feed.state.status if self._feed else ""
        match action:
            case "pause" | "cancel":
                return status in ("queued", "running")
            case "resume":
                return status in RESUMABLE or self._is_to_review
            case "open_output" | "play" | "continue":
                return bool(self._output())
            case "branch":
                return bool(self._feed and self._feed.state.steps)
            case "detach":
                return self._feed is not None and not self._feed.is_over
            case "copy" | "preview" | "level" | "zoom":
                return bool(status)
            case _:
                return True

    @property
    def _is_to_review(self) -> bool:
        """Whether the run waits for its expanded prompt to be read."""
        feed = self._feed
        record = feed.record if feed is not None and feed.is_over else None
        return record is not None and is_to_review(record)

    def _output(self) -> str:
        """The file of the run, "" before it is there."""
        if self._is_to_review:
            return ""
        feed = self._feed
        is_done = feed is not None and feed.state.status == "done"
        return feed.record.output if feed and is_done and feed.record else ""

    async def _told(self, asked: Awaitable[object]) -> bool:
        """Whether it went well; if not, why is told, and a run that was removed is forgotten."""

        async def ask() -> None:
            try:
                await asked
            except UnknownRun:
                self._forget()
                raise

        return await told(self, ask())

    @asks(group="change")
    async def action_pause(self) -> None:
        """Pause a run: one at work stops when its present step ends, and resumes with the same bits."""
        run_id = self.chosen_run
        if run_id and await self._told(
            self.app.lab.change(lambda store: store.request_pause(run_id))
        ):
            await self.app.look_once()
            self._watch()

    @asks(group="change")
    async def action_resume(self) -> None:
        """Go on with a run; one that waits for its prompt to be read is asked for."""
        from engine import client

        run_id = self.chosen_run
        if run_id and self._is_to_review:
            await self._told(review(self.app, run_id))
            return
        if run_id and await self._told(self.app.lab.change(client.resume, run_id)):
            self.app.ensure_engine()
            await self.app.look_once()
            self._watch()

    @asks(group="change")
    async def action_cancel(self) -> None:
        feed = self._feed
        if feed is None:
            return
        if await self.app.push_screen_wait(confirm_cancel(feed.run_id, self.app.status)):
            await self._told(self.app.lab.change(lambda store: store.request_cancel(feed.run_id)))
            await self.app.look_once()
            self._watch()

    def action_branch(self) -> None:
        """Branch after the step under the cursor."""
        if self._feed is not None:
            self.post_message(BranchFrom(self._feed.run_id, self.query_one(RunView).cursor))

    def action_continue(self) -> None:
        """Compose a video that begins with its last frame."""
        if self._feed is not None:
            self.post_message(ContinueFrom(self._feed.run_id))

    def action_detach(self) -> None:
        """Leave at once: the engine goes on."""
        self.app.exit(0)

    def action_zoom(self) -> None:
        """Give the focused panel the whole screen, or take it back."""
        if self.maximized is not None:
            self.minimize()
        elif self.focused is not None:
            self.maximize(self.focused)

    def action_preview(self) -> None:
        self._shows_previews = not self._shows_previews
        if self._feed is None:
            return
        if self._shows_previews:
            self._feed.allow_previews()
            self._show_preview()
        else:
            self._feed.hide_previews()

    def action_next(self) -> None:
        self._goes_on = not self._goes_on
        told = "goes on to the next run" if self._goes_on else "stays with this run"
        self.notify(f"when this run is over, this screen {told}")

    def action_level(self) -> None:
        self.query_one(LogView).action_level()

    @asks(group="copy")
    async def action_copy(self) -> None:
        """The command that makes it again, into the clipboard."""
        if self._feed is not None:
            await self.app.copy_command(self._feed.run_id)

    def action_copy_path(self) -> None:
        """The path of the file where there is one, else the id."""
        if self._feed is not None:
            self.app.copy(self._output() or self._feed.run_id)

    @asks(exclusive=True, group="open")
    async def action_open_output(self) -> None:
        """Open the file in the desktop's player."""
        if self._feed is not None and self._feed.record is not None:
            await self._told(open_or_play(self.app, self._feed.record))

    @asks(exclusive=True, group="open")
    async def action_play(self) -> None:
        """Play the video in the terminal."""
        if self._feed is not None and self._feed.record is not None:
            await self._told(play_or_tell(self.app, self._feed.record))

    def on_run_head_output_clicked(self) -> None:
        self.action_open_output()

    def on_timeline_chosen(self, message: Timeline.Chosen) -> None:
        """Enter on the timeline, which is where the focus begins."""
        message.stop()
        if self._output():
            self.action_open_output()
