"""What every screen of ours may ask of the app: the lab, preferences, what is going on, how errors are told.

It knows no screen. A screen asks for another one by a message (see `tui.app.messages`), which the app above answers.
"""

from __future__ import annotations

import os
import time
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec.structs import replace
from textual import getters, work
from textual.app import App
from textual.screen import Screen
from textual.signal import Signal

from tui.app.messages import Queued
from tui.app.preferences import Preferences, load_preferences
from tui.app.top_line import TopLine
from tui.errors import explain
from tui.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from presets.spec import RunSpec
    from tui.app.lab import Lab
    from tui.app.widgets.graphics import ImageMaker
    from tui.describe.health import Status

# Panels of a live run are drawn so often at most.
TICK_SECONDS = 0.2
REMOTE_TICK_SECONDS = 0.5
# How long an error is to be read; the same one is not told again meanwhile.
TOLD_SECONDS = 10.0
_MAX_EXPLAINED = 64


class ModiffBase(App[int]):
    """The app below its screens."""

    def __init__(
        self,
        root: Path | None = None,
        *,
        preferences: Preferences | None = None,
        graphics: ImageMaker | None = None,
    ) -> None:
        """graphics: what draws real pixels in this terminal; half blocks are drawn where it is None."""
        self.preferences = load_preferences() if preferences is None else preferences
        self.loaded_preferences = replace(self.preferences)
        super().__init__()
        self._root = root
        self.is_remote = any(name in os.environ for name in ("SSH_CONNECTION", "SSH_TTY"))
        self.graphics = graphics
        self.status: Status | None = None
        self.trouble = ""
        self.status_signal: Signal[Status | None] = Signal(self, "status")
        self.watched_run = ""
        self._explained: dict[tuple[type[Exception], str], str] = {}
        self._told: tuple[str, float] = ("", 0.0)

    @cached_property
    def lab(self) -> Lab:
        """All that is known and done outside the screen; made when it is first asked."""
        from tui.app.lab import Lab

        return Lab(self._root)

    @property
    def tick_seconds(self) -> float:
        """How often a live panel is drawn at most."""
        return REMOTE_TICK_SECONDS if self.is_remote else TICK_SECONDS

    async def look_once(self) -> None:
        """One look at the store; what keeps it from being read is said once and shown on top until it is gone."""
        was_full = self.status is not None and self.status.is_full
        was_unwritable = self.status is not None and bool(self.status.unwritable)
        try:
            self.status = await self.lab.status()
        except Exception as error:  # noqa: BLE001  # the app outlives whatever the store is going through
            line = self.line_for(error)
            if line != self.trouble:
                self.trouble = line
                self.notify(
                    line, title="store", severity="error", timeout=TOLD_SECONDS, markup=False
                )
        else:
            self.trouble = ""
            if self.status.is_full and not was_full:
                self.notify(
                    "the store's disk is full: what runs compute is neither kept nor shown until there is room",
                    title="store",
                    severity="error",
                    timeout=TOLD_SECONDS,
                )
            if self.status.unwritable and not (was_unwritable or self.status.is_full):
                self.notify(
                    f"its runs can be looked at, and no more: {printable(self.status.unwritable)}",
                    title="store",
                    severity="warning",
                    timeout=TOLD_SECONDS,
                    markup=False,
                )
            for run_id in self.status.orphans:
                self.notify(
                    f"the engine died; run {run_id} is interrupted and can be resumed (Runs, r)",
                    severity="warning",
                    markup=False,
                )
        if not self.screen_stack:  # the app was left while the store was read
            return
        for top in self.screen.query(TopLine):
            top.show(self.status, self.trouble)
        self.status_signal.publish(self.status)

    def line_for(self, error: Exception) -> str:
        """What is wrong, in the words of the command line; the trace of a defect goes to a log file: once, because
        what looks again and again meets the same one again and again."""
        from tui.app.lab import CommandFailed

        if isinstance(error, CommandFailed):
            return printable(str(error))
        known = (type(error), str(error))
        if known not in self._explained:
            if len(self._explained) >= _MAX_EXPLAINED:
                self._explained.clear()
            self._explained[known] = explain(error)[1]
        return self._explained[known]

    def tell_error(self, error: Exception) -> None:
        """Show what is wrong where it is seen on every screen; once while it is shown."""
        line, now = self.line_for(error), time.monotonic()
        if line == self._told[0] and now - self._told[1] < TOLD_SECONDS:
            return
        self._told = line, now
        self.notify(line, title="modiff", severity="error", timeout=TOLD_SECONDS, markup=False)

    @work(group="launch")
    async def launch(self, spec: RunSpec, preset: str, *, watch: bool = True) -> None:
        """Queue a run, see to it that an engine lives, and show it."""
        try:
            run_id = await self.lab.launch(spec, preset)
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            self.tell_error(error)
            return
        self.preferences.remember_prompt(spec.prompt)
        self.post_message(Queued(run_id, watch=watch))

    @work(exclusive=True, group="engine")
    async def ensure_engine(self) -> None:
        """Start an engine if none lives; says so where that fails."""
        try:
            await self.lab.start_engine()
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            self.tell_error(error)

    @work(exclusive=True, group="engine")
    async def stop_engine(self) -> None:
        """Stop the engine; the run at work becomes interrupted."""
        try:
            await self.lab.stop_engine()
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            self.tell_error(error)
        else:
            self.notify("the engine has stopped")

    @work(group="force")
    async def force_engine(self) -> None:
        """End an engine that hears nothing, by force; asks first."""
        from tui.app.dialogs.ask import Confirm

        lines = [
            "The engine's process is killed, whatever it does; for one that hangs or is suspended.",
            "Its run becomes interrupted; steps that are stored stay, and Runs takes it up again.",
        ]
        if not await self.push_screen_wait(Confirm("end the engine by force", lines, "End it")):
            return
        try:
            killed = await self.lab.kill_engines()
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            self.tell_error(error)
        else:
            self.notify("the engine was ended" if killed else "no engine lives")


class ModiffScreen(Screen[None]):
    """A screen of the top line, or one over it that is no question."""

    app = getters.app(ModiffBase)
