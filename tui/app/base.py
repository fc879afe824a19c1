"""What every screen of ours may ask of the app: the lab, preferences, what is going on, how errors are told.

It knows no screen. A screen asks for another one by a message (see `tui.app.messages`), which the app above answers.
"""

from __future__ import annotations

import dataclasses
import os
import time
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from msgspec.structs import replace
from textual import getters, on
from textual._styles_cache import StylesCache
from textual.events import ScreenResume
from textual.screen import Screen
from textual.signal import Signal
from textual.widgets import Input, TextArea
from textual.widgets._toast import ToastRack

from tui.app.asking import asks
from tui.app.key_order import KeysInOrder
from tui.app.messages import Queued
from tui.app.preferences import Preferences, load_preferences
from tui.app.top_line import TopLine
from tui.describe.prompts.expansion import is_to_review
from tui.describe.runs.following import notices
from tui.errors import explain
from tui.text import printable, shorten
from tui.units import clock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from textual.notifications import Notify

    from presets.spec.run import RunSpec
    from store.lineage.records import EngineRecord, RunRecord
    from store.store import Store
    from tui.app.lab import Lab
    from tui.app.widgets.graphics import ImageMaker
    from tui.describe.health import Status
    from tui.describe.runs.following.watch import Progress

# Panels of a live run are drawn so often at most.
TICK_SECONDS = 0.2
REMOTE_TICK_SECONDS = 0.5
# How long an error is to be read; the same one is not told again meanwhile.
TOLD_SECONDS = 10.0
_MAX_EXPLAINED = 64


# Textual's own is by instance, though it says cls: it keeps the drawn lines of a thousand widgets that are gone.
_inner_outer = vars(StylesCache).get("get_inner_outer")
if hasattr(_inner_outer, "cache_info"):
    StylesCache.get_inner_outer = classmethod(_inner_outer)  # type: ignore[assignment,arg-type]


class ModiffBase(KeysInOrder):
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
        # how far a run is, by a screen that follows it
        self._followed: tuple[str, Progress | None] = ("", None)
        self._explained: dict[tuple[type[Exception], str], str] = {}
        self._told: tuple[str, float] = ("", 0.0)
        # what the app itself is at, with the moment when it began
        self._jobs: dict[object, tuple[str, float]] = {}
        self.last_error = ""
        self._title = ""
        self._knows_focus = False

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
            self.status = self._as_followed(await self.lab.status())
        except Exception as error:  # noqa: BLE001  # the app outlives whatever the store is going through
            if self.lab.is_closed:  # it was left meanwhile
                return
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
                line = f"the engine died; run {run_id} is interrupted and can be resumed (Runs, r)"
                self.notify(line, severity="warning", markup=False)
                self._call_over(line)
            self._tell_ended(self.status.ended)
            self._show_title(self.status)
        if not self.screen_stack:  # the app was left while the store was read
            return
        self.show_top()
        self.status_signal.publish(self.status)

    def follow(self, run_id: str, progress: Progress | None) -> None:
        """Have the top line say of a run at work what a screen says of it, which looks more often; "" for none."""
        self._followed = (run_id, progress)
        if self.status is not None and self.screen_stack:
            self.status = self._as_followed(self.status)
            self.show_top()

    def _as_followed(self, status: Status) -> Status:
        run_id, progress = self._followed
        if progress is None or not status.running or status.running[-1].id != run_id:
            return status
        return dataclasses.replace(status, progress=progress)

    def show_top(self) -> None:
        """Draw the top line of the screen that is seen."""
        # not by a query, which asks all widgets, four times a second
        for top in self.screen.children:
            if isinstance(top, TopLine):
                top.show(self.status, self.trouble, self.job_told)

    # What ends while nobody looks

    def _tell_ended(self, ended: Sequence[RunRecord]) -> None:
        """One notice for all that ended since the last look."""
        if not ended or self.preferences.notices == "off":
            return
        last = next((run for run in reversed(ended) if run.status == "failed"), ended[-1])
        line = notices.end_line(last)
        if len(ended) > 1:
            line = f"{len(ended)} runs have ended; {line}"
        is_bad = last.status == "failed"
        where = "" if is_to_review(last) else self.where_shown(last)
        self.notify(
            f"{line}; {where}" if where else line,
            severity="error" if is_bad else "information",
            timeout=TOLD_SECONDS,
            markup=False,
        )
        self._call_over(line)

    def where_shown(self, run: RunRecord) -> str:
        """Where to look for what a run made, or what is left of it; "" where that is seen already. No keys: the notice
        is still read when another screen is shown, where they do something else."""
        return ""

    def _call_over(self, line: str) -> None:
        """Call somebody who looks elsewhere; a terminal that never tells of its focus rings, and no more."""
        if self.preferences.notices != "all" or (self.app_focus and self._knows_focus):
            return
        self.bell()
        if not self.app_focus:
            self.tell_terminal(notices.desktop_notice(line, os.environ))

    def on_app_focus(self) -> None:
        self._knows_focus = True

    def on_app_blur(self) -> None:
        self._knows_focus = True

    def _show_title(self, status: Status) -> None:
        """How far the run at work is, in the terminal's title."""
        if self.preferences.notices != "all":
            return
        title = "modiff"
        if status.running is not None:
            percent = status.progress.percent if status.progress else None
            title = "modiff ▶" if percent is None else f"modiff ▶ {percent} %"
        if title != self._title and (self._title or status.running is not None):
            if not self._title:
                self.tell_terminal(notices.KEEP_TITLE)
            self._title = title
            self.tell_terminal(notices.terminal_title(title))

    def restore_title(self) -> None:
        """Give the terminal the title that it had."""
        if self._title:
            self._title = ""
            self.tell_terminal(notices.TAKE_TITLE_BACK)

    def tell_terminal(self, sequence: str) -> None:
        """Hand the terminal what it acts on, where there is one."""
        if not self.is_headless and self._driver is not None:
            self._driver.write(sequence)

    # What the app itself is at

    @contextmanager
    def job(self, name: str) -> Iterator[None]:
        """While it lasts, the top line tells of it and how long it has been at it."""
        key = object()
        self._jobs[key] = (name, time.monotonic())
        self.show_top()
        try:
            yield
        finally:
            del self._jobs[key]
            if self.screen_stack:  # else the app was left meanwhile
                self.show_top()

    @property
    def job_told(self) -> str:
        """`⟳ verifying j4u4 0:12`, of what began last; "" for nothing."""
        if not self._jobs:
            return ""
        name, began = list(self._jobs.values())[-1]
        more = f" (+{len(self._jobs) - 1})" if len(self._jobs) > 1 else ""
        return f"⟳ {name}{more} {clock(time.monotonic() - began)}"

    def on_notify(self, event: Notify) -> None:
        """Before Textual adds a notice: it takes the place of those that are shown, but for the last error."""
        shown = list(self._notifications)
        new = event.notification.message
        errors = [each for each in shown if each.severity == "error" and each.message != new]
        for notice in shown:
            if notice not in errors[-1:]:
                self._unnotify(notice, refresh=False)
        if event.notification.severity == "error":
            self.last_error = new
        self._drop_holders()

    def _drop_holders(self) -> None:
        """Textual takes away a notice that gives way, and not what held it on the screen."""
        for rack in self.screen.children if self.screen_stack else ():
            if isinstance(rack, ToastRack):
                for holder in rack.children:
                    if holder.is_mounted and not holder.children:
                        holder.remove()

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
        self.notify(
            line, title="modiff (f8 copies)", severity="error", timeout=TOLD_SECONDS, markup=False
        )

    def copy(self, text: str) -> None:
        """Into the clipboard, and says so."""
        self.copy_to_clipboard(text)
        self.notify(f"copied {shorten(printable(text), 200)}", markup=False)

    async def copy_command(self, run_id: str) -> None:
        """The command that makes a run again, into the clipboard. Raises UnknownRun, PresetError."""
        from tui.describe.runs.command_line import command_of

        self.copy(await self.lab.read(command_of, run_id))

    @asks(group="launch")
    async def launch(self, spec: RunSpec, preset: str, *, watch: bool = True) -> None:
        """Queue a run, see to it that an engine lives, and show it."""
        from engine import client

        run_id = await self.lab.change(client.launch, spec, preset=preset)
        self.preferences.remember_prompt(spec.prompt)
        self.post_message(Queued(run_id, watch=watch))

    @asks(exclusive=True, group="engine")
    async def ensure_engine(self) -> None:
        """Start an engine if none lives; says so where that fails."""
        await self.lab.engine(start_engine)

    @asks(exclusive=True, group="engine")
    async def stop_engine(self) -> None:
        """Stop the engine; the run at work becomes interrupted."""
        from engine.process import launch

        await self.lab.engine(launch.stop_engine)
        self.notify("the engine has stopped")

    @asks(exclusive=True, group="release")
    async def release_engines(self) -> None:
        """Have engines let go of the models that they do not use, and say what went."""
        from engine.process.launch import release_engines
        from tui.describe.engines import NO_ENGINE, release_line

        engines = await self.lab.work(release_engines)
        for line in [release_line(each) for each in engines] or [NO_ENGINE]:
            self.notify(line, markup=False)

    @asks(group="force")
    async def force_engine(self) -> None:
        """End an engine that hears nothing, by force; asks first."""
        from engine.process import launch
        from tui.app.dialogs.ask import Confirm

        lines = [
            "The engine's process is killed, whatever it does; for one that hangs or is suspended.",
            "Its run becomes interrupted; steps that are stored stay, and Runs takes it up again.",
        ]
        if not await self.push_screen_wait(Confirm("end the engine by force", lines, "End it")):
            return
        # not in the lane of the engine, where a request to stop may wait for it
        killed = await self.lab.change(launch.kill_engines)
        self.notify("the engine was ended" if killed else "no engine lives")


def start_engine(store: Store) -> EngineRecord:
    """The live engine, started if there is none. Raises EngineUnavailable."""
    from engine.process.launch import ensure_engine

    store.recover()
    return ensure_engine(store)


class ModiffScreen(Screen[None]):
    """A screen of the top line, or one over it that is no question."""

    app = getters.app(ModiffBase)
    # Actions that are for one run: the palette asks which, where none is chosen.
    FOR_A_RUN: ClassVar[frozenset[str]] = frozenset()
    # Those for what is under the cursor, which nobody sees from another screen: only the screen itself offers them.
    NEAR_ONLY: ClassVar[frozenset[str]] = frozenset()

    _was_shown = False

    @on(ScreenResume)
    def _keep_new_styles(self, event: ScreenResume) -> None:
        """Before Textual's own: a new screen has its styles, only one that comes back may have missed some."""
        event.refresh_styles = event.refresh_styles and self._was_shown
        self._was_shown = True

    @property
    def chosen_run(self) -> str:
        """The run that such actions are for now, "" for none."""
        return ""

    async def choose_run(self, run_id: str, *, is_alone: bool = False) -> None:
        """Make it that one, as far as the screen can show it. is_alone: and take all marks."""

    def rest(self) -> None:
        """Take the focus out of a line of text, to where a digit is the key of a screen."""
        if isinstance(self.focused, Input | TextArea):
            selector = self.AUTO_FOCUS if isinstance(self.AUTO_FOCUS, str) else ""
            self.set_focus(next(iter(self.query(selector)), None) if selector else None)
