"""Where the steps of a timeline lie, and the small bars and times that it shows for them."""

from __future__ import annotations

from dataclasses import dataclass

LABEL_CELLS = 5
"""Columns for the name of a row, on the left of a timeline that has room for it."""

_WIDEST_CELL = 6
_SPARKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Grid:
    """Where steps lie: the noise in column `left`, cells of `cell` columns from `left + 2` on."""

    left: int
    cell: int
    columns: int
    num_steps: int

    def steps(self, column: int) -> range:
        """The steps, counted from 1, of one column of cells."""
        first = column * self.num_steps // self.columns
        return range(first + 1, max(first + 1, (column + 1) * self.num_steps // self.columns) + 1)

    def column(self, step: int) -> int:
        """The column of cells that shows `step`."""
        return ((step - 1) * self.columns + self.columns - 1) // self.num_steps

    def step_at(self, x: int) -> int:
        """The step drawn at `x` cells from the left, 0 for the noise and all before it."""
        column = (x - self.left - 2) // self.cell
        if column < 0 or not self.columns:
            return 0
        return self.steps(min(column, self.columns - 1))[0]

    @property
    def split(self) -> tuple[int, int]:
        """Columns of a cell that are drawn, and those left blank between wide cells."""
        return (self.cell - 1, 1) if self.cell >= 3 else (self.cell, 0)


def grid_of(num_steps: int, width: int) -> Grid:
    """Cells as wide as they may be, columns of several steps where there are more than columns."""
    left = LABEL_CELLS if width >= 40 else 0
    room = max(1, width - left - 2)
    cell = max(1, min(_WIDEST_CELL, room // num_steps))
    return Grid(left, cell, min(num_steps, room), num_steps)


def spark(value: float | None, most: float) -> str:
    """A bar for `value` of `most`, a blank for None."""
    if value is None:
        return " "
    return _SPARKS[max(0, min(7, round(value / most * 7)))] if most > 0 else _SPARKS[0]
