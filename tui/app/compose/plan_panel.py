"""What the run in the form would compute, asked beside it each time that one stops typing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text
from textual import getters
from textual.message import Message
from textual.widgets import Static

from tui.app.asking import asks, is_there
from tui.app.base import ModiffBase
from tui.app.compose.draft import refusals
from tui.app.memory import Unanswered
from tui.app.widgets.list_panel import put
from tui.describe.memory import bar_line
from tui.text import printable
from tui.units import duration, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from engine.components.needed import Needed
    from engine.fit.answering import Device
    from presets.spec.run import RunSpec
    from store.store import Store
    from tui.describe.plan import Planned

# After the last change, before the plan is made again.
PLAN_SECONDS = 0.2
# After the plan.
MEMORY_SECONDS = 0.6
# Before the panel is laid out.
_PLAN_CELLS = 40
ALL_STORED = "all is stored"
_MARKS = {"stored": "✓", "compute": "●", "skip": "·", "warm": "✓"}


class PlanPanel(Static):
    """Plans a run and tells what comes of it. Its table is cut where it has no room; what is said in words has as many
    lines as that takes."""

    class Made(Message):
        """The plan was made, or is `refused`."""

    app = getters.app(ModiffBase)

    def __init__(self) -> None:
        super().__init__(id="plan", classes="panel", markup=False)
        self.border_title = "plan"
        self.planned: Planned | None = None
        # why the run would be refused, as of `refusals`
        self.refused: tuple[tuple[str, str], ...] = ()
        # every model of the run of which some are not here
        self.missing: tuple[Needed, ...] = ()
        # about the prompt
        self.warning = ""
        # of each device, or words where that is not known (yet)
        self._memory: tuple[Device | str, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether the run cannot start, as far as the plan knows."""
        return bool(self.refused or self.missing)

    @property
    def lack(self) -> str:
        """`69.04 GB to get`, of the models that are missing; "" for none."""
        if not self.missing:
            return ""
        from tui.describe.models.missing import lack

        return lack(self.missing)

    @property
    def commands(self) -> Sequence[str]:
        """What gets the models that are missing."""
        if not self.missing:
            return ()
        from tui.describe.models.missing import commands

        return commands(self.missing)

    def forget(self) -> None:
        """The run is another one now: what kept the one before from starting may be mended."""
        self.refused = ()
        self.missing = ()

    def leave(self, *, is_broken: bool) -> None:
        """There is no run to plan; is_broken: nor is there a preset, whose plan of before would still say something."""
        self.workers.cancel_group(self, "plan")
        if is_broken:
            self.planned = None
        self._show("as of before" if self.planned else "")

    @asks(exclusive=True, group="plan")
    async def plan(self, spec: RunSpec, own_prompt: str) -> None:
        """Once nothing was typed for a moment. own_prompt: that of its preset, "" for none."""
        self._show("…")
        await asyncio.sleep(PLAN_SECONDS)
        warnings = await asyncio.to_thread(_prompt_warnings, spec, own_prompt)
        self.warning = "; ".join(warnings)
        try:
            self.planned = await self.app.lab.work(_planned, spec)
            self.missing = self.planned.missing
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            if not is_there(self):
                return
            self.planned = None
            self.refused = refusals(error, self.app.line_for(error))
        is_work = self.planned is not None and not self.planned.is_stored
        if not is_work:
            self.workers.cancel_group(self, "memory")
            self._memory = ()  # of a run that was another one
        self._show()
        self.post_message(self.Made())
        if is_work and not self.app.is_headless:
            self._tell_memory(spec)

    @asks(exclusive=True, group="memory")
    async def _tell_memory(self, spec: RunSpec) -> None:
        """Beside the plan, once nothing was typed for a moment: what needs torch is another process."""
        self._show_memory(("memory  …",))
        await asyncio.sleep(MEMORY_SECONDS)
        try:
            self._show_memory(await self.app.lab.memory(spec))
        except Unanswered as error:
            planned = self.planned
            is_told = planned and (planned.missing or planned.memory_bytes is not None)
            self._show_memory(() if is_told else (f"memory  not known: {error}",))

    def _show(self, state: str = "") -> None:
        """state: what is going on with it, such as that it is out of date; empty for nothing."""
        self.border_subtitle = state or ("an estimate" if self.missing else "")
        self._draw()

    def _show_memory(self, memory: tuple[Device | str, ...]) -> None:
        """A line for each; none for what nobody has asked for."""
        self._memory = memory
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        notes = self.planned.notes if self.planned else ()
        width = self.content_size.width or _PLAN_CELLS
        words = [
            line for note in notes for line in wrapped(self.app.console, printable(note), width)
        ]
        put(
            self,
            "\n".join(
                [
                    plan_told(self.planned, is_memory_told=bool(self._memory)),
                    *words,
                    *(
                        printable(each if isinstance(each, str) else bar_line(each, width))
                        for each in self._memory
                    ),
                ]
            ),
        )


def plan_line(planned: Planned | None, num_problems: int, num_changes: int) -> str:
    """All of it in one line."""
    told = ["no plan yet"]
    if planned is not None and planned.is_stored:
        told = [ALL_STORED]
    elif planned is not None:
        time = "time not known" if planned.seconds is None else f"about {duration(planned.seconds)}"
        told = [time, f"{planned.stored_steps} of {planned.total_steps} steps stored"]
    if num_changes:
        told.append(f"* {num_changes} changed")
    if num_problems:
        told.append(f"✖ {num_problems} wrong")
    return "  ".join(told)


def plan_told(planned: Planned | None, *, is_memory_told: bool) -> str:
    """A table of its stages, and below it the sums. is_memory_told: what the run takes of each device is told beside
    it, which says more than what like runs took."""
    if planned is None:
        return "no plan yet"
    # there is none before the form is painted, which need not wait for these
    from tui.describe.models.missing import missing_size
    from tui.describe.plan import shown

    lines = []
    for row in planned.rows:
        stage, steps, state, time, disk = shown(row)
        name = f"{stage.replace('_', ' ')} {steps}".rstrip()
        lines.append((f"{_MARKS[row.state]} {name}", state, time, disk))
    widths = [max(cell_len(line[column]) for line in lines) for column in range(4)]
    told = [
        f"{name:<{widths[0]}} {state:<{widths[1]}} {time:>{widths[2]}} {disk:>{widths[3]}}".rstrip()
        for name, state, time, disk in lines
    ]
    seconds = "not known: no like run yet" if planned.seconds is None else duration(planned.seconds)
    if planned.is_stored:
        seconds = f"none, {ALL_STORED}"
    memory = "not known" if planned.memory_bytes is None else size(planned.memory_bytes)
    if planned.is_stored:
        memory = "none to speak of"
    elif planned.device_bytes:
        memory += f", on the device {size(planned.device_bytes)}"
    models = []
    if planned.missing:
        weights = sum(planned.weights.values())
        memory = f"~{size(weights)} of weights, and more"
        models = [f"models  {missing_size(planned.missing)} to get"]
    return "\n".join(
        [
            *told,
            "",
            *models,
            f"time    {seconds}",
            *([] if is_memory_told else [f"memory  {memory}"]),
            f"disk    {size(planned.bytes) if planned.bytes else 'nothing'}",
            f"stored  {planned.stored_steps} of {planned.total_steps} steps",
        ]
    )


def wrapped(console: Console, text: str, width: int) -> list[str]:
    """Its lines, those after the first indented."""
    if cell_len(text) <= width:
        return [text]
    lines = Text(text).wrap(console, width - 2)
    return [f"{'  ' if number else ''}{line.plain}" for number, line in enumerate(lines)]


def _planned(store: Store, spec: RunSpec) -> Planned:
    from tui.describe.plan import planned

    return planned(store, spec)


def _prompt_warnings(spec: RunSpec, own_prompt: str) -> list[str]:
    from tui.describe.prompts.warnings import prompt_of_preset, prompt_warnings

    return [*filter(None, [prompt_of_preset(spec, own_prompt)]), *prompt_warnings(spec)]
