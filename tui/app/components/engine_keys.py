"""The engine's keys, for a screen that shows it: start, stop, restart, end by force, its log."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding

from tui.app.asking import asks
from tui.app.base import ModiffScreen, start_engine
from tui.describe.health import at_work_told

if TYPE_CHECKING:
    from textual.binding import BindingType

    from tui.describe.health import Status

LOG_LINES = 300


class EngineKeys(ModiffScreen):
    """Who shows the engine keeps `status` as it was last told."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "start", "Start", id="engine.start", tooltip="Start the engine"),
        Binding("S", "stop", "Stop", id="engine.stop", tooltip="Stop the engine after its present step"),
        Binding("R", "restart", "Restart", id="engine.restart", tooltip="Stop the engine and start another"),
        Binding("m", "release", "Release", id="engine.release", tooltip="Have it give back idle models' memory"),
        Binding("F", "force", "End by force", id="engine.force", show=False, tooltip="For an engine that hangs"),
        Binding("l", "log", "Log", id="engine.log", tooltip="The last lines of the engine's log"),
    ]  # fmt: skip
    status: Status | None = None

    @property
    def is_engine_alive(self) -> bool:
        return bool(self.status and self.status.engines)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        is_alive = self.is_engine_alive
        needs = {"start": False, "stop": True, "restart": True, "release": True}
        return needs.get(action, is_alive) == is_alive

    def action_start(self) -> None:
        self.notify("the engine starts; that takes some seconds")
        self.app.ensure_engine()

    @asks(group="engine")
    async def action_stop(self) -> None:
        if await self._is_agreed("stop the engine", "Stop it"):
            self.app.stop_engine()

    @asks(group="engine")
    async def action_restart(self) -> None:
        if not await self._is_agreed("restart the engine", "Restart it"):
            return
        self.notify("the engine restarts; that takes some seconds")
        from engine.process.launch import stop_engine

        await self.app.lab.engine(stop_engine)
        await self.app.lab.engine(start_engine)

    def action_release(self) -> None:
        self.app.release_engines()

    def action_force(self) -> None:
        self.app.force_engine()

    async def _is_agreed(self, title: str, yes: str) -> bool:
        """Asks where a run would be interrupted."""
        from tui.app.dialogs.ask import Confirm

        if self.status is None or not self.status.running:
            return True
        lines = [
            f"At work: {at_work_told(self.status)}. That is interrupted after its present step;",
            "steps that are done stay in the store, and Runs takes it up again.",
        ]
        return await self.app.push_screen_wait(Confirm(title, lines, yes))

    @asks(exclusive=True, group="log")
    async def action_log(self) -> None:
        """The last lines of the engine's log."""
        from tui.app.dialogs.reader import Reader

        with self.app.opening():
            told = await self.app.lab.command("engine", "logs", "--lines", str(LOG_LINES))
        self.app.push_screen(Reader(told["path"], told["lines"], at_end=True))
