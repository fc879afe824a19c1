"""The lines on top of a run: how it stands, what it is, what the store saved it, and the most useful line now."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len, set_cell_size
from textual.message import Message

from tui.app.widgets.drawn import Drawn
from tui.text import shorten, shorten_front

if TYPE_CHECKING:
    from rich.style import Style
    from textual import events
    from textual.strip import Strip

    from tui.app.run_view.cells import Head

_OUTPUT_ROW = 3


class RunHead(Drawn):
    """Four lines. A click on the path of the output says so."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "runhead--running",
        "runhead--done",
        "runhead--failed",
        "runhead--waiting",
        "runhead--muted",
        "runhead--output",
    }
    DEFAULT_CSS = """
    RunHead { height: 4; }
    RunHead > .runhead--running { color: $text-warning; text-style: bold; }
    RunHead > .runhead--done { color: $text-success; text-style: bold; }
    RunHead > .runhead--failed { color: $text-error; text-style: bold; }
    RunHead > .runhead--waiting { color: $text-primary; text-style: bold; }
    RunHead > .runhead--muted { color: $foreground-muted; }
    RunHead > .runhead--output { text-style: underline; }
    """

    class OutputClicked(Message):
        """The path of the run's file was clicked."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._head: Head | None = None

    def show(self, head: Head | None) -> None:
        """Draw this, None for nothing."""
        if head != self._head:
            self._head = head
            self.redraw()

    def draw(self, width: int, height: int) -> list[Strip]:
        head = self._head
        if head is None:
            return []
        muted, plain = self.styled("runhead--muted"), self.plain
        status = f"{head.symbol} {head.status}"
        times = shorten(head.times, max(1, width - cell_len(status) - 2))
        lines: list[list[tuple[str, Style]]] = [
            [(status, self._status_style(head.status)), (f"  {times}", plain)],
            [(shorten(head.origin, width), plain)],
        ]
        style = self._message_style(head)
        if head.is_output or cell_len(head.message) <= width:
            lines.append([(shorten(head.hits, width), muted)])
            lines.append([(shorten_front(head.message, width), style)])
        else:  # an error: its second half is worth more than what was reused
            lines += [[(text, style)] for text in _in_two(head.message, width)]
        return [self.line(parts, width) for parts in lines[:height]]

    def _status_style(self, status: str) -> Style:
        kind = {
            "done": "done",
            "failed": "failed",
            "interrupted": "failed",
            "queued": "waiting",
            "paused": "waiting",
            "cancelled": "waiting",
        }.get(status, "running")
        return self.styled(f"runhead--{kind}")

    def _message_style(self, head: Head) -> Style:
        if head.is_output:
            return self.styled("runhead--output")
        if head.is_problem:
            return self.styled("runhead--running")
        is_bad = head.status in ("failed", "interrupted")
        return self.styled("runhead--failed" if is_bad else "runhead--muted")

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        is_output = self._head is not None and self._head.is_output
        if is_output and offset is not None and offset.y == _OUTPUT_ROW:
            event.stop()
            self.post_message(self.OutputClicked())


def _in_two(text: str, width: int) -> tuple[str, str]:
    """Two lines, parted at a blank where the first has one in its second half."""
    first = set_cell_size(text, width)
    space = first.rfind(" ")
    if space > width // 2:
        first = first[:space]
    return first, shorten(text[len(first) :].lstrip(), width)
