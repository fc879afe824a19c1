"""Live progress of one run on stderr, in three ways. A display shows what the run's events say, and decides nothing."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Protocol

import click

from store.lineage.events import (
    ChunkDecoded,
    Event,
    Message,
    RunStarted,
    StageFinished,
    StageStarted,
    StepFinished,
)
from tui.describe.runs.following.state import rate_of
from tui.text import printable
from tui.units import clock, duration, size

if TYPE_CHECKING:
    from rich.table import Table

    from tui.describe.runs.following.state import RunState

# A bar takes eight cells at least, and the numbers beside it are worth more than it.
_BAR_FROM_WIDTH = 60


def stage_told(state: RunState) -> str:
    """What the run is at."""
    return printable(state.stage or ("starting" if state.started_ns else "queued"))


def numbers(state: RunState) -> list[str]:
    """Rate, time to the end of the present stage, memory: those that are known."""
    done, total = state.counted
    seconds = state.unit_seconds or 0.0
    eta = f"eta {clock((total - done) * seconds)}" if total > done and seconds else ""
    memory = size(state.rss_bytes) if state.rss_bytes else ""
    if memory and state.device_bytes:
        memory += f" + {size(state.device_bytes)} device"
    return [part for part in (rate_of(seconds), eta, memory) if part]


class Display(Protocol):
    """Where progress goes."""

    def update(self, state: RunState, event: Event) -> None:
        """Called after `state` took in `event`."""
        ...

    def tick(self, state: RunState) -> None:
        """Called several times a second, events or none."""
        ...

    def note(self, line: str) -> None:
        """A line that stays."""
        ...

    def close(self) -> None:
        """Give the terminal back as it was."""
        ...


def open_display(*, quiet: bool) -> Display:
    """The display that fits stderr: live on a terminal that can move its cursor, lines anywhere else."""
    if quiet:
        return SilentDisplay()
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"):
        return LiveDisplay()
    return LineDisplay()


class SilentDisplay:
    """`--quiet`: nothing at all."""

    def update(self, state: RunState, event: Event) -> None:
        return None

    def tick(self, state: RunState) -> None:
        return None

    def note(self, line: str) -> None:
        return None

    def close(self) -> None:
        return None


class LineDisplay:
    """For logs and pipes: one line for each stage, and at most one line a second for the steps and chunks."""

    def __init__(self) -> None:
        self._last_step_line = float("-inf")

    def update(self, state: RunState, event: Event) -> None:
        match event:
            case StageStarted():
                self.note(printable(event.stage))
            case StepFinished():
                self._step(state, "step")
            case ChunkDecoded():
                self._step(state, "chunk")
            case Message() if event.level != "info":
                self.note(message_line(event))
            case _:
                pass

    def tick(self, state: RunState) -> None:
        return None

    def note(self, line: str) -> None:
        click.echo(line, err=True)

    def close(self) -> None:
        return None

    def _step(self, state: RunState, what: str) -> None:
        now = time.monotonic()
        done, total = state.counted
        if now - self._last_step_line < 1.0 and done < total:
            return
        self._last_step_line = now
        parts = [f"{what} {done}/{total}", *numbers(state)]
        self.note(f"{stage_told(state)}: {', '.join(parts)}")


class LiveDisplay:
    """For a terminal: finished stages stay as lines, the present one is a single line that is redrawn.

    Redrawn from `tick` and not by a thread: two CPU cores that denoise have no time for a spinner.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._live.start()
        # Over a network link every redraw costs; twice a second is still live.
        remote = "SSH_CONNECTION" in os.environ or "SSH_TTY" in os.environ
        self._seconds_between_frames = 0.5 if remote else 0.2
        self._last_frame = float("-inf")
        self._stage_began = time.monotonic()

    def update(self, state: RunState, event: Event) -> None:
        match event:
            case RunStarted() | StageStarted():
                self._stage_began = time.monotonic()
            case StageFinished():
                cached = "  cached" if event.cached else ""
                self.note(f"  {printable(event.stage):<12} {duration(event.seconds)}{cached}")
            case Message() if event.level != "info":
                self.note(message_line(event))
            case _:
                pass

    def tick(self, state: RunState) -> None:
        now = time.monotonic()
        if now - self._last_frame < self._seconds_between_frames:
            return
        self._last_frame = now
        self._live.update(self._line(state, now - self._stage_began), refresh=True)

    def note(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def close(self) -> None:
        from rich.text import Text

        # Cleared first: `transient` erases what the last frame drew, and a frame may follow a note.
        self._live.update(Text(""))
        self._live.stop()

    def _line(self, state: RunState, seconds: float) -> Table:
        """Stage, bar, count, rate, time left, memory: as many as fit, because a cut number misleads."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = self._console.width
        done, total = state.counted
        count = f"{done}/{total}" if total else clock(seconds)
        stage = Text(f"  {stage_told(state):<12}", style="bold")
        cells: list[Text | ProgressBar] = [stage]
        room = width - len(stage)
        if total and width >= _BAR_FROM_WIDTH:
            bar_width = min(32, width - _BAR_FROM_WIDTH + 8)
            cells.append(ProgressBar(total, done, width=bar_width))
            room -= bar_width + 2
        for part in (count, *numbers(state)):
            if len(part) + 2 <= room:
                cells.append(Text(part))
                room -= len(part) + 2
        line = Table.grid(padding=(0, 2, 0, 0))
        for _ in cells:
            line.add_column(no_wrap=True)
        line.add_row(*cells)
        return line


def message_line(message: Message) -> str:
    """A message of the engine as a line of narration."""
    return f"{printable(message.level)}: {printable(message.text)}"
