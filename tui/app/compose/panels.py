"""The lists around the form: the stages, what is wrong, what differs from the preset."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding
from textual.content import Content
from textual.widgets.option_list import Option

from presets.spec.sections import SECTIONS
from tui.app.compose.section_rows import section_of, summary
from tui.app.widgets.list_panel import ListPanel
from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.binding import BindingType

    from tui.app.compose.draft import Change, Checked, Draft, Problem


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


def _problem(problem: Problem) -> Text:
    mark = problem.mark or ("✖" if problem.is_error else "▲")
    return Text(f"{mark} {printable(problem.text)}")


def _change(change: Change) -> Text:
    line = Text(f"{change.key}\n", style="bold")
    old, new = (printable(text) or "(empty)" for text in (change.old, change.new))
    return line.append(f"  {old} → {new}", "not bold")
