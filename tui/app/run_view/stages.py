"""The stages of a run on one line: what is done, what runs now and what is still to come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
_SEPARATOR = " │ "
_WORDS: dict[State, str] = {"cached": "cached", "skipped": "skipped", "failed": "failed"}


@dataclass(frozen=True)
class StageCell:
    """One stage. `seconds` is None where none were measured; `detail` is free, such as `12/30`."""

    name: str
    state: State
    seconds: float | None
    detail: str = ""


class Stages(Drawn):
    """Symbol, name and time of each stage; where there is no room it goes first which are cached, then the shortest of
    the times, and names last."""

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
        """Draw these stages, with as much text as fits."""
        if (shown := tuple(cells)) != self._cells:
            self._cells = shown
            self.redraw()

    def draw(self, width: int, height: int) -> list[Strip]:
        said = next((said for said in _ways(self._cells) if _cells_of(said) <= width), [])
        parts: list[tuple[str, Style]] = []
        for cell, text in zip(self._cells, said, strict=False):
            separator = _SEPARATOR if len(text) > 1 else " "
            parts += [(separator, self.styled("stages--separator"))] * bool(parts)
            parts.append((text, self.styled(f"stages--{cell.state}")))
        return [self.line(parts, width)]


def _ways(cells: Sequence[StageCell]) -> Iterator[list[str]]:
    """What to say of the stages, the most first: all of it, fewer and fewer times, none, only names but of what runs
    or failed, then without the names, symbols."""
    symbols = [_SYMBOLS[cell.state] for cell in cells]
    names = [f"{_SYMBOLS[cell.state]} {printable(cell.name)}" for cell in cells]
    told = [_text(cell) for cell in cells]
    is_told = [cell.state in ("running", "failed") for cell in cells]
    short = [a if is_a else b for a, b, is_a in zip(told, names, is_told, strict=True)]
    times = [f" {span(cell.seconds)}" if cell.seconds is not None else "" for cell in cells]
    yield [f"{text}{time}" for text, time in zip(told, times, strict=True)]
    by_length = sorted((cell.seconds, at) for at, cell in enumerate(cells) if cell.seconds)
    for shortest in range(len(by_length)):  # which are cached, the head of the run says as well
        timed = {at for _, at in by_length[shortest:]}
        yield [f"{text}{times[at] if at in timed else ''}" for at, text in enumerate(short)]
    yield told
    yield short
    yield [a if is_a else b for a, b, is_a in zip(told, symbols, is_told, strict=True)]
    yield symbols


def _text(cell: StageCell) -> str:
    word = printable(cell.detail) or _WORDS.get(cell.state, "")
    return " ".join(filter(None, (_SYMBOLS[cell.state], printable(cell.name), word)))


def _cells_of(said: Sequence[str]) -> int:
    separators = (len(_SEPARATOR) if len(text) > 1 else 1 for text in said[1:])
    return sum(map(cell_len, said)) + sum(separators)
