"""The stages of a run on one line: what is done, what runs now and what is still to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rich.cells import cell_len
from rich.style import Style
from textual.strip import Strip

from tui.app.widgets.drawn import Drawn
from tui.text import printable
from tui.units import span

State = Literal["todo", "running", "done", "cached", "skipped", "failed"]

_SYMBOLS: dict[State, str] = {
    "todo": "·",
    "running": "▶",
    "done": "✓",
    "cached": "✓",
    "skipped": "–",
    "failed": "✖",
}
_WORDS: dict[State, str] = {"cached": "cached", "skipped": "skipped", "failed": "failed"}


@dataclass(frozen=True)
class StageCell:
    """One stage. `seconds` is None where none were measured; `detail` is free, such as `12/30`."""

    name: str
    state: State
    seconds: float | None
    detail: str = ""


class Stages(Drawn):
    """Symbol, name and time of each stage; where there is no room the shortest times go first, and names last."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "stages--done",
        "stages--cached",
        "stages--failed",
        "stages--running",
        "stages--separator",
        "stages--skipped",
        "stages--todo",
    }
    DEFAULT_CSS = """
    Stages { width: 1fr; height: 1; }
    Stages > .stages--done { color: $text-success; }
    Stages > .stages--cached { color: $text-primary; }
    Stages > .stages--failed { color: $text-error; text-style: bold; }
    Stages > .stages--running { color: $text-warning; text-style: bold; }
    Stages > .stages--skipped, Stages > .stages--todo { color: $foreground-muted; }
    Stages > .stages--separator { color: $foreground-disabled; }
    """

    def __init__(
        self, *, name: str | None = None, id: str | None = None, classes: str | None = None
    ) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self._cells: tuple[StageCell, ...] = ()

    def show(self, cells: Sequence[StageCell]) -> None:
        """Draw these stages, on as many rows as the widget has, with as much text as they hold."""
        if (shown := tuple(cells)) != self._cells:
            self._cells = shown
            self.redraw()

    def draw(self, width: int, height: int) -> list[Strip]:
        rows = _fitting(self._cells, width, height)
        return [self.line(self._row(row), width) for row in rows[:height]]

    def _row(self, row: Sequence[tuple[State, str]]) -> list[tuple[str, Style]]:
        parts = []
        for index, (state, text) in enumerate(row):
            if index:
                separator = " │ " if len(text) > 1 else " "
                parts.append((separator, self.styled("stages--separator")))
            parts.append((text, self.styled(f"stages--{state}")))
        return parts


def _texts(cell: StageCell) -> tuple[str, ...]:
    """What to say of a stage, from the longest text to its symbol alone."""
    symbol, name = _SYMBOLS[cell.state], printable(cell.name)
    word = (cell.detail and printable(cell.detail)) or _WORDS.get(cell.state, "")
    time = "" if cell.seconds is None else span(cell.seconds)
    full = " ".join(filter(None, (symbol, name, word, time)))
    without_time = " ".join(filter(None, (symbol, name, word)))
    named = f"{symbol} {name}"
    if cell.state in ("running", "failed"):
        return full, without_time, without_time, without_time, named, symbol
    return full, without_time, named, symbol, symbol, symbol


def _fitting(cells: Sequence[StageCell], width: int, height: int) -> list[list[tuple[State, str]]]:
    """The stages in rows, with the longest texts that fit `width` by `height` cells.

    What is shortened first: the times of the shortest stages, one by one, then details, then the names of stages that
    are not running.
    """
    texts = [_texts(cell) for cell in cells]
    timed = [number for number, cell in enumerate(cells) if cell.seconds is not None]
    timed.sort(key=lambda number: cells[number].seconds or 0.0)
    levels = [0] * len(cells)
    rows = _at(cells, texts, levels, width)
    for number in timed:
        if _fits(rows, width, height):
            return rows
        levels[number] = 1
        rows = _at(cells, texts, levels, width)
    for level in range(1, 6):
        if _fits(rows, width, height):
            return rows
        rows = _at(cells, texts, [level] * len(cells), width)
    return rows


def _at(
    cells: Sequence[StageCell], texts: Sequence[Sequence[str]], levels: Sequence[int], width: int
) -> list[list[tuple[State, str]]]:
    items = [
        (cell.state, text[level]) for cell, text, level in zip(cells, texts, levels, strict=True)
    ]
    return _wrapped(items, width)


def _fits(rows: Sequence[Sequence[tuple[State, str]]], width: int, height: int) -> bool:
    return len(rows) <= height and all(cell_len(text) <= width for row in rows for _, text in row)


def _wrapped(items: Sequence[tuple[State, str]], width: int) -> list[list[tuple[State, str]]]:
    """Items in rows of at most `width` cells, separators included, where single ones fit."""
    rows: list[list[tuple[State, str]]] = []
    used = 0
    for state, text in items:
        needed = cell_len(text) + (3 if len(text) > 1 else 1)
        if rows and used + needed <= width:
            rows[-1].append((state, text))
            used += needed
        else:
            rows.append([(state, text)])
            used = cell_len(text)
    return rows
