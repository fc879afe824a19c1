"""One run, read and shown: what the screens that have a RunView do in a loop, a turn at a time."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from engine.runs.expanded import expanded_text
from tui.app.run_view.cells import is_fast
from tui.app.run_view.follower import Follower
from tui.describe.inputs import GIVEN
from tui.describe.plan import decode_seconds, sigmas
from tui.describe.runs.changes import values_within
from tui.describe.runs.detail import detail as detail_of
from tui.describe.runs.following.watch import progress_of
from tui.describe.runs.given import given_files, given_to
from tui.describe.runs.previews import VIDEO, playing_rate, step_told
from tui.describe.runs.run import changes_of_preset

if TYPE_CHECKING:
    from store.lineage.records import RunRecord
    from store.store import Store
    from tui.app.lab import Lab
    from tui.app.run_view.view import RunView
    from tui.describe.runs.following.state import RunState
    from tui.describe.runs.following.watch import Progress

# A picture costs more than all else on the screen; its own frames move in between.
PREVIEW_SECONDS = 0.5
# The next step's picture takes the place of this one, in which there is no more than a frame or two to be seen.
PASSING_FPS = 2.0
# What was changed may take so much of its line, in which the prompt comes after it.
CHANGES_CELLS = 48


class RunFeed:
    """`begin` once, then `turn` again and again; `end` in the end."""

    def __init__(self, lab: Lab, run_id: str, view: RunView) -> None:
        self._lab, self._view = lab, view
        self._follower = Follower(lab, run_id)
        self._sigmas: tuple[float, ...] = ()
        self._decode_seconds: float | None = None
        self._points: frozenset[int] | None = None
        self._has_end = False
        self._asked: asyncio.Task[None] | None = None
        self._preview_due = 0.0
        self._shown: tuple[int, str] = (0, "")
        self._prompt, self._prompt_of = "", ""
        self._changes = ""
        self._given_at = -1
        self.record: RunRecord | None = None
        self.shows_previews = True
        self.silence = ""  # why the engine gives no sign of life, where who has this knows

    @property
    def run_id(self) -> str:
        return self._follower.state.run_id

    @property
    def state(self) -> RunState:
        return self._follower.state

    @property
    def is_over(self) -> bool:
        """Whether this attempt of the run has ended."""
        return self.state.is_over

    @property
    def progress(self) -> Progress:
        """How far it is, as of the last turn."""
        return progress_of(self.state, self._decode_seconds)

    def pause_seconds(self, tick_seconds: float) -> float:
        """Until the next turn; for fast steps it draws all at one stroke, with their picture. tick_seconds: how often
        panels are drawn at most."""
        return max(tick_seconds, PREVIEW_SECONDS) if is_fast(self.state) else tick_seconds

    async def begin(self) -> None:
        """What the log does not say. Raises UnknownRun where the run was removed."""
        self._view.clear()
        self._shown, self._preview_due, self._given_at = (0, ""), 0.0, -1
        if not self.shows_previews:
            self.hide_previews()
        self.record = await self._lab.read(lambda store: store.run(self.run_id))
        self._changes = await self._lab.read(changes_told, self.record)
        self._sigmas = await self._lab.read(sigmas, self.run_id)
        self._asked = asyncio.create_task(self._ask_decode_seconds())

    def look_again(self) -> None:
        """At the next turn, at what is true of a run at rest: a clean-up may have taken what was stored."""
        self._has_end = False

    def end(self) -> None:
        if self._asked is not None:
            self._asked.cancel()

    async def _ask_decode_seconds(self) -> None:
        """It may wait behind long work, and only the time left is the worse without it."""
        with suppress(Exception):
            self._decode_seconds = await self._lab.work(decode_seconds, self.run_id)

    async def turn(self, *, now_ns: int | None = None) -> bool:
        """Read the next page of the log, draw; whether the page was full, so that there is more at once."""
        is_full = await self._follower.read()
        if self.state.expanded != self._prompt_of:
            self._prompt_of = self.state.expanded
            self._prompt = await self._lab.read(expanded_text, self.run_id)
        if not self.state.is_over:
            self._points, self._has_end = None, False
        self.draw(now_ns=now_ns)
        if self.state.is_over and not is_full and not self._has_end:
            await self._ask_end()
            self.draw(now_ns=now_ns)
        if not is_full:
            await self.show_preview()
            await self._show_given()
        return is_full

    def draw(self, *, now_ns: int | None = None) -> None:
        self._view.show(
            self.state,
            record=self.record,
            prompt=self._prompt,
            changes=self._changes,
            sigmas=self._sigmas,
            decode_seconds=self._decode_seconds,
            points=self._points,
            now_ns=now_ns,
            silence=self.silence,
        )

    async def _ask_end(self) -> None:
        """What is true of a run at rest: where its file is, and what is still stored of its steps."""
        detail = await self._lab.read(detail_of, self.run_id)
        self.record, self._points, self._has_end = detail.record, frozenset(detail.points), True
        self._prompt = detail.expanded.text if detail.expanded else ""
        self._preview_due = 0.0  # the last picture must not wait for a turn that nobody takes

    async def show_preview(self) -> None:
        """The picture of the step that is looked at, read at most twice a second while the run is at work; at once
        where a hand moved there. Where the newest step is followed it is the video, once there is one.

        While the newest step is followed and has none (yet), the one before stays.
        """
        view, known = self._view, self.state.steps
        if not (self.shows_previews and view.wants_preview):
            return
        step = view.cursor
        now = time.monotonic()
        is_moved = not view.is_following and step != self._shown[0]
        if now < self._preview_due and not is_moved and not self.is_over:
            return
        self._preview_due = now + PREVIEW_SECONDS
        key = known[step - 1].key if 1 <= step <= len(known) else ""
        if view.is_following and await self._show_video():
            return
        if key and (step, key) == self._shown:
            return
        if view.is_following:
            step, preview = await self._follower.newest_preview()
        else:
            preview = await self._follower.preview(step)
        if preview is not None:
            self._shown = (step, known[step - 1].key)
            view.show_preview(preview, step_told(step), fps=self._step_fps())
        elif not view.is_following:
            self._shown = (step, "")
            view.show_preview(None, f"step {step} has no preview" if step else "the noise")

    def _step_fps(self) -> float | None:
        """Of the picture of a step; None for the usual one."""
        if self.is_over or not self._view.is_following:
            return None
        return 0.0 if is_fast(self.state) else PASSING_FPS

    async def _show_given(self) -> None:
        """What the run began from; of what it has not read yet there is no picture."""
        num_read = sum(stage.status in ("done", "cached") for stage in self.state.stages.values())
        if num_read == self._given_at or not self.shows_previews or self.record is None:
            return
        self._given_at = num_read
        if given_files(json.loads(self.record.spec_json)):
            self._view.show_given(await self._lab.read.indexed(given_to, self.run_id))

    async def _show_video(self) -> bool:
        """Whether there is one, which is shown now."""
        key = self.state.video
        if not key:
            return False
        if self._shown != (len(self.state.steps), key):
            video = await self._follower.video()
            if video is None:
                return False
            self._shown = (len(self.state.steps), key)
            self._view.show_preview(video, VIDEO, fps=self._rate(video.num_frames))
        return True

    def _rate(self, num_frames: int) -> float | None:
        """At which so many frames last as long as the video."""
        return None if self.record is None else playing_rate(self.record.spec_json, num_frames)

    def hide_previews(self) -> None:
        """Take the picture off the screen, and read none."""
        self.shows_previews = False
        self._shown, self._given_at = (0, ""), -1
        self._view.show_preview(None, "previews are off: P shows them")
        self._view.show_given(())

    def allow_previews(self) -> None:
        """Read and show them again."""
        self.shows_previews, self._preview_due = True, 0.0


def changes_told(_store: Store, record: RunRecord) -> str:
    """What a run has otherwise than its preset, `quantise int8, steps 8`; its seed and its files are told beside it."""
    changes = changes_of_preset(record)
    told = {
        key: value
        for key, value in changes.items()
        if key != "seed" and not key.startswith(tuple(f"{name}." for name in GIVEN))
    }
    return values_within(told, CHANGES_CELLS) if told else ""
