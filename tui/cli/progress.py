"""Live progress of one run on stderr: what is known (`Progress`), and three ways to show it.

`Progress` is built from the run's events alone, so it is the same for a live run and a replayed one.
A display shows and decides nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Protocol

import click

from store.lineage.events import (
    ChunkDecoded,
    Event,
    MemorySampled,
    Message,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    StepFinished,
)
from tui.text import printable
from tui.units import clock, duration, size

if TYPE_CHECKING:
    from rich.table import Table

# The rate is the median over so many last steps: a first step that compiles, or one in which the
# machine was busy, should not bend the estimate.
_RATE_WINDOW = 9

# A bar takes eight cells at least, and the numbers beside it are worth more than it.
_BAR_FROM_WIDTH = 60


@dataclass(slots=True)
class Progress:
    """What the events so far say about a run."""

    stage: str = "queued"
    step: int = 0
    total: int = 0
    rss_bytes: int = 0
    device_bytes: int = 0
    started: bool = False
    finished: RunFinished | None = None
    _step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RATE_WINDOW))

    def apply(self, event: Event) -> None:
        match event:
            case RunStarted():
                self.started = True
                self.stage = "starting"
            case StageStarted():
                self.stage, self.step, self.total = event.stage, 0, 0
                self._step_seconds.clear()
            case StepFinished():
                self.step, self.total = event.step, event.total
                self._step_seconds.append(event.seconds)
            case ChunkDecoded():
                self.step, self.total = event.chunk, event.total
                self._step_seconds.append(event.seconds)
            case MemorySampled():
                self.rss_bytes, self.device_bytes = event.rss_bytes, event.device_bytes
            case RunFinished():
                self.finished = event
            case _:
                pass

    @property
    def seconds_per_step(self) -> float:
        """Median over the last steps; 0 while no step has ended."""
        return median(self._step_seconds) if self._step_seconds else 0.0

    @property
    def rate(self) -> str:
        """`3.4 it/s`, or `2.1 s/it` for steps longer than a second; empty before the first step."""
        seconds = self.seconds_per_step
        if seconds <= 0:
            return ""
        return f"{1 / seconds:.2f} it/s" if seconds < 1 else f"{seconds:.2f} s/it"

    @property
    def eta(self) -> str:
        """Time to the end of this stage's steps; empty before the first step and after the last."""
        left = self.total - self.step
        return (
            f"eta {clock(left * self.seconds_per_step)}" if left and self.seconds_per_step else ""
        )

    @property
    def memory(self) -> str:
        if not self.rss_bytes:
            return ""
        device = f" + {size(self.device_bytes)} device" if self.device_bytes else ""
        return f"{size(self.rss_bytes)}{device}"


class Display(Protocol):
    """Where progress goes."""

    def update(self, progress: Progress, event: Event) -> None:
        """Called after `progress` took in `event`."""
        ...

    def tick(self, progress: Progress) -> None:
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

    def update(self, progress: Progress, event: Event) -> None:
        return None

    def tick(self, progress: Progress) -> None:
        return None

    def note(self, line: str) -> None:
        return None

    def close(self) -> None:
        return None


class LineDisplay:
    """For logs and pipes: one line for each stage, and at most one line a second for the steps and chunks."""

    def __init__(self) -> None:
        self._last_step_line = float("-inf")

    def update(self, progress: Progress, event: Event) -> None:
        match event:
            case StageStarted():
                self.note(printable(event.stage))
            case StepFinished():
                self._step(progress, "step")
            case ChunkDecoded():
                self._step(progress, "chunk")
            case Message() if event.level != "info":
                self.note(message_line(event))
            case _:
                pass

    def tick(self, progress: Progress) -> None:
        return None

    def note(self, line: str) -> None:
        click.echo(line, err=True)

    def close(self) -> None:
        return None

    def _step(self, progress: Progress, what: str) -> None:
        now = time.monotonic()
        if now - self._last_step_line < 1.0 and progress.step < progress.total:
            return
        self._last_step_line = now
        count = f"{what} {progress.step}/{progress.total}"
        parts = [count, progress.rate, progress.eta, progress.memory]
        self.note(f"{printable(progress.stage)}: {', '.join(part for part in parts if part)}")


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

    def update(self, progress: Progress, event: Event) -> None:
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

    def tick(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last_frame < self._seconds_between_frames:
            return
        self._last_frame = now
        self._live.update(self._line(progress, now - self._stage_began), refresh=True)

    def note(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def close(self) -> None:
        from rich.text import Text

        # Cleared first: `transient` erases what the last frame drew, and a frame may follow a note.
        self._live.update(Text(""))
        self._live.stop()

    def _line(self, progress: Progress, seconds: float) -> Table:
        """Stage, bar, count, rate, time left, memory: as many as fit, because a cut number misleads."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = self._console.width
        count = f"{progress.step}/{progress.total}" if progress.total else clock(seconds)
        stage = Text(f"  {printable(progress.stage):<12}", style="bold")
        cells: list[Text | ProgressBar] = [stage]
        room = width - len(stage)
        if progress.total and width >= _BAR_FROM_WIDTH:
            bar_width = min(32, width - _BAR_FROM_WIDTH + 8)
            cells.append(ProgressBar(progress.total, progress.step, width=bar_width))
            room -= bar_width + 2
        for part in (count, progress.rate, progress.eta, progress.memory):
            if part and len(part) + 2 <= room:
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
