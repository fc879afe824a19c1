"""Lines over numbers: up to three series drawn with braille dots, with axes, legend and marker."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.style import Style
from textual.strip import Strip

from tui.app.widgets.axes import Axis, exact_axis, number, round_axis
from tui.app.widgets.braille import Canvas, sample
from tui.app.widgets.drawn import Drawn
from tui.text import printable, shorten

MAX_SERIES = 3


@dataclass(frozen=True)
class Series:
    """Points of one line: `xs` ascend; a `y` that is not finite is a gap. Equally many of both."""

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]


@dataclass(frozen=True)
class _Content:
    series: tuple[Series, ...] = ()
    marker: float | None = None
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


class Plot(Drawn):
    """A line plot of any size. Legend and axes give way, in this order, where there is no room."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "plot--axis",
        "plot--empty",
        "plot--marker",
        "plot--series-1",
        "plot--series-2",
        "plot--series-3",
    }
    DEFAULT_CSS = """
    Plot { width: 1fr; height: 1fr; min-height: 1; }
    Plot > .plot--axis, Plot > .plot--empty { color: $foreground-muted; }
    Plot > .plot--marker { color: $foreground; text-style: bold; }
    Plot > .plot--series-1 { color: $text-primary; text-style: bold; }
    Plot > .plot--series-2 { color: $text-warning; }
    Plot > .plot--series-3 { color: $text-success; }
    """

    def __init__(
        self,
        *,
        y_format: Callable[[float], str] = number,
        x_format: Callable[[float], str] = number,
        binary_ticks: bool = False,
        empty: str = "no data yet",
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        """`binary_ticks` puts the y ticks at powers of two, for sizes in bytes."""
        super().__init__(name=name, id=id, classes=classes)
        self._y_format, self._x_format = y_format, x_format
        self._is_binary, self._empty = binary_ticks, empty
        self._content = _Content()

    def show(
        self,
        series: Sequence[Series],
        *,
        marker: float | None = None,
        x_range: tuple[float, float] | None = None,
        y_range: tuple[float, float] | None = None,
    ) -> None:
        """Draw the first three of `series` with a vertical line at x = `marker`.

        Ranges default to those of the data, the one of y rounded; points outside are not drawn.
        """
        content = _Content(tuple(series[:MAX_SERIES]), marker, x_range, y_range)
        if content != self._content:
            self._content = content
            self.redraw()

    def draw(self, width: int, height: int) -> list[Strip]:
        axes = _axes(self._content, self._is_binary)
        if axes is None:
            return self.centred(self._empty, self.styled("plot--empty"), width, height)
        x_axis, y_axis = axes
        has_legend, has_x_labels = height >= 4, height >= 3
        rows = height - has_legend - has_x_labels
        labels = [self._y_format(tick) for tick in y_axis.ticks]
        gutter = max(map(cell_len, labels)) + 1
        if rows < 2 or width < gutter + 8:
            gutter = 0
        columns = width - gutter
        canvas = Canvas(columns, rows)
        for index, series in reversed(list(enumerate(self._content.series))):
            canvas.line(_places(series, x_axis, y_axis), index)
        margins = _margins(y_axis, labels, gutter, canvas)
        marks = self._marks(x_axis, y_axis, canvas)
        lines = [self._legend(width)] if has_legend else []
        lines += [
            self.line(self._row(margins[row], canvas, row, marks), width) for row in range(rows)
        ]
        if has_x_labels:
            lines.append(self._x_labels(x_axis, gutter, width))
        return lines

    def _row(
        self, margin: str, canvas: Canvas, row: int, marks: tuple[int, int] | None
    ) -> Iterator[tuple[str, Style]]:
        """One row of the plot: its margin, its dots, and the marker in front of them."""
        yield margin, self.styled("plot--axis")
        column = 0
        for text, owner in canvas.runs(row):
            style = self.plain if owner is None else self.styled(f"plot--series-{owner + 1}")
            place = marks[0] - column if marks else -1
            if marks and 0 <= place < len(text) and (row == marks[1] or owner is None):
                yield text[:place], style
                yield "●" if row == marks[1] else "│", self.styled("plot--marker")
                yield text[place + 1 :], style
            else:
                yield text, style
            column += len(text)

    def _marks(self, x_axis: Axis, y_axis: Axis, canvas: Canvas) -> tuple[int, int] | None:
        """Column of the marker and the row of its ●, on the first series (-1: not on any row)."""
        marker = self._content.marker
        if marker is None or not x_axis.low <= marker <= x_axis.high:
            return None
        column = int(x_axis.share(marker) * (canvas.width - 1) + 0.5) // 2
        value = _value_at(self._content.series[0], marker)
        if value is None or not y_axis.low <= value <= y_axis.high:
            return column, -1
        return column, _cell_row(y_axis, value, canvas)

    def _legend(self, width: int) -> Strip:
        """Each series with its pattern, its name and its last value, as much of them as fits."""
        series = self._content.series
        names = [printable(one.name) for one in series]
        full = [f"{name} {self._last_value(one)}" for name, one in zip(names, series, strict=True)]
        for cells, texts in ((4, full), (3, full), (3, names), (0, names)):
            patterns = [f"{sample(index, cells)} " if cells else "" for index in range(len(texts))]
            entries = [pattern + text for pattern, text in zip(patterns, texts, strict=True)]
            if sum(map(cell_len, entries)) + 2 * (len(entries) - 1) <= width:
                break
        else:
            room = (width - 2 * (len(names) - 1)) // len(names)
            entries = [shorten(name, max(1, room)) for name in names]
        parts: list[tuple[str, Style]] = []
        for index, entry in enumerate(entries):
            parts += [(entry, self.styled(f"plot--series-{index + 1}")), ("  ", self.plain)]
        return self.line(parts, width)

    def _last_value(self, series: Series) -> str:
        if not series.ys:
            return "–"
        last = series.ys[-1]
        return self._y_format(last) if math.isfinite(last) else str(float(last))

    def _x_labels(self, axis: Axis, gutter: int, width: int) -> Strip:
        """First and last x at the ends of the axis; the last one where both do not fit."""
        first, last = self._x_format(axis.low), self._x_format(axis.high)
        space = width - gutter - cell_len(first) - cell_len(last)
        text = f"{first}{' ' * space}{last}" if space >= 1 else shorten(last, width - gutter)
        return self.line([(" " * gutter + text, self.styled("plot--axis"))], width)


def _axes(content: _Content, is_binary: bool) -> tuple[Axis, Axis] | None:
    """The axes of x and y, or None where there is no point with a place."""
    isfinite = math.isfinite
    xs: list[float] = []
    ys: list[float] = []
    for series in content.series:
        found = [
            pair for pair in zip(series.xs, series.ys, strict=False) if isfinite(pair[0] + pair[1])
        ]
        xs += [x for x, _ in found]
        ys += [y for _, y in found]
    if not xs:
        return None
    x_axis = exact_axis(*(content.x_range or (min(xs), max(xs))))
    if content.y_range:
        return x_axis, exact_axis(*content.y_range)
    return x_axis, round_axis(min(ys), max(ys), binary=is_binary)


def _places(series: Series, x_axis: Axis, y_axis: Axis) -> list[tuple[float, float] | None]:
    """The points of a series as shares of the axes, None for gaps."""
    x_low, x_scale = x_axis.low, 1 / (x_axis.high - x_axis.low)
    y_low, y_scale = y_axis.low, 1 / (y_axis.high - y_axis.low)
    isfinite = math.isfinite
    return [
        ((x - x_low) * x_scale, (y - y_low) * y_scale) if isfinite(x + y) else None
        for x, y in zip(series.xs, series.ys, strict=False)
    ]


def _cell_row(axis: Axis, value: float, canvas: Canvas) -> int:
    bottom = canvas.height - 1
    return (bottom - int(axis.share(value) * bottom + 0.5)) // 4


def _margins(axis: Axis, labels: Sequence[str], gutter: int, canvas: Canvas) -> list[str]:
    """What is left of each row: the label of a tick and the axis, each `gutter` cells wide."""
    if not gutter:
        return [""] * canvas.rows
    margins = [" " * (gutter - 1) + "│"] * canvas.rows
    middle = len(labels) // 2
    for index, (tick, label) in enumerate(zip(axis.ticks, labels, strict=True)):
        if len(labels) == 3 and index == middle and canvas.rows < 3:
            continue
        space = " " * (gutter - 1 - cell_len(label))
        margins[_cell_row(axis, tick, canvas)] = f"{space}{label}┤"
    return margins


def _value_at(series: Series, x: float) -> float | None:
    """The y of the point nearest to `x`, None where it is a gap."""
    index = bisect_left(series.xs, x)
    near = [i for i in (index - 1, index) if 0 <= i < min(len(series.xs), len(series.ys))]
    if not near:
        return None
    value = series.ys[min(near, key=lambda i: abs(series.xs[i] - x))]
    return value if math.isfinite(value) else None
