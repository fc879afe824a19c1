"""Variants of the run in the form: several seeds, values of one or two settings, all queued at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from textual import getters
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.suggester import SuggestFromList
from textual.widgets import Input, Label, Static

from tui.app.asking import asks, is_there
from tui.app.base import ModiffBase
from tui.app.compose.draft import FIELDS
from tui.app.compose.variants.axes import SeedsKept, over_of, stop_of
from tui.app.dialogs.base import Dialog
from tui.app.form_words import form_words
from tui.app.messages import QueuedRuns
from tui.describe.runs.sweeps import planned_variants, sweep_lines, variants

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from presets.spec.run import RunSpec
    from store.store import Store

# A plan is asked for when nothing has been typed for so long.
_REST_SECONDS = 0.25
_FIRST_SEEDS = "1..8"
# id: (label, what can be typed)
_ROWS = {
    "seeds": ("seeds", "1..8   3,7,9   8 random   empty: as it is"),
    "setting": ("setting", "guidance.scale=2,4,6"),
    "other": ("and", "scheduler.shift=3..8"),
    "stop": ("stop at step", "empty: to the end"),
}


class Variants(Dialog[bool]):
    """Ends with whether runs were queued; they are shown then."""

    app = getters.app(ModiffBase)

    AUTO_FOCUS = "#seeds"
    DEFAULT_CSS = """
    Variants .field { height: 1; }
    Variants .field Label { width: 14; color: $text-muted; }
    Variants .field Input { width: 1fr; background: $foreground 8%; }
    Variants #told { height: auto; min-height: 4; margin-top: 1; }
    Variants #wrong { height: auto; color: $text-error; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r,f5", "launch", "Run all", id="compose.run"),
        Binding("escape", "dismiss(False)", "Leave", id="app.back"),
    ]

    def __init__(self, spec: RunSpec, preset: str) -> None:
        """spec: valid. preset: the one that it came from."""
        super().__init__()
        self._spec, self._preset = spec, preset
        self._seeds = SeedsKept()
        self._is_launching = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = "variants"
            box.border_subtitle = "enter runs them all, esc leaves"
            for name, (label, example) in _ROWS.items():
                keys = SuggestFromList([f"{key}=" for key in FIELDS])
                with Horizontal(classes="field"):
                    yield Label(label)
                    yield Input(
                        _FIRST_SEEDS if name == "seeds" else "",
                        id=name,
                        placeholder=example,
                        suggester=keys if name in ("setting", "other") else None,
                        compact=True,
                    )
            yield Static("", id="told", markup=False)
            yield Static("", id="wrong", markup=False)

    def on_mount(self) -> None:
        self._plan()

    def on_input_changed(self) -> None:
        self._plan()

    def on_input_submitted(self) -> None:
        self.action_launch()

    def _lines(self) -> list[str]:
        return [self.query_one(f"#{name}", Input).value for name in _ROWS]

    def _typed(self) -> tuple[list[str], int | None]:
        """What is varied, and where to stop. Raises PresetError."""
        seeds, setting, other, stop = self._lines()
        return over_of(seeds, (setting, other), self._seeds), stop_of(stop)

    @asks(exclusive=True, group="plan")
    async def _plan(self) -> None:
        self.query_one("#wrong", Static).update("")  # of what stood there before
        await asyncio.sleep(_REST_SECONDS)
        told, wrong = "", ""
        try:
            over, stop_at = self._typed()
            total, planned = await self.app.lab.work(
                planned_variants, self._spec, over, stop_at=stop_at
            )
            told = f"{total} runs: too many to be planned while you type"
            if planned is not None:
                told = "\n".join(sweep_lines(planned))
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            if not is_there(self):
                return
            wrong = f"✖ {form_words(self.app.line_for(error))}"
        self.query_one("#told", Static).update(told)
        self.query_one("#wrong", Static).update(wrong)

    def action_launch(self) -> None:
        """Queue all of them, or none where one of them is refused."""
        if not self._is_launching:
            self._is_launching = True
            self._launch()

    @asks(group="launch")
    async def _launch(self) -> None:
        lines = self._lines()
        try:
            over, stop_at = self._typed()
            tag, run_ids = await self.app.lab.change(
                _queue, self._spec, self._preset, over, stop_at
            )
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            self._is_launching = False
            if self._lines() == lines:  # else the plan tells what is wrong with the new ones
                self.query_one("#wrong", Static).update(f"✖ {form_words(self.app.line_for(error))}")
            return
        self.app.preferences.remember_prompt(self._spec.prompt)
        self.app.post_message(QueuedRuns(run_ids, tag))
        self.dismiss(True)


def _queue(
    store: Store, spec: RunSpec, preset: str, over: Sequence[str], stop_at: int | None
) -> tuple[str, list[str]]:
    """Queue variants of a run, all or none, as `modiff sweep` does; their tag and ids."""
    from engine.process.launch import retire_other_engines
    from engine.runs.sweep import new_tag, queue_members

    members = variants(store, spec, over, stop_at=stop_at)
    retire_other_engines(store)
    tag = new_tag()
    return tag, queue_members(store, members, preset=preset, stop_at=stop_at, tag=tag)
