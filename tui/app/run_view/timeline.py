"""The steps of a run side by side: how far each has come, how long it took, which are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

from rich.cells import cell_len
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip

from tui.app.run_view.grid import LABEL_CELLS, Grid, grid_of, spark
from tui.app.widgets.drawn import Drawn
from tui.text import shorten
from tui.units import span

State = Literal["todo", "running", "computed", "reused", "skipped"]

# a column of several steps shows the first of these that it has: the least advanced
_GLYPHS: dict[State, str] = {
    "todo": "░",
    "running": "▶",
    "skipped": "▒",
    "reused": "▓",
    "computed": "█",
}
_WORDS: dict[State, str] = {
    "todo": "to do",
    "running": "running",
    "skipped": "skipped",
    "reused": "reused",
    "computed": "computed",
}
_NOISE = "≈"
_STORED = "•"


class StepCell(NamedTuple):
    """One step. `is_stored`: a run can branch from its result. `seconds` 0 where not measured. A tuple, because a run
    has up to a thousand and all are made and compared five times a second."""

    state: State
    seconds: float
    is_stored: bool


class Timeline(Drawn, can_focus=True):
    """Steps 1 to n with a cursor; 0 is the noise that step 1 starts from. One to five rows high."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "timeline--arrow",
        "timeline--computed",
        "timeline--cursor",
        "timeline--muted",
        "timeline--reused",
        "timeline--running",
        "timeline--skipped",
        "timeline--spark",
        "timeline--stored",
        "timeline--todo",
    }
    DEFAULT_CSS = """
    Timeline { width: 1fr; height: 5; min-height: 1; }
    Timeline > .timeline--computed { color: $text-success; }
    Timeline > .timeline--reused { color: $text-primary; }
    Timeline > .timeline--skipped, Timeline > .timeline--muted { color: $foreground-muted; }
    Timeline > .timeline--spark { color: $foreground-muted; }
    Timeline > .timeline--running { color: $text-warning; text-style: bold; }
    Timeline > .timeline--todo { color: $foreground-disabled; }
    Timeline > .timeline--stored { color: $text-accent; }
    Timeline > .timeline--cursor { color: $foreground; text-style: bold; }
    Timeline:focus > .timeline--arrow { color: $foreground; text-style: bold reverse; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "Step back", show=False, id="timeline.back"),
        Binding("right,l", "move(1)", "Step on", show=False, id="timeline.on"),
        Binding("home", "jump(0)", "The noise", show=False, id="timeline.first"),
        Binding("end", "jump(-1)", "Last step", show=False, id="timeline.last"),
        Binding("pageup", "page(-1)", "10 % back", show=False, id="timeline.page_back"),
        Binding("pagedown", "page(1)", "10 % on", show=False, id="timeline.page_on"),
        Binding("enter", "choose", "Choose step", show=False, id="timeline.choose"),
    ]

    cursor: reactive[int] = reactive(0, repaint=False)

    class Moved(Message):
        """A person moved the cursor to `step`, 0 for the noise."""

        def __init__(self, timeline: Timeline, step: int) -> None:
            super().__init__()
            self.timeline, self.step = timeline, step

        @property
        def control(self) -> Timeline:
            return self.timeline

    class Chosen(Moved):
        """A person chose `step`, 0 for the noise: enter, or a double click."""

    def __init__(
        self, *, name: str | None = None, id: str | None = None, classes: str | None = None
    ) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self._cells: tuple[StepCell, ...] = ()

    def show(self, cells: Sequence[StepCell]) -> None:
        """Draw these steps, the first one being step 1. The cursor stays where it can."""
        if (shown := tuple(cells)) != self._cells:
            self._cells = shown
            self.cursor = min(self.cursor, len(shown))
            self.redraw()

    def validate_cursor(self, step: int) -> int:
        return max(0, min(step, len(self._cells)))

    def watch_cursor(self) -> None:
        self.redraw()

    def watch_has_focus(self, has_focus: bool) -> None:
        super().watch_has_focus(has_focus)
        self.redraw()

    def action_move(self, steps: int) -> None:
        """Move the cursor by `steps` and say so, if it could move."""
        self._go_to(self.cursor + steps)

    def action_jump(self, step: int) -> None:
        """Move the cursor to `step`, -1 for the last."""
        self._go_to(step if step >= 0 else len(self._cells))

    def action_page(self, direction: int) -> None:
        """Move the cursor by a tenth of the steps, by one at least."""
        self._go_to(self.cursor + direction * max(1, round(len(self._cells) / 10)))

    def action_choose(self) -> None:
        """Say that the step under the cursor is chosen, if there are steps."""
        if self._cells:
            self.post_message(self.Chosen(self, self.cursor))

    def on_click(self, event: events.Click) -> None:
        """Move to what was clicked; a second click chooses it."""
        offset = event.get_content_offset(self)
        if offset is None or not self._cells:
            return
        event.stop()
        self._go_to(grid_of(len(self._cells), self.size.width).step_at(offset.x))
        if event.chain == 2:
            self.action_choose()

    def _go_to(self, step: int) -> None:
        before, self.cursor = self.cursor, step
        if self.cursor != before:
            self.post_message(self.Moved(self, self.cursor))

    def draw(self, width: int, height: int) -> list[Strip]:
        if not self._cells:
            return self.centred("no steps yet", self.styled("timeline--muted"), width, height)
        grid = grid_of(len(self._cells), width)
        rows = [self._steps(grid, width)]
        if height >= 4:
            rows.insert(0, self._sparks(grid, width))
        if height >= 3:
            rows.append(self._marks(grid, width))
        if height >= 2:
            rows.append(self.line([(shorten(self._info(), width), self.plain)], width))
        if height >= 5:
            rows.append(self._legend(width))
        return rows

    def _label(self, grid: Grid, text: str) -> str:
        return text.ljust(LABEL_CELLS) if grid.left else ""

    def _steps(self, grid: Grid, width: int) -> Strip:
        style = self.styled("timeline--cursor" if self.cursor == 0 else "timeline--muted")
        parts = [(self._label(grid, "step"), self.styled("timeline--muted")), (_NOISE, style)]
        parts.append((" ", self.plain))
        cursor_column = grid.column(self.cursor) if self.cursor else -1
        for column in range(grid.columns):
            present = {self._cells[step - 1].state for step in grid.steps(column)}
            state = next(state for state in _GLYPHS if state in present)
            style = self.styled(f"timeline--{state}")
            if column == cursor_column:
                style = self.styled("timeline--cursor")
            drawn, space = grid.split
            glyphs = _GLYPHS[state] * drawn
            if state == "running":
                glyphs = _GLYPHS["running"] + _GLYPHS["todo"] * (drawn - 1)
            parts += [(glyphs, style), (" " * space, self.plain)]
        return self.line(parts, width)

    def _sparks(self, grid: Grid, width: int) -> Strip:
        """Mean seconds of each column against the greatest of all columns; blank where not done."""
        means = []
        for column in range(grid.columns):
            cells = [self._cells[step - 1] for step in grid.steps(column)]
            times = [
                cell.seconds
                for cell in cells
                if cell.state not in ("todo", "running") and math.isfinite(cell.seconds)
            ]
            means.append(sum(times) / len(times) if times else None)
        most = max((mean for mean in means if mean is not None), default=0)
        drawn, space = grid.split
        text = "".join(spark(mean, most) * drawn + " " * space for mean in means)
        label = self._label(grid, "time")
        return self.line([(f"{label}  {text}", self.styled("timeline--spark"))], width)

    def _marks(self, grid: Grid, width: int) -> Strip:
        """A dot under each column with a stored step, and an arrow under the cursor."""
        columns = [" "] * (2 + grid.columns * grid.cell)
        for column in range(grid.columns):
            if any(self._cells[step - 1].is_stored for step in grid.steps(column)):
                columns[2 + column * grid.cell] = _STORED
        place = 2 + grid.column(self.cursor) * grid.cell if self.cursor else 0
        is_stored = self.cursor > 0 and self._cells[self.cursor - 1].is_stored
        text = "".join(columns)
        stored = self.styled("timeline--stored")
        return self.line(
            [
                (self._label(grid, "kept"), self.styled("timeline--muted")),
                (text[:place], stored),
                ("▲" if is_stored or not self.cursor else "△", self.styled("timeline--arrow")),
                (text[place + 1 :], stored),
            ],
            width,
        )

    def _info(self) -> str:
        """What there is to say about the step under the cursor."""
        num_steps = len(self._cells)
        if not self.cursor:
            return f"the noise · before step 1 of {num_steps}"
        cell = self._cells[self.cursor - 1]
        parts = [f"step {self.cursor} of {num_steps}", _WORDS[cell.state]]
        if cell.state not in ("todo", "running"):
            if cell.seconds > 0 and math.isfinite(cell.seconds):
                parts.append(span(cell.seconds))
            parts.append("stored" if cell.is_stored else "not stored")
        elif cell.is_stored:
            parts.append("stored")
        return " · ".join(parts)

    def _legend(self, width: int) -> Strip:
        """All states where there is room, else those that occur."""
        present = {cell.state for cell in self._cells}
        entries = [
            (f"{_GLYPHS[state]} {_WORDS[state]}", f"timeline--{state}", state in present)
            for state in ("computed", "reused", "skipped", "running", "todo")
        ]
        stored = any(cell.is_stored for cell in self._cells)
        entries.append((f"{_STORED} stored", "timeline--stored", stored))
        if sum(cell_len(text) + 2 for text, _, _ in entries) > width + 2:
            entries = [entry for entry in entries if entry[2]]
        parts = []
        for text, name, _ in entries:
            parts += [
                (text[0], self.styled(name)),
                (text[1:] + "  ", self.styled("timeline--muted")),
            ]
        return self.line(parts, width)
