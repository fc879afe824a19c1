"""A clean-up, planned: what may go, and what that would remove. Nothing is removed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import getters
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Button, Checkbox, Input, Label, Static

from store.upkeep.removal import Policy
from tui.app.asking import Again
from tui.app.base import ModiffBase
from tui.app.dialogs.base import Dialog
from tui.app.widgets.tick import Tick
from tui.describe.space import plan_lines, planned_removal
from tui.units import read_age, read_size, size

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.timer import Timer

    from store.upkeep.removal import Plan

# A plan is made so long after the last key.
WAIT_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Planned:
    """A policy and what it would remove now. is_wanted: whether it was asked to be carried out."""

    policy: Policy
    plan: Plan
    is_wanted: bool


class CleanUp(Dialog[Planned | None]):
    """Ends with the last plan, or None where there is none."""

    app = getters.app(ModiffBase)

    CSS_PATH = "clean_up.tcss"
    HELP = (
        "What a clean-up would remove. Nothing is removed before you press Apply and agree to it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave(False)", "Close", id="cleanup.close"),
        Binding("f5,ctrl+r", "leave(True)", "Apply", id="cleanup.apply"),
    ]

    def __init__(self, budget_bytes: int) -> None:
        """budget_bytes: what holds where neither a budget nor an age is given."""
        super().__init__()
        self._default_budget = budget_bytes
        self._planned: Planned | None = None
        self._timer: Timer | None = None
        self._again = Again(self, self._plan, self._show_problem)

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = "plan a clean-up"
            box.border_subtitle = "esc closes, nothing is removed"
            with Horizontal(classes="field"):
                yield Label("steps may take")
                yield Input(
                    placeholder=f"a size; {size(self._default_budget)} if nothing is given",
                    id="budget",
                    compact=True,
                )
            with Horizontal(classes="field"):
                yield Label("unused for")
                yield Input(
                    placeholder="an age such as 30d; goes whatever its size",
                    id="older",
                    compact=True,
                )
            with Horizontal(classes="field"):
                yield Label("outputs too")
                yield Tick("videos and final latents of runs", id="outputs", compact=True)
            yield Static("", id="problem", markup=False)
            with VerticalScroll(id="plan", can_focus=True):
                yield Static("planning …", id="lines", markup=False)
            with Horizontal(id="buttons"):
                yield Button("Close", id="close", compact=True)
                yield Button("Apply …", id="apply", variant="warning", compact=True, disabled=True)

    def on_mount(self) -> None:
        self._again()

    def on_input_changed(self) -> None:
        self._plan_soon()

    def on_checkbox_changed(self) -> None:
        self._plan_soon()

    def _plan_soon(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._planned = None
        self.query_one("#apply", Button).disabled = True
        self._timer = self.set_timer(WAIT_SECONDS, self._again)

    def _policy(self) -> Policy:
        """Raises ValueError, with a line for people."""
        budget_text, older_text = (
            self.query_one(f"#{name}", Input).value.strip() for name in ("budget", "older")
        )
        budget = read_size(budget_text) if budget_text else None
        older_than = read_age(older_text) if older_text else None
        if budget is None and older_than is None:
            budget = self._default_budget
        return Policy(budget, older_than, self.query_one("#outputs", Checkbox).value)

    async def _plan(self) -> None:
        problem = self.query_one("#problem", Static)
        try:
            policy = self._policy()
        except ValueError as error:
            problem.update(f"✖ {error}")
            return
        plan = await self.app.lab.work(planned_removal, policy)
        problem.update("")
        lines = plan_lines(plan, policy.budget_bytes, dry_run=True)
        if policy.budget_bytes is not None and plan.left_bytes > policy.budget_bytes:
            lines.append(
                f"▲ {size(plan.left_bytes)} would stay, more than {size(policy.budget_bytes)}: pinned "
                "and unfinished runs need them"
            )
        self.query_one("#lines", Static).update("\n".join(lines))
        self._planned = Planned(policy, plan, False)
        self.query_one("#apply", Button).disabled = plan.is_empty

    def _show_problem(self, error: Exception) -> None:
        self.query_one("#problem", Static).update(f"✖ {self.app.line_for(error)}")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.action_leave(event.button.id == "apply")

    def action_leave(self, is_wanted: bool) -> None:
        """With the plan, to be carried out or only to be known."""
        planned = self._planned
        if is_wanted and (planned is None or planned.plan.is_empty):
            return
        self.dismiss(planned and Planned(planned.policy, planned.plan, is_wanted))
