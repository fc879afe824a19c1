"""A branch of a run: from which step, with what changed, and what that would compute."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from textual import getters
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.suggester import SuggestFromList
from textual.widgets import Button, Checkbox, Input, Label, Static

from presets.errors import PresetError
from tui.app.asking import asks, is_there
from tui.app.base import ModiffBase
from tui.app.dialogs.base import Dialog
from tui.app.form_words import form_words
from tui.app.messages import Queued
from tui.app.run_view.step_links import cells_of
from tui.app.run_view.timeline import Timeline
from tui.app.runs.branch_fields import FIELDS, first_step, overrides_of, shares, solvers, values_of
from tui.app.widgets.picture import STEP_FPS, Picture
from tui.app.widgets.tick import Tick
from tui.describe.plan import planned, shown
from tui.describe.runs.detail import detail as detail_of
from tui.text import columns
from tui.units import clock, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from store.store import Store
    from tui.describe.plan import Planned
    from tui.describe.runs.detail import Detail
    from tui.describe.runs.run import At

# A plan is asked for when nothing has been typed for so long.
_REST_SECONDS = 0.25
_MORE = "more"


class Branch(Dialog[str | None]):
    """Go on from a step of a run with other settings. Ends with the id of the new run, None where there is none."""

    app = getters.app(ModiffBase)

    CSS_PATH = "runs.tcss"
    AUTO_FOCUS = "Timeline"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "launch(True)", "Run", id="compose.run"),
        Binding("ctrl+t", "launch(False)", "Queue", id="compose.queue"),
        Binding("escape", "dismiss(None)", "Leave", id="app.back"),
    ]

    def __init__(self, run_id: str, step: int | None = None) -> None:
        """step: that the cursor begins at; None: the stored one that is nearest to the middle of the run, before it."""
        super().__init__()
        self._run_id, self._step = run_id, step
        self._detail: Detail | None = None
        self._before: dict[str, str] = {}
        self._total = 0
        self._is_launching = False
        # why it was not queued as it is; a plan that is ready later does not take that away
        self._refusal: Exception | None = None
        # asked for before the run was read: whether to watch the branch
        self._launch_asked: bool | None = None

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box", id="branch", can_focus=False) as box:
            box.border_title = f"branch from {self._run_id}"
            box.border_subtitle = "enter or ctrl+r runs, ctrl+t queues, esc leaves"
            with Horizontal(id="top"):
                with Vertical(id="fields"):
                    yield Timeline()
                    with Horizontal(classes="field"):
                        yield Tick("decode only", compact=True)
                        yield Static(id="shares", markup=False)
                    for key in (*FIELDS, _MORE):
                        yield from self._field(key)
                yield Picture(graphics=getattr(self.app, "graphics", None))
            yield Static(id="plan", markup=False)
            yield Static(id="problem", classes="problem", markup=False)
            with Horizontal(id="buttons"):
                yield Button("Leave", id="leave", compact=True)
                yield Button("Queue", id="queue", compact=True)
                yield Button("Run now", id="run-now", compact=True, variant="primary")

    def _field(self, key: str) -> ComposeResult:
        names = SuggestFromList(solvers()) if key == "scheduler.name" else None
        with Horizontal(classes="field"):
            yield Label(key)
            yield Input(
                placeholder="any other key=value" if key == _MORE else "",
                id=_id(key),
                name=key,
                compact=True,
                suggester=names,
                select_on_focus=False,
            )
        yield Static(id=f"problem-{_id(key)}", classes="problem", markup=False)

    def on_mount(self) -> None:
        self._load()

    @asks()
    async def _load(self) -> None:
        try:
            detail = await self.app.lab.read(detail_of, self._run_id)
        except Exception:  # told by who asks; a form of no run is of no use
            self.dismiss(None)
            raise
        self._show(detail)

    def _show(self, detail: Detail) -> None:
        self._detail, self._before = detail, values_of(detail.spec)
        cells = cells_of(detail)
        self._total = len(cells)
        with self.prevent(Input.Changed):
            for key, value in self._before.items():
                self._input(key).value = value
        timeline = self.query_one(Timeline)
        timeline.show(cells)
        timeline.cursor = (
            first_step(detail.points, self._total) if self._step is None else self._step
        )
        self._moved()
        if self._launch_asked is not None:
            self.action_launch(self._launch_asked)

    def _input(self, key: str) -> Input:
        return self.query_one(f"#{_id(key)}", Input)

    # From where

    @property
    def at(self) -> At:
        """How many steps are shared; after the last one there is nothing but the decoding."""
        step = self.query_one(Timeline).cursor
        is_decoding = self.query_one(Checkbox).value or step >= self._total
        return "decode" if is_decoding else step

    def on_timeline_moved(self, message: Timeline.Moved) -> None:
        message.stop()
        self._moved()

    def on_timeline_chosen(self, message: Timeline.Chosen) -> None:
        message.stop()
        self._input(FIELDS[0]).focus()

    def _moved(self) -> None:
        self._refusal = None
        self.query_one("#shares", Static).update(shares(self.at, self._total))
        self._show_preview(self.query_one(Timeline).cursor)
        self._plan()

    @asks(exclusive=True, group="preview")
    async def _show_preview(self, step: int) -> None:
        detail, picture = self._detail, self.query_one(Picture)
        if detail is None:
            return
        (shown,) = await self.app.lab.shown([(detail, None if self.at == "decode" else step)])
        picture.fps = shown.fps or STEP_FPS
        picture.show(shown.preview, shown.told)

    # What changes

    def on_checkbox_changed(self) -> None:
        self._moved()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._refusal = None
        event.input.set_class(event.value != self._before.get(event.input.name or "", ""), "-other")
        self._plan()

    def on_input_submitted(self) -> None:
        self.action_launch(True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "leave":
            self.dismiss(None)
        else:
            self.action_launch(event.button.id == "run-now")

    def _overrides(self) -> list[str]:
        typed = {key: self._input(key).value for key in FIELDS}
        return overrides_of(self._before, typed, self._input(_MORE).value)

    @asks(exclusive=True, group="plan")
    async def _plan(self) -> None:
        await asyncio.sleep(_REST_SECONDS)
        if self._detail is None:
            return
        told, wrong = "", None
        try:
            overrides = self._overrides()
            plan = await self.app.lab.work(_planned, self._run_id, self.at, overrides)
            told = "\n".join([plan_told(plan), *plan.warnings])
            if not overrides:
                told += "\nnothing is changed yet: it would be the same run again"
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            if not is_there(self):
                return
            wrong = error
        self._tell(wrong or self._refusal)
        self.query_one("#plan", Static).update(told)

    def _tell(self, error: Exception | None) -> None:
        """Say what is wrong at the field that it is about, and take away what was wrong before."""
        for place in self.query(".problem").results(Static):
            place.update("")
            place.display = False
        if error is None:
            return
        line = form_words(str(error) if isinstance(error, ValueError) else self.app.line_for(error))
        key = error.key if isinstance(error, PresetError) else ""
        place = self.query_one(f"#problem-{_id(key)}" if key in FIELDS else "#problem", Static)
        place.update(f"✖ {line}")
        place.display = True

    def action_launch(self, watch: bool) -> None:
        """Queue the branch, once, and show it where that is wanted; as soon as the run is read."""
        if self._detail is None:
            self._launch_asked = watch
            return
        if self._is_launching:
            return
        try:
            overrides = self._overrides()
        except ValueError as error:
            self._tell(error)
            return
        self._is_launching = True
        # the app's: the engine is started for the run also where the form is left meanwhile
        self.app.run_worker(self._launch(self.at, overrides, watch), group="launch")

    async def _launch(self, at: At, overrides: list[str], watch: bool) -> None:
        try:
            run_id = await self.app.lab.change(_queued, self._run_id, at, overrides)
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            if self.is_active:
                self._refusal = error
                self._tell(error)
            else:
                self.app.tell_error(error)
            return
        finally:
            self._is_launching = False
        self.dismiss(run_id)
        self.app.post_message(Queued(run_id, watch=watch))


def _queued(store: Store, run_id: str, at: At, overrides: Sequence[str]) -> str:
    """The id of the branch. Raises as `engine.client.branch` does, and PresetError where it would be the run again."""
    from engine import client

    wanted = client.branched(store, run_id, at=at, overrides=overrides)
    if client.is_unchanged(store.run(run_id), wanted):
        raise PresetError(
            f"nothing is changed, so this would be run {run_id} again; change something before it is run"
        )
    return client.branch(store, run_id, at=at, overrides=overrides)


def _planned(store: Store, run_id: str, at: At, overrides: Sequence[str]) -> Planned:
    """What a branch would compute. Raises as `engine.client.branch` does."""
    from engine import client

    wanted = client.branched(store, run_id, at=at, overrides=overrides)
    return planned(store, wanted.spec, segments=wanted.segments, stop_at=wanted.stop_at)


def _id(key: str) -> str:
    return key.replace(".", "-")


def plan_told(plan: Planned) -> str:
    """A line for each part of the plan, and one for all of it."""
    to_compute = plan.total_steps - plan.stored_steps
    time = "" if plan.seconds is None else f", about {clock(plan.seconds)}"
    disk = f", {size(plan.bytes)} of disk" if plan.bytes else ""
    total = f"computes {to_compute} of {plan.total_steps} steps{time}{disk}"
    return "\n".join([*columns([shown(row) for row in plan.rows]), total])
