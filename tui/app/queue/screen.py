"""The queue: the run at work, then those that wait, in their order and to be put into another."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding
from textual.widgets import Static

from presets.encoding import decode_spec
from store.errors import UnknownRun
from tui.app.asking import Again, asks
from tui.app.base import ModiffScreen
from tui.app.messages import ComposeWith, Queued, WatchRun
from tui.app.queue import text as queue_text
from tui.app.run_view.follower import Follower
from tui.app.top_line import TopLine
from tui.app.widgets.empty import Empty
from tui.app.widgets.footer import Footer
from tui.app.widgets.listing import Listing
from tui.describe.runs.run import queue_rows

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from store.lineage.records import RunRecord
    from store.store import Store
    from tui.describe.health import Status
    from tui.describe.runs.queued import Expected
    from tui.describe.runs.run import RunRow

# Another process may have changed the order, which no count tells of.
SLOW_SECONDS = 3.0
# So often the progress of the run at work is read.
PROGRESS_SECONDS = 1.0

_MOVE = Binding.Group("Move", compact=True)


class Queue(ModiffScreen):
    """The run at work, then those that wait, in the order in which they will be made."""

    CSS_PATH = "queue.tcss"
    HELP = (
        "The run at work is on top, then those that wait, in the order in which they will be made, then those that "
        "were paused. A run that is removed or cancelled keeps what it made and stays in Runs. LEFT is what a run may "
        "still take, by its own steps once it has done some, else by what like runs took."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("K,shift+up", "move(-1)", "One place earlier", id="queue.up", group=_MOVE, key_display="K"),
        Binding("J,shift+down", "move(1)", "One place later", id="queue.down", group=_MOVE, key_display="J"),
        Binding("delete", "drop", "Remove", id="queue.drop", tooltip="Take it out of the queue"),
        Binding("u", "undo", "Undo", id="queue.undo", tooltip="Put back the run that was last taken out or stopped"),
        Binding("e", "edit", "Edit", id="queue.edit", tooltip="Take it back into Compose; also enter"),
        Binding("w", "watch", "Watch", id="queue.watch", tooltip="Show it on Live; enter on the run at work"),
        Binding("r", "resume", "Resume", id="runs.resume", tooltip="Queue the paused run again, to go on where it was"),
        Binding("s", "start", "Start engine", id="queue.start", tooltip="Start an engine; it makes what waits"),
        Binding("space", "pause", "Pause", id="queue.pause", tooltip="Pause the run at work after its present step"),
        Binding("x", "cancel", "Cancel", id="queue.cancel", tooltip="Cancel the run at work; asks first"),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[RunRow] = []
        self._expected: dict[str, Expected] = {}
        self._status: Status | None = None
        self._undo: list[tuple[str, str | None]] = []
        self._problem = ""
        self._num_changes = 0
        self._asked_at = 0.0
        self._progress: Follower | None = None
        self._read = Again(self, self._ask, self._show_problem)
        self._expect = Again(self, self._ask_expectations, self._show_problem)

    def compose(self) -> ComposeResult:
        yield TopLine("queue")
        yield Static("", id="summary", markup=False)
        yield Empty(queue_text.EMPTY, id="nothing")
        listing = Listing(queue_text.COLUMNS, id="waiting")
        listing.add_class("panel")
        listing.border_title = "queue"
        yield listing
        yield Static("", id="about", classes="panel", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        self.app.status_signal.subscribe(self, self._take)
        self._status = self.app.status
        self._show()
        self._read()
        self.set_interval(PROGRESS_SECONDS, self._read_progress)

    def on_screen_resume(self) -> None:
        self._status = self.app.status
        self._read()

    # Looking

    def _take(self, status: Status | None) -> None:
        is_new = _gist(status) != _gist(self._status)
        self._status = status
        if self not in self.app.screen_stack:
            return
        if is_new:
            self._show()
        if is_new or time.monotonic() - self._asked_at > SLOW_SECONDS:
            self._read()

    async def _ask(self) -> None:
        self._asked_at = time.monotonic()
        rows = await self.app.lab.read(queue_rows)
        self._problem = ""
        if not self._num_changes:  # else an older order would show for a moment
            self._rows = rows
        await self._follow()
        self._show()
        if any(row.record.id not in self._expected for row in self._rows):
            self._expect()

    def _read_progress(self) -> None:
        if self.is_active and self._at_work is not None:
            self._read()

    async def _follow(self) -> None:
        """Read on in the log of the run at work."""
        row = self._at_work
        if row is None:
            self._progress = None
            return
        if self._progress is None or self._progress.state.run_id != row.record.id:
            self._progress = Follower(self.app.lab, row.record.id)
        with suppress(UnknownRun):
            while await self._progress.read():
                pass

    async def _ask_expectations(self) -> None:
        missing = [row.record for row in self._rows if row.record.id not in self._expected]
        from tui.describe.runs.queued import expected

        self._expected |= await self.app.lab.work(expected, missing)
        self._show()

    def _show_problem(self, error: Exception) -> None:
        self._problem = self.app.line_for(error)
        self._show()

    def _show(self) -> None:
        listing = self.query_one(Listing)
        state = self._progress.state if self._progress is not None else None
        listing.show(queue_text.table(self._rows, self._expected, state))
        listing.display = bool(self._rows)
        if self._rows and self.focused is None:
            listing.focus()  # a list that was hidden has lost it
        self.query_one("#nothing").display = not self._rows
        self.query_one("#about").display = bool(self._rows)
        told = queue_text.summary(self._rows, self._expected, self._status, state)
        self.query_one("#summary", Static).update(f"✖ {self._problem}" if self._problem else told)
        self._show_about()
        self.refresh_bindings()

    def _show_about(self) -> None:
        if (row := self._current) is not None:
            about = self.query_one("#about", Static)
            about.border_title = f"run {row.record.id}"
            about.update(queue_text.about(row, self._expected))

    def on_data_table_row_highlighted(self) -> None:
        self._show_about()
        self.refresh_bindings()

    @property
    def _at_work(self) -> RunRow | None:
        """The chosen run where it is at work, else the first that is."""
        at_work = [row for row in self._rows if row.record.status == "running"]
        current = self._current
        return current if current in at_work else next(iter(at_work), None)

    @property
    def _queued(self) -> list[RunRow]:
        return [row for row in self._rows if row.record.status == "queued"]

    @property
    def _current(self) -> RunRow | None:
        key = self.query_one(Listing).current
        return next((row for row in self._rows if row.record.id == key), None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        current = self._current if self.is_mounted else None
        is_queued = current is not None and current.record.status == "queued"
        applies = {
            "move": is_queued and len(self._queued) > 1,
            "drop": is_queued,
            "edit": is_queued,
            "watch": current is not None,
            "undo": bool(self._undo),
            "resume": current is not None and current.record.status == "paused",
            "start": self._status is not None and not self._status.engines,
            "pause": self._at_work is not None,
            "cancel": self._at_work is not None,
        }
        return applies.get(action, True)

    # Changing

    @asks(group="change")
    async def _change(self, doing: Awaitable[None]) -> None:
        """Wait for a change of the store; tell where it failed, and show what is so in the end."""
        self._num_changes += 1
        try:
            await doing
        finally:
            self._num_changes -= 1
            self._read()

    def action_move(self, by: int) -> None:
        """One place earlier (-1) or later (1)."""
        row, queued = self._current, self._queued
        if row is None or row not in queued:
            return
        place = queued.index(row)
        if not 0 <= place + by < len(queued):
            return
        queued.insert(place + by, queued.pop(place))
        # shown at once, so that keys in quick succession move on from there
        moved = iter(queued)
        self._rows = [
            next(moved) if each.record.status == "queued" else each for each in self._rows
        ]
        self._show()
        after = queued[place + by + 1 :]
        self._change(self._reorder(row.record.id, after[0].record.id if after else None))

    async def _reorder(self, run_id: str, following: str | None) -> None:
        await self.app.lab.change(lambda store: store.reorder(run_id, following))

    def action_drop(self) -> None:
        if (row := self._current) is not None:
            self._change(self._drop(row))

    async def _drop(self, row: RunRow) -> None:
        run_id, following = row.record.id, self._following(row)
        if (await self.app.lab.change(_take_back, run_id)).status == "queued":
            self._undo.append((run_id, following))
            self.notify(f"run {run_id} is out of the queue; u puts it back", markup=False)
        else:
            self.notify(f"run {run_id} has begun; x cancels it", severity="warning", markup=False)

    def _following(self, row: RunRow) -> str | None:
        """The run that comes after a queued one; after the one at work comes the first."""
        rows = [each.record.id for each in self._rows]
        place = rows.index(row.record.id) + 1
        return rows[place] if place < len(rows) else None

    def action_undo(self) -> None:
        if self._undo:
            self._change(self._put_back(*self._undo.pop()))

    async def _put_back(self, run_id: str, following: str | None) -> None:
        from engine import client

        try:
            await self.app.lab.change(client.resume, run_id)
        except Exception:  # told by who asks; it can be put back again
            self._undo.append((run_id, following))
            raise
        queued = [
            row.record.id
            for row in await self.app.lab.read(queue_rows)
            if row.record.status == "queued"
        ]
        if following in queued and run_id in queued:
            await self._reorder(run_id, following)

    def action_edit(self) -> None:
        if (row := self._current) is not None:
            self._change(self._edit(row))

    async def _edit(self, row: RunRow) -> None:
        """Into Compose, and only then out of the queue: whatever fails, the run is in one of the two."""
        run_id, following = row.record.id, self._following(row)
        if row.record.parent or row.record.segments:
            self.notify(
                f"run {run_id} goes on from run {row.record.parent}; branch that one anew in Runs",
                severity="warning",
                markup=False,
            )
            return
        spec = decode_spec(row.record.spec_json)
        message = ComposeWith(spec, row.record.preset)
        self.post_message(message)
        await message.answered.wait()
        if not message.is_taken:
            return  # another run has taken its place in the form, or the form could not show it
        if (await self.app.lab.change(_take_back, run_id)).status == "queued":
            self._undo.append((run_id, following))
            self.notify(f"run {run_id} is out of the queue, to be edited", markup=False)
        else:
            self.notify(
                f"run {run_id} has begun; this is a copy of it", severity="warning", markup=False
            )

    def action_watch(self) -> None:
        if (row := self._current) is not None:
            self.post_message(WatchRun(row.record.id))

    def on_data_table_row_selected(self) -> None:
        row = self._current
        if row is not None and row.record.status == "queued":
            self.action_edit()
        else:
            self.action_watch()

    def action_resume(self) -> None:
        """Queue the paused run again, last."""
        if (row := self._current) is not None:
            self._change(self._resume(row))

    async def _resume(self, row: RunRow) -> None:
        from engine import client

        await self.app.lab.change(client.resume, row.record.id)
        self.post_message(Queued(row.record.id, watch=False))

    def action_start(self) -> None:
        self.notify("the engine starts; that takes some seconds")
        self.app.ensure_engine()

    def action_pause(self) -> None:
        if (row := self._at_work) is not None:
            self._change(self._pause(row))

    async def _pause(self, row: RunRow) -> None:
        following = self._following(row)
        await self.app.lab.change(lambda store: store.request_pause(row.record.id))
        self._undo.append((row.record.id, following))
        self.notify(
            f"run {row.record.id} pauses after its present step; r on it goes on", markup=False
        )

    @asks()
    async def action_cancel(self) -> None:
        """Ask, then cancel the run at work."""
        from tui.app.dialogs.ask import confirm_cancel

        row = self._at_work
        if row is None:
            return
        if await self.app.push_screen_wait(confirm_cancel(row.record.id, self._status)):
            self._change(self._cancel(row))

    async def _cancel(self, row: RunRow) -> None:
        following = self._following(row)
        await self.app.lab.change(lambda store: store.request_cancel(row.record.id))
        self._undo.append((row.record.id, following))


def _take_back(store: Store, run_id: str) -> RunRecord:
    """Take a queued run out of the queue, to be edited; its record as it was."""
    record = store.run(run_id)
    if record.status == "queued":
        store.request_cancel(run_id)
    return record


def _gist(status: Status | None) -> object:
    """What of a look tells that the queue may be another."""
    if status is None:
        return None
    flags = [(run.id, run.cancel_requested, run.pause_requested) for run in status.running]
    return flags, status.num_queued, status.newest_run, bool(status.engines), status.is_stuck
