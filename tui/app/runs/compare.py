"""Two runs side by side: what was asked of them, what came of it, and where they part."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Group
from rich.table import Table
from rich.text import Text
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from engine.compare.settings import spec_differences
from tui.app.asking import asks, told
from tui.app.base import ModiffScreen
from tui.app.desktop import absolute, taken
from tui.app.dialogs.ask import Ask, Choose
from tui.app.messages import BranchFrom
from tui.app.run_view.player import play_or_tell
from tui.app.run_view.step_links import cells_of
from tui.app.run_view.timeline import Timeline
from tui.app.top_line import TopLine
from tui.app.widgets.footer import Footer
from tui.app.widgets.picture import STEP_FPS, Picture
from tui.app.widgets.plot import Plot, Series
from tui.describe import comparison
from tui.describe.runs.detail import detail as detail_of
from tui.text import printable, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult, RenderResult
    from textual.binding import BindingType

    from tui.app.base import ModiffBase
    from tui.describe.runs.detail import Detail

_LOOK_SECONDS = 0.5
_TOLD_SECONDS = 12
_WAITING = "comparing… latents and frames are read"


class Compare(ModiffScreen):
    """Two runs, A and B, from settings to frames. Left and right go from step to step."""

    CSS_PATH = "runs.tcss"
    AUTO_FOCUS = "Timeline"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back", id="app.back"),
        Binding("v", "play", "Play", id="compare.play", tooltip="Play the file of A or of B"),
        Binding("w", "write", "Write the video", id="compare.write", tooltip="Both side by side"),
        Binding("b", "branch", "Branch from B", id="runs.branch"),
    ]

    def __init__(self, a: str, b: str) -> None:
        super().__init__()
        self._ids = (a, b)
        self._details: tuple[Detail, ...] = ()
        self._data: dict[str, Any] | None = None

    def compose(self) -> ComposeResult:
        yield TopLine("runs")
        with VerticalScroll(id="both", can_focus=False):
            with VerticalScroll(id="told", classes="panel") as told:
                told.border_title = f"A {self._ids[0]}  →  B {self._ids[1]}"
                yield Static(_WAITING, id="lines", markup=False)
            with Vertical(id="seen"):
                with Horizontal(id="plots"):
                    yield Plot(id="l2", empty="relative L2 by step")
                    yield Plot(id="cosine", empty="cosine by step")
                with Vertical(id="steps", classes="panel") as steps:
                    steps.border_title = "steps of B"
                    yield Timeline()
                with Horizontal(id="pictures"):
                    for name in "AB":
                        with Vertical(classes="panel", id=f"panel-{name}"):
                            yield Picture(
                                graphics=getattr(self.app, "graphics", None), id=f"picture-{name}"
                            )
        yield Footer()

    def on_mount(self) -> None:
        self.query_one("#picture-B", Picture).follow(self.query_one("#picture-A", Picture))
        self._load()

    @asks()
    async def _load(self) -> None:
        """Compare them, and again once one that was at work has ended."""
        lab = self.app.lab
        try:
            is_final = False
            while not is_final:
                self._details = tuple([await lab.read(detail_of, run_id) for run_id in self._ids])
                is_final = all(detail.record.is_finished for detail in self._details)
                self._show_details()
                with self.app.job("comparing"):
                    self._data = await lab.command("compare", *self._ids)
                self._show_comparison(self._data)
                if not is_final:
                    await self._until_at_rest()
        except Exception as error:
            self.query_one("#lines", Static).update(self.app.line_for(error))
            raise

    async def _until_at_rest(self) -> None:
        for run_id in self._ids:
            run = (await self.app.lab.read(detail_of, run_id)).record
            while not run.is_finished:
                await asyncio.sleep(_LOOK_SECONDS)
                run = (await self.app.lab.read(detail_of, run_id)).record

    # What is shown

    def _show_details(self) -> None:
        for name, detail in zip("AB", self._details, strict=True):
            prompt = detail.spec.get("prompt", "")
            title = f"{name} {detail.record.id}  {printable(str(prompt))}"
            self.query_one(f"#panel-{name}").border_title = Content(shorten(title, 80))
        a, b = (detail.record for detail in self._details)
        known = comparison.settings_section([asdict(each) for each in spec_differences(a, b)])
        self.query_one("#lines", Static).update(
            _table([known, comparison.Section("results", (), _WAITING)])
        )
        detail = self._details[1]
        timeline = self.query_one(Timeline)
        timeline.show(cells_of(detail))
        timeline.cursor = len(detail.steps)
        self._show_step()

    def _show_comparison(self, data: comparison.Data) -> None:
        self.query_one("#lines", Static).update(_table(comparison.sections(data)))
        self._show_step()

    def on_timeline_moved(self, message: Timeline.Moved) -> None:
        message.stop()
        self._show_step()

    def _show_step(self) -> None:
        step = self.query_one(Timeline).cursor
        if self._data is not None:
            told = comparison.step_line(self._data, step)
            self.query_one("#steps").border_subtitle = Content(told)
            for name, curve in comparison.step_curves(self._data).items():
                plot = self.query_one("#cosine" if name == "cosine" else "#l2", Plot)
                plot.show([Series(name, *curve)], marker=float(step) if step else None)
        self._show_pictures(step)

    @asks(exclusive=True, group="pictures")
    async def _show_pictures(self, step: int) -> None:
        """The pictures after a step, of a run with fewer steps that of its last one; after the last step of B the
        videos of both."""
        if not self._details:
            return
        is_end = step >= len(self._details[1].steps)
        wanted = [
            (detail, None if is_end else min(step, len(detail.steps))) for detail in self._details
        ]
        found = await self.app.lab.shown(wanted)
        for name, shown in zip("AB", found, strict=True):
            picture = self.query_one(f"#picture-{name}", Picture)
            picture.fps = found[0].fps or STEP_FPS
            picture.show(shown.preview, shown.told)

    # What people do

    def action_branch(self) -> None:
        """Branch from the second run, at the step that is looked at."""
        self.post_message(BranchFrom(self._ids[1], self.query_one(Timeline).cursor))

    @asks(exclusive=True, group="play")
    async def action_play(self) -> None:
        """Play the file of one of them; where one alone has any, that one."""
        made = [
            (name, detail.record)
            for name, detail in zip("AB", self._details, strict=False)
            if detail.record.status == "done" and detail.record.output
        ]
        if not made:
            self.notify("neither run has made a video yet")
            return
        number: int | None = 0
        if len(made) > 1:
            lines = [f"{name}  {printable(record.output)}" for name, record in made]
            names = [name for name, _ in made]
            number = await self.app.push_screen_wait(Choose("play", lines, names))
        if number is None:
            return
        await play_or_tell(self.app, made[number][1])

    @asks()
    async def action_write(self) -> None:
        """Both as one video, and a contact sheet beside it."""
        line = await self.app.push_screen_wait(
            Ask(
                "write the video",
                "Both runs side by side, and a contact sheet beside it that ends in .png.",
                value=absolute(f"compare-{self._ids[0]}-{self._ids[1]}.mp4"),
                check=taken,
            )
        )
        if not line or not line.strip():
            return
        # the app's: it is written also where the comparison is left meanwhile
        writing = _write(self.app, self._ids, absolute(line))
        self.app.run_worker(told(self.app, writing), group="write")


async def _write(app: ModiffBase, ids: tuple[str, str], path: str) -> None:
    """Two runs side by side, into a file."""
    with app.job(f"writing {printable(os.path.basename(path))}"):
        done = await app.lab.command("compare", *ids, "--output", path)
    app.notify(
        "\n".join(map(printable, done["output"])),
        title="written",
        timeout=_TOLD_SECONDS,
        markup=False,
    )


def _table(sections: Sequence[comparison.Section]) -> RenderResult:
    """Rows of all sections under one set of columns; sentences take their whole width."""
    parts: list[Any] = []
    for section in sections:
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(ratio=5, overflow="fold")
        table.add_column(ratio=4, overflow="fold")
        table.add_column(ratio=4, overflow="fold")
        table.add_column(ratio=4)
        heads = ("A", "B") if section.rows else ("", "")
        table.add_row(*(Text(head, style="bold") for head in (section.title, *heads, "")))
        for row in section.rows:
            table.add_row(*map(Text, row[:3]), Text(row[3], style="dim"))
        parts += [table, Text(section.sentence + "\n" if section.sentence else "")]
    return Group(*parts)
