"""The Textual app: modes, what is true everywhere (status, notices, leaving), and the wires between screens.

Screens ask `app.lab` and draw; nothing here or there imports torch. One worker looks at the store at a fixed pace and
tells every screen through `status_signal`; what a screen shows beyond that it asks for itself.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.actions import parse
from textual.await_complete import AwaitComplete
from textual.binding import Binding
from textual.screen import ModalScreen

from tui.app.asking import asks
from tui.app.base import TOLD_SECONDS, ModiffBase, ModiffScreen
from tui.app.messages import (
    Act,
    BranchFrom,
    ComposeWith,
    ContinueFrom,
    Queued,
    QueuedRuns,
    ShowRun,
    WatchRun,
)
from tui.app.preferences import load_preferences, save_preferences
from tui.app.screens import SCREEN_KEYS, made_screen
from tui.app.terminal.contrast import readable_variables
from tui.app.terminal.control_filter import Harmless
from tui.app.top_line import TABS, TopLine
from tui.describe.health import MOST_RUNNING
from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from textual.binding import BindingType
    from textual.command import Provider
    from textual.driver import Driver
    from textual.events import Paste
    from textual.filter import LineFilter
    from textual.screen import Screen
    from textual.widget import Widget

    from presets.spec.run import RunSpec
    from store.lineage.records import RunRecord
    from store.store import Store
    from tui.app.preferences import Preferences
    from tui.app.widgets.graphics import ImageMaker

# How often the store is looked at; over a network link every redraw costs.
LOOK_SECONDS = 0.25
REMOTE_LOOK_SECONDS = 1.0
# How long leaving waits for a last look.
LEAVE_LOOK_SECONDS = 0.5
# How long a screen that is to be made waits for the painting of its tab.
PAINT_SECONDS = 0.25
# How long an action of another screen waits for what it is for, and how often it looks.
ACT_SECONDS = 3.0
ACT_LOOK_SECONDS = 0.05


def _commands() -> type[Provider]:
    """What the palette offers; imported when it is first opened."""
    from tui.app.palette import Commands

    return Commands


def _continued(store: Store, run_id: str) -> tuple[RunSpec, str]:
    """What begins with the last frame of a run, and its preset. Raises UnknownRun, EngineError, PresetError."""
    from engine.inputs.last_frame import last_frame
    from presets.encoding import decode_spec
    from tui.describe.given import continued

    record = store.run(run_id)
    return continued(decode_spec(record.spec_json), record.preset, last_frame(store, run_id))


def _cancel_all(store: Store) -> tuple[str, ...]:
    """Cancel what waits and ask what runs to stop, all in the same moment: no engine takes one of them instead.
    Returns their ids."""
    going = [*store.runs(limit=MOST_RUNNING, status="running"), *store.queued()]
    cancelled = tuple(record.id for record in going)
    store.request_cancel_all(cancelled)
    return cancelled


class ModiffApp(ModiffBase):
    """`modiff` without arguments."""

    TITLE = "modiff"
    CSS_PATH = "app.tcss"
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        mode: partial(made_screen, mode) for mode in TABS
    }
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
        *SCREEN_KEYS,
        Binding("question_mark,f1", "help", "Help", id="app.help", key_display="?"),
        Binding(
            "f8",
            "copy_error",
            "Copy the last error",
            id="app.copy_error",
            show=False,
            priority=True,
        ),
        Binding("f9", "jump", "Jump", id="app.jump", show=False, priority=True),
        Binding("ctrl+q", "leave", "Quit", id="app.quit", priority=True),
    ]

    def __init__(
        self,
        root: Path | None = None,
        *,
        preferences: Preferences | None = None,
        graphics: ImageMaker | None = None,
    ) -> None:
        """As of `ModiffBase`."""
        preferences = load_preferences() if preferences is None else preferences
        is_known = preferences.screen in TABS
        # The screen on which the last app was left. A class variable of Textual's, which it reads of the instance.
        self.DEFAULT_MODE = preferences.screen if is_known else "compose"  # type: ignore[misc]
        super().__init__(root, preferences=preferences, graphics=graphics)
        self._harmless = Harmless()
        # what was cancelled on leaving, by id
        self.cancelled: tuple[str, ...] = ()
        if self.is_remote:
            self.animation_level = "none"

    def get_driver_class(self) -> type[Driver]:
        from textual.drivers.linux_driver import LinuxDriver

        from tui.app.terminal.driver import Terminal

        found = super().get_driver_class()
        return Terminal if found is LinuxDriver else found

    def on_mount(self) -> None:
        if self.preferences.theme in self.available_themes:
            self.theme = self.preferences.theme
        self.theme_changed_signal.subscribe(self, self._remember_theme)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            # Textual ends at once on these, with the terminal not restored
            loop.add_signal_handler(number, self.exit, 128 + number)

    def on_ready(self) -> None:
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        if not gc.isenabled():  # see tui.app.launch
            gc.freeze()  # what is here now stays: the collector need not look through it again and again
            gc.enable()
        self._look()

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Textual's ANSI themes lack this one."""
        return {"foreground-disabled": "ansi_default 50%"}

    def get_css_variables(self) -> dict[str, str]:
        """Those of the theme, readable."""
        variables = super().get_css_variables()
        variables = {**variables, **readable_variables(variables)}
        self.theme_variables = variables
        return variables

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), self._harmless]

    def pop_screen(self) -> AwaitComplete:
        """The last screen stays. Textual's palette leaves once for each of several quick presses of enter."""
        return super().pop_screen() if len(self.screen_stack) > 1 else AwaitComplete()

    def _remember_theme(self, _theme: object) -> None:
        self.preferences.theme = self.theme

    def action_change_theme(self) -> None:
        self._pick_theme()

    @asks(exclusive=True, group="theme")
    async def _pick_theme(self) -> None:
        """Colours are shown while one moves through their names; esc takes the present ones back."""
        from tui.app.dialogs.picker import Item, Picker

        before = self.theme
        names = sorted(
            self.available_themes, key=lambda name: (not name.startswith("textual"), name)
        )
        picker = Picker(
            "theme",
            [Item(name) for name in names],
            before,
            on_move=partial(setattr, self, "theme"),
        )
        picked = await self.push_screen_wait(picker)
        self.theme = picked or before

    async def action_open(self, mode: str) -> None:
        """Open a screen of the top line."""
        self._part_from(mode)
        await self._show_chosen(mode)
        self.switch_mode(mode)

    async def _show_chosen(self, mode: str) -> None:
        """The first time its module is imported, which takes a moment: its tab is shown as chosen before that."""
        try:
            is_made = bool(self.get_screen_stack(mode))
        except KeyError:
            is_made = False
        if is_made or self.screen_stack[0] is not self.screen:
            return
        painted = asyncio.Event()
        for top in self.screen.query(TopLine):
            top.choose(mode)
        self.screen.call_after_refresh(painted.set)
        with suppress(TimeoutError):
            await asyncio.wait_for(painted.wait(), PAINT_SECONDS)
        for top in self.screen.query(TopLine):
            top.choose(top.mode)  # seen when that screen is come back to

    async def action_turn(self, by: int) -> None:
        """The screen after the present one in the top line, or the one before."""
        modes = list(TABS)
        await self.action_open(modes[(modes.index(self.current_mode) + by) % len(modes)])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("open", "turn"):
            return not isinstance(self.screen, ModalScreen)  # a question is answered first
        return super().check_action(action, parameters)

    def _part_from(self, mode: str) -> None:
        """Before another screen is shown: the one that is left will be come back to where a digit is a key."""
        self.preferences.screen = mode
        if mode == self.current_mode:
            return
        if isinstance(self.screen, ModiffScreen):
            self.screen.rest()
        for notice in list(self._notifications):
            # what is told for longer, errors and the ends of runs, is of no screen
            if notice.severity == "information" and notice.timeout < TOLD_SECONDS:
                self._unnotify(notice)

    def action_copy_error(self) -> None:
        """What the last error said, which may be gone from the screen."""
        if self.last_error:
            self.copy_to_clipboard(self.last_error)
        self.notify("the error is copied" if self.last_error else "no error was told")

    def action_jump(self) -> None:
        """A letter on each panel and field, which goes there."""
        from tui.app.dialogs.jump import Jump, targets_on

        if isinstance(self.screen, Jump):
            self.screen.dismiss(None)
            return
        below = self.screen

        def go(chosen: Widget | None) -> None:
            if chosen is not None and chosen.is_attached:
                below.set_focus(chosen)

        self.push_screen(Jump(targets_on(below)), go)

    def action_command_palette(self) -> None:
        from tui.app.palette import Palette

        if not isinstance(self.screen, Palette):
            self.push_screen(Palette(id="--command-palette"))

    def action_help_quit(self) -> None:
        """ctrl+c, where no text is selected that it could copy."""
        self.notify("ctrl+q leaves modiff; ctrl+c copies the text that is selected")

    async def on_top_line_tab_chosen(self, message: TopLine.TabChosen) -> None:
        await self.action_open(message.mode)

    # What is going on

    @asks(exclusive=True, group="look")
    async def _look(self) -> None:
        if self.DEFAULT_MODE == "compose":
            await asyncio.sleep(LOOK_SECONDS)  # its thread would slow the painting of the form
        while True:
            await self.look_once()
            await asyncio.sleep(REMOTE_LOOK_SECONDS if self.is_remote else LOOK_SECONDS)

    # Where messages lead

    def watch_run(self, run_id: str) -> None:
        """Show a run on the live screen."""
        self.watched_run = run_id
        self._part_from("live")
        self.switch_mode("live")

    @asks(exclusive=True, group="compose")
    async def compose_with(self, message: ComposeWith) -> None:
        """Show the settings of a run in the form."""
        try:
            self._part_from("compose")
            await self.switch_mode("compose")
            from tui.app.compose.screen import Compose

            form = self.get_screen_stack("compose")[0]
            assert isinstance(form, Compose)
            form.load_run(message.spec, message.preset, message.field)
            message.is_taken = True
        finally:
            message.answered.set()

    @asks(exclusive=True, group="runs")
    async def show_run(self, run_id: str) -> None:
        """Show a run in the list of all runs, where its filter lets it through."""
        self._part_from("runs")
        await self.switch_mode("runs")
        screen = self.get_screen_stack("runs")[0]
        assert isinstance(screen, ModiffScreen)
        await screen.choose_run(run_id)

    @asks(exclusive=True, group="act")
    async def act(self, message: Act) -> None:
        """Open the screen of an action, choose its run there, and carry it out once it applies."""
        self._part_from(message.mode)
        await self.switch_mode(message.mode)
        screen = self.get_screen_stack(message.mode)[0]
        assert isinstance(screen, ModiffScreen)
        if message.run_id:
            await screen.choose_run(message.run_id, is_alone=True)
        name, parameters = parse(message.action)[1:]
        for _ in range(round(ACT_SECONDS / ACT_LOOK_SECONDS)):
            is_chosen = message.run_id in ("", screen.chosen_run)
            if is_chosen and screen.check_action(name, parameters):
                await self.run_action(message.action, screen)
                return
            await asyncio.sleep(ACT_LOOK_SECONDS)
        run_id = printable(message.run_id)
        told = f"to run {run_id} as it is now" if run_id else "to what is there now"
        if run_id and screen.chosen_run != message.run_id:
            told = f"here: run {run_id} is not shown, a filter may hide it"
        self.notify(f"that does not apply {told}", severity="warning", markup=False)

    def on_act(self, message: Act) -> None:
        self.act(message)

    @asks(exclusive=True, group="runs")
    async def show_gallery(self, line: str) -> None:
        """Show the runs that fit a filter as pictures."""
        self.preferences.screen = "runs"
        await self.switch_mode("runs")
        from tui.app.runs.screen import Runs

        screen = self.get_screen_stack("runs")[0]
        assert isinstance(screen, Runs)
        screen.show_gallery(line)

    def on_queued(self, message: Queued) -> None:
        self.ensure_engine()
        if message.watch:
            self.watch_run(message.run_id)
        else:
            self.notify(f"run {message.run_id} is queued", markup=False)

    def on_queued_runs(self, message: QueuedRuns) -> None:
        self.ensure_engine()
        count = len(message.run_ids)
        self.notify("1 run is queued" if count == 1 else f"{count} runs are queued")
        if message.tag:
            self.show_gallery(f"tag:{message.tag}")

    def on_watch_run(self, message: WatchRun) -> None:
        self.watch_run(message.run_id)

    def on_show_run(self, message: ShowRun) -> None:
        self.show_run(message.run_id)

    def on_branch_from(self, message: BranchFrom) -> None:
        from tui.app.runs.branch import Branch

        self.push_screen(Branch(message.run_id, message.step))

    def on_compose_with(self, message: ComposeWith) -> None:
        self.compose_with(message)

    def on_continue_from(self, message: ContinueFrom) -> None:
        self._continue_from(message.run_id)

    @asks(exclusive=True, group="dropped")
    async def _continue_from(self, run_id: str) -> None:
        with self.job(f"the last frame of {run_id}"):
            spec, preset = await self.lab.work(_continued, run_id)
        self.compose_with(ComposeWith(spec, preset, "image.path"))

    def on_paste(self, event: Paste) -> None:
        """A file, dropped on the terminal or pasted where no text is typed: in Compose what the next run begins from,
        or the settings of the run that wrote it; elsewhere that run."""
        from tui.describe.runs.of_file import dropped_path, no_file_told

        if not isinstance(self.screen, ModiffScreen):
            return
        path = dropped_path(event.text)
        if path is not None:
            self._open_dropped(path)
        else:
            self.notify(no_file_told(event.text), severity="warning", markup=False)

    @asks(exclusive=True, group="dropped")
    async def _open_dropped(self, path: Path) -> None:
        from tui.app.dropped import dropped_in_compose, dropped_run

        in_compose = self.current_mode == "compose"
        message = await (dropped_in_compose if in_compose else dropped_run)(self, path)
        if message is not None:
            self.post_message(message)

    # Leaving

    def action_leave(self) -> None:
        """Leave; asks first, and once, where a run is at work."""
        from tui.app.dialogs.leaving import Leaving

        if isinstance(self.screen, Leaving):
            return
        if self.status is None or self._has_work:  # before the first look nobody knows
            self._ask_leaving()
        else:
            self.exit(0)

    @property
    def _has_work(self) -> bool:
        return self.status is not None and bool(self.status.running or self.status.num_queued)

    @asks(exclusive=True, group="leaving")
    async def _ask_leaving(self) -> None:
        """The work may have ended since the last look, which the person has seen on the live screen."""
        from tui.app.dialogs.leaving import Leaving

        with self.opening(), suppress(TimeoutError):
            await asyncio.wait_for(self.look_once(), LEAVE_LOOK_SECONDS)
        if self.status is None or not self._has_work:
            self.exit(0)
        else:
            self.push_screen(Leaving(self.status), self._leave)

    async def action_quit(self) -> None:
        self.action_leave()

    @asks()
    async def _leave_cancelling(self) -> None:
        self.cancelled = await self.lab.change(_cancel_all)
        self.exit(0)

    def _leave(self, choice: str | None) -> None:
        if choice == "detach":
            self.exit(0)
        elif choice == "cancel":
            self._leave_cancelling()

    def where_shown(self, run: RunRecord) -> str:
        is_watched = self.current_mode == "live" and self.watched_run == run.id
        return "" if is_watched or self.current_mode == "runs" else "see Runs"

    def on_unmount(self) -> None:
        self.restore_title()
        save_preferences(self.preferences, self.loaded_preferences)
        self.lab.close()

    # Help

    def action_help(self) -> None:
        """The keys of the present screen."""
        from tui.app.dialogs.help import Help

        if not isinstance(self.screen, Help):
            self.clear_notifications()  # they would lie over it; f8 has the last error
            self.push_screen(Help(self.screen))
