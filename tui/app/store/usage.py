"""What takes space in the store, as one bar of parts that differ in texture as well as in colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len

from tui.app.widgets.drawn import Drawn
from tui.describe.space import parts
from tui.text import counted
from tui.units import size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.style import Style
    from textual.strip import Strip

    from store.upkeep.space import Overview

TEXTURES = "█▓▒░▞▪"
_LEGEND_LINES = 2


class Usage(Drawn):
    """The bar, what its parts are, and the totals: four lines."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"usage--part{i}" for i in range(len(TEXTURES))} | {
        "usage--dim"
    }

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._overview: Overview | None = None

    def show(self, overview: Overview) -> None:
        self._overview = overview
        self.redraw()

    def draw(self, width: int, height: int) -> list[Strip]:
        if self._overview is None:
            return self.centred("looking at the store …", self.styled("usage--dim"), width, height)
        shown = largest(self._overview)
        styles = [self.styled(f"usage--part{i}") for i in range(len(shown))]
        lines = [self._bar(shown, styles, width), *self._legend(shown, styles, width)]
        lines += [self.line([(text, self.plain)], width) for text in totals(self._overview, width)]
        return lines[:height]

    def _bar(self, shown: Sequence[tuple[str, int]], styles: Sequence[Style], width: int) -> Strip:
        cells = shares([num_bytes for _, num_bytes in shown], width)
        pieces = [(TEXTURES[i] * count, styles[i]) for i, count in enumerate(cells)]
        return self.line(pieces or [("░" * width, self.styled("usage--dim"))], width)

    def _legend(
        self, shown: Sequence[tuple[str, int]], styles: Sequence[Style], width: int
    ) -> list[Strip]:
        rows: list[list[tuple[str, Style]]] = [[]]
        used = 0
        for i, (name, num_bytes) in enumerate(shown):
            text = f" {name} {size(num_bytes)}   "
            if used and used + 1 + cell_len(text.rstrip()) > width:
                rows.append([])
                used = 0
            rows[-1] += [(TEXTURES[i], styles[i]), (text, self.plain)]
            used += 1 + cell_len(text)
        return [self.line(row, width) for row in rows[:_LEGEND_LINES]]


def largest(overview: Overview) -> list[tuple[str, int]]:
    """(name, bytes) of what there is, the largest first; at most six, the smallest in one."""
    found = [(name, num_bytes) for name, _, num_bytes in parts(overview) if num_bytes]
    found.sort(key=lambda each: -each[1])
    room = len(TEXTURES)
    if len(found) > room:
        rest = sum(num_bytes for _, num_bytes in found[room - 1 :])
        found = [*found[: room - 1], ("the rest", rest)]
    return found


def shares(sizes: Sequence[int], width: int) -> list[int]:
    """How many of `width` cells each gets: in proportion, at least one, all of them together."""
    total = sum(sizes)
    if not total or width < len(sizes):
        return [0] * len(sizes)
    cells = [max(1, round(width * each / total)) for each in sizes]
    while sum(cells) != width:
        step = 1 if sum(cells) < width else -1
        cells[max(range(len(cells)), key=lambda i: cells[i])] += step
    return cells


def totals(overview: Overview, width: int) -> list[str]:
    """What there is, what is free, and what a clean-up would be about."""
    told = [
        f"all {size(overview.num_bytes)} of {counted(overview.num_runs, 'run')}",
        f"free on this disk {size(overview.free_bytes)}",
    ]
    if overview.protected_bytes:
        told.append(f"never removed {size(overview.protected_bytes)}")
    if overview.leftover_bytes:
        told.append(f"of no run any more {size(overview.leftover_bytes)}")
    line = ""
    for each in told:
        longer = f"{line}   {each}" if line else each
        if cell_len(longer) <= width:
            line = longer
    return [line]
