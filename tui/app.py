"""The Textual app: modes, what is true everywhere (status, notices, leaving), and the wires between screens.

Screens ask `app.lab` and draw; nothing here or there imports torch. One worker looks at the store at a fixed pace and
tells every screen through `status_signal`; what a screen shows beyond that it asks for itself.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from contextlib import suppress
from functools import cached_property, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec.structs import replace
from textual import work
from textual.app import App
from textual.await_complete import AwaitComplete
from textual.binding import Binding
from textual.signal import Signal
from textual.worker import WorkerCancelled

from tui.failures import explain
from tui.frame import TABS, TopLine
from tui.harmless import Harmless
from tui.preferences import Preferences, load_preferences, save_preferences
from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from textual.binding import BindingType
    from textual.command import Provider
    from textual.filter import LineFilter
    from textual.screen import Screen

    from presets.spec import RunSpec
    from tui.lab import Lab, Status
    from tui.widgets.graphics import ImageMaker

# How often the store is looked at; over a network link every redraw costs.
LOOK_SECONDS = 0.25
REMOTE_LOOK_SECONDS = 1.0
# How long leaving waits for a last look.
LEAVE_LOOK_SECONDS = 0.5
# Panels of a live run are drawn so often at most.
TICK_SECONDS = 0.2
REMOTE_TICK_SECONDS = 0.5
# How long an error is to be read; the same one is not told again meanwhile.
TOLD_SECONDS = 10.0
_MAX_EXPLAINED = 64


def _commands() -> type[Provider]:
    """What the palette offers; imported when it is first opened."""
    from tui.palette import Commands

    return Commands


def _make_screen(mode: str) -> Screen[Any]:
    """A screen's module is imported when the screen is first opened."""
    made: Screen[Any] = getattr(import_module(f"tui.screens.{mode}"), mode.capitalize())()
    return made


class ModiffApp(App[int]):
    """`modiff` without arguments."""

    TITLE = "modiff"
    CSS_PATH = "styles/app.tcss"
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        mode: partial(_make_screen, mode) for mode in ("start", *TABS)
    }
    DEFAULT_MODE: ClassVar[str] = "start"
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {_commands}
    HORIZONTAL_BREAKPOINTS: ClassVar[list[tuple[int, str]] | None] = [  # type: ignore[misc]
        (0, "-narrow"),
        (100, "-wide"),
    ]
    VERTICAL_BREAKPOINTS: ClassVar[list[tuple[int, str]] | None] = [  # type: ignore[misc]
        (0, "-short"),
        (30, "-tall"),
    ]
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(number, f"open('{mode}')", name, id=f"app.screen.{mode}", show=False)
            for mode, (number, name, _) in TABS.items()
        ),
        Binding("question_mark,f1", "help", "Help", id="app.help", key_display="?"),
        Binding("ctrl+q", "leave", "Quit", id="app.quit", show=False, priority=True),
    ]

    def __init__(
        self,
        root: Path | None = None,
        *,
        preferences: Preferences | None = None,
        graphics: ImageMaker | None = None,
    ) -> None:
        """graphics: what draws real pixels in this terminal; half blocks are drawn where it is None."""
        self.preferences = load_preferences() if preferences is None else preferences
        self._loaded_preferences = replace(self.preferences)
        super().__init__()
        self._root = root
        self.is_remote = any(name in os.environ for name in ("SSH_CONNECTION", "SSH_TTY"))
        self.graphics = graphics
        self.status: Status | None = None
        self.trouble = ""
        self.status_signal: Signal[Status | None] = Signal(self, "status")
        self.watched_run = ""
        self._harmless = Harmless()
        self._explained: dict[tuple[type[Exception], str], str] = {}
        self._told: tuple[str, float] = ("", 0.0)
        if self.is_remote:
            self.animation_level = "none"

    @cached_property
    def lab(self) -> Lab:
        """All that is known and done outside the screen; made when it is first asked."""
        from tui.lab import Lab

        return Lab(self._root)

    @property
    def tick_seconds(self) -> float:
        """How often a live panel is drawn at most."""
        return REMOTE_TICK_SECONDS if self.is_remote else TICK_SECONDS

    def on_mount(self) -> None:
        if self.preferences.theme in self.available_themes:
            self.theme = self.preferences.theme
        self.theme_changed_signal.subscribe(self, self._remember_theme)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            # Textual ends at once on these, with the terminal not restored
            loop.add_signal_handler(number, self.exit, 128 + number)

    @property
    def first_mode(self) -> str:
        """The screen on which the last app was left."""
        return self.preferences.screen if self.preferences.screen in TABS else "compose"

    def on_ready(self) -> None:
        self.call_after_refresh(self._open_first)

    async def _open_first(self) -> None:
        """Importing and mounting a screen takes longer than the start of the app: its frame is there meanwhile. What
        is typed now waits in the queue that this holds up; what was typed before, the frame has kept."""
        from tui.screens.start import Start

        await self.switch_mode(self.first_mode)
        start = self.get_screen_stack(self.DEFAULT_MODE)[0]
        assert isinstance(start, Start)
        for key in start.keys:
            await self.on_event(key)
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        if not gc.isenabled():  # see tui.launch
            gc.freeze()  # what is here now stays: the collector need not look through it again and again
            gc.enable()
        self._look()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What would open over the first frame would stay behind with it: its key is kept instead."""
        if action == "command_palette" and self.current_mode == self.DEFAULT_MODE:
            return False
        return super().check_action(action, parameters)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Textual's ANSI themes lack this one."""
        return {"foreground-disabled": "ansi_default 50%"}

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), self._harmless]

    def pop_screen(self) -> AwaitComplete:
        """The last screen stays. Textual's palette leaves once for each of several quick presses of enter."""
        return super().pop_screen() if len(self.screen_stack) > 1 else AwaitComplete()

    def _remember_theme(self, _theme: object) -> None:
        self.preferences.theme = self.theme

    def action_open(self, mode: str) -> None:
        """Open a screen of the top line."""
        self.preferences.screen = mode
        self.switch_mode(mode)

    def on_top_line_tab_chosen(self, message: TopLine.TabChosen) -> None:
        self.action_open(message.mode)

    # What is going on

    @work(exclusive=True, group="look")
    async def _look(self) -> None:
        if self.first_mode == "compose":
            await asyncio.sleep(LOOK_SECONDS)  # its thread would slow the painting of the form
        while True:
            await self.look_once()
            await asyncio.sleep(REMOTE_LOOK_SECONDS if self.is_remote else LOOK_SECONDS)

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
        from tui.lab import CommandFailed

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

    # Runs, whichever screen asks

    @work(group="launch")
    async def launch(self, spec: RunSpec, preset: str, *, watch: bool = True) -> None:
        """Queue a run, see to it that an engine lives, and show it."""
        try:
            run_id = await self.lab.launch(spec, preset)
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            self.tell_error(error)
            return
        self.preferences.remember_prompt(spec.prompt)
        self.after_queueing(run_id, watch=watch)

    def after_queueing(self, run_id: str, *, watch: bool) -> None:
        """A run was queued: start the engine, and watch the run where that was asked for."""
        self.ensure_engine()
        if watch:
            self.watch_run(run_id)
        else:
            self.notify(f"run {run_id} is queued", markup=False)

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
        from tui.screens.ask import Confirm

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

    def watch_run(self, run_id: str) -> None:
        """Show a run on the live screen."""
        self.watched_run = run_id
        self.action_open("live")

    @work(exclusive=True, group="compose")
    async def compose_with(self, spec: RunSpec, preset: str) -> None:
        """Show the settings of a run in the form, to be changed and started. preset: the one that it came from."""
        self.preferences.screen = "compose"
        await self.switch_mode("compose")
        from tui.screens.compose import Compose

        form = self.get_screen_stack("compose")[0]
        assert isinstance(form, Compose)
        form.load_run(spec, preset)

    @work(exclusive=True, group="runs")
    async def show_run(self, run_id: str) -> None:
        """Show a run in the list of all runs, where its filter lets it through."""
        self.preferences.screen = "runs"
        await self.switch_mode("runs")
        from tui.screens.runs import Runs

        screen = self.get_screen_stack("runs")[0]
        assert isinstance(screen, Runs)
        with suppress(WorkerCancelled):  # the screen looks again by itself
            await screen.look().wait()
        screen.runs.select(run_id)
        screen.runs.focus_list()

    def branch_from(self, run_id: str, step: int | None = None) -> None:
        """Ask for what is to change after a step of a run (None: one yet to be chosen), and branch there."""
        from tui.screens.branch import Branch

        self.push_screen(Branch(run_id, step))

    # Leaving

    def action_leave(self) -> None:
        """Leave; asks first, and once, where a run is at work."""
        from tui.screens.leaving import Leaving

        if isinstance(self.screen, Leaving):
            return
        if self.status is None or self._has_work:  # before the first look nobody knows
            self._ask_leaving()
        else:
            self.exit(0)

    @property
    def _has_work(self) -> bool:
        return self.status is not None and bool(self.status.running or self.status.num_queued)

    @work(exclusive=True, group="leaving")
    async def _ask_leaving(self) -> None:
        """The work may have ended since the last look, which the person has seen on the live screen."""
        from tui.screens.leaving import Leaving

        with suppress(TimeoutError):
            await asyncio.wait_for(self.look_once(), LEAVE_LOOK_SECONDS)
        if self.status is None or not self._has_work:
            self.exit(0)
        else:
            self.push_screen(Leaving(self.status), self._leave)

    async def action_quit(self) -> None:
        self.action_leave()

    @work
    async def _leave_cancelling(self) -> None:
        try:
            await self.lab.cancel_all()
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            self.tell_error(error)
        else:
            self.exit(0)

    def _leave(self, choice: str | None) -> None:
        if choice == "detach":
            self.exit(0)
        elif choice == "cancel":
            self._leave_cancelling()

    def on_unmount(self) -> None:
        save_preferences(self.preferences, self._loaded_preferences)
        self.lab.close()

    # Help

    def action_help(self) -> None:
        """The keys of the present screen."""
        from tui.screens.help import Help

        if not isinstance(self.screen, Help):
            self.push_screen(Help(self.screen))
