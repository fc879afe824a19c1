"""The panels around the form: the stages, the plan, what is wrong, what differs from the preset."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.binding import Binding
from textual.content import Content
from textual.widgets import Static
from textual.widgets.option_list import Option

from presets.spec.sections import SECTIONS
from tui.app.compose.section_rows import section_of, summary
from tui.app.widgets.list_panel import ListPanel, put
from tui.text import printable
from tui.units import duration, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from textual.binding import BindingType

    from tui.app.compose.draft import Change, Checked, Draft, Problem
    from tui.describe.plan import Planned

# Before the panel is laid out.
_PLAN_CELLS = 40
_MARKS = {"stored": "✓", "compute": "●", "skip": "·", "warm": "✓"}


class Stages(ListPanel):
    """The pipeline: each stage with what is chosen for it; `*` differs from the preset, `✖` is wrong."""

    def __init__(self) -> None:
        super().__init__("stages", id="stages")
        self._drawn: dict[str, Text] = {}
        self.add_options(Option(f"  {section.title}", section.name) for section in SECTIONS)
        self.highlighted = 0

    def show(self, draft: Draft | None, checked: Checked | None, *, is_roomy: bool) -> None:
        """draft: None where the preset is broken."""
        wrong = {section_of(key).name for key in checked.errors if key} if checked else set()
        changed = {section_of(key).name for key in checked.changed} if checked else set()
        for section in SECTIONS:
            is_wrong = draft is None or checked is None
            if is_wrong:
                is_wrong = section.name == "preset"
            elif checked is not None:
                is_wrong = section.name in wrong
            is_changed = section.name in changed
            mark = "✖" if is_wrong else "*" if is_changed else " "
            line = Text(f"{mark} {section.title}", style="bold" if mark != " " else "")
            if is_roomy:
                told = summary(section, draft, checked.shown) if draft and checked else ""
                line.append(f"\n  {told}", "not bold")
            if line != self._drawn.get(section.name):
                self._drawn[section.name] = line
                self.replace_option_prompt(section.name, line)


class PlanPanel(Static):
    """What the run would compute. Its table is cut where it has no room; what is said in words has as many lines as
    that takes."""

    def __init__(self) -> None:
        super().__init__(id="plan", classes="panel", markup=False)
        self.border_title = "plan"
        self._planned: Planned | None = None
        self._memory: tuple[str, ...] = ()

    def show(self, planned: Planned | None, state: str) -> None:
        """state: what is going on with it, such as that it is out of date; empty for nothing."""
        is_estimate = planned is not None and bool(planned.missing)
        self.border_subtitle = state or ("an estimate" if is_estimate else "")
        self._planned = planned
        self._draw()

    def show_memory(self, lines: tuple[str, ...]) -> None:
        """A line for each device; none for what nobody has asked for."""
        self._memory = lines
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        notes = self._planned.notes if self._planned else ()
        width = self.content_size.width or _PLAN_CELLS
        words = [
            line for note in notes for line in wrapped(self.app.console, printable(note), width)
        ]
        put(
            self,
            "\n".join(
                [
                    plan_told(self._planned, is_memory_told=bool(self._memory)),
                    *words,
                    *map(printable, self._memory),
                ]
            ),
        )


class Problems(ListPanel):
    """What is wrong, and what to think of; enter goes to the field."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "copy", "Copy", id="compose.copy", show=False, tooltip="what is to be typed, or what is wrong"),
    ]  # fmt: skip

    def __init__(self, title: str, *, id: str) -> None:  # Textual's own name for it
        super().__init__(title, id=id)
        self._copied: tuple[str, ...] = ()

    def show(self, problems: Sequence[Problem], commands: Sequence[str] = ()) -> None:
        """commands: what y copies; the problems themselves where there are none."""
        self._copied = tuple(commands) or tuple(problem.text for problem in problems)
        num_errors = sum(problem.is_error for problem in problems)
        self.border_title = f"problems: {num_errors}" if num_errors else "problems"
        self.show_lines([(problem.key, _problem(problem)) for problem in problems], "✓ none")

    def action_copy(self) -> None:
        if self._copied:
            self.app.copy_to_clipboard("\n".join(self._copied))
            lines = "1 line is" if len(self._copied) == 1 else f"{len(self._copied)} lines are"
            self.notify(f"{lines} copied")


class Changes(ListPanel):
    """The fields that differ from the preset; enter goes to one, u undoes it."""

    def show(self, changes: Sequence[Change], preset: str) -> None:
        name = printable(preset) or "the preset"
        self.border_title = Content(f"differs from {name}: {len(changes)}")
        self.show_lines([(change.key, _change(change)) for change in changes], "nothing")


def plan_line(planned: Planned | None, num_problems: int, num_changes: int) -> str:
    """All of it in one line."""
    told = ["no plan yet"]
    if planned is not None:
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
    memory = "not known" if planned.memory_bytes is None else size(planned.memory_bytes)
    if planned.device_bytes:
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


def _problem(problem: Problem) -> Text:
    mark = problem.mark or ("✖" if problem.is_error else "▲")
    return Text(f"{mark} {printable(problem.text)}")


def _change(change: Change) -> Text:
    line = Text(f"{change.key}\n", style="bold")
    old, new = (printable(text) or "(empty)" for text in (change.old, change.new))
    return line.append(f"  {old} → {new}", "not bold")
