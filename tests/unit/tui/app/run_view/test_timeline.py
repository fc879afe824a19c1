"""The timeline: cells, marks and bars at any number of steps, and a cursor that tells its moves."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence

import pytest
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from tui.app.run_view.grid import grid_of
from tui.app.run_view.timeline import StepCell, Timeline
from tui.units import span

RUN = [
    StepCell("computed", 0.8, True),
    StepCell("computed", 0.4, False),
    StepCell("reused", 0.013, True),
    StepCell("skipped", 0.0, False),
    StepCell("running", 0.0, False),
    StepCell("todo", 0.0, False),
]


class TimelineApp(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, int]] = []

    def compose(self) -> ComposeResult:
        yield Timeline(id="steps")

    def on_timeline_moved(self, message: Timeline.Moved) -> None:
        assert message.control is self.query_one(Timeline)
        self.heard.append(("moved", message.step))

    def on_timeline_chosen(self, message: Timeline.Chosen) -> None:
        self.heard.append(("chosen", message.step))


def lines_of(timeline: Timeline) -> list[str]:
    return [timeline.render_line(y).text for y in range(timeline.size.height)]


def with_app(
    body: Callable[[TimelineApp, Timeline, Pilot[None]], Awaitable[None]],
    cells: Sequence[StepCell] = RUN,
    size: tuple[int, int] = (60, 8),
) -> None:
    async def run() -> None:
        app = TimelineApp()
        async with app.run_test(size=size) as pilot:
            timeline = app.query_one(Timeline)
            timeline.show(cells)
            timeline.focus()
            await pilot.pause()
            await body(app, timeline, pilot)

    asyncio.run(run())


def test_the_rows_of_a_run():
    async def body(_app, timeline, _pilot):
        timeline.cursor = 3
        time, steps, kept, info, legend = (line.rstrip() for line in lines_of(timeline))
        assert time == "time   █████ ▅▅▅▅▅ ▁▁▁▁▁ ▁▁▁▁▁"
        assert steps == "step ≈ █████ █████ ▓▓▓▓▓ ▒▒▒▒▒ ▶░░░░ ░░░░░"
        assert kept == "kept   •           ▲"
        assert info == "step 3 of 6 · reused · 13 ms · stored"
        assert (
            legend == "█ computed  ▓ reused  ▒ skipped  ▶ running  ░ to do  • stored"[: len(legend)]
        )
        assert len(legend) > 50

    with_app(body)


@pytest.mark.parametrize(
    ("step", "info"),
    [
        (0, "the noise · before step 1 of 6"),
        (1, "step 1 of 6 · computed · 800 ms · stored"),
        (2, "step 2 of 6 · computed · 400 ms · not stored"),
        (4, "step 4 of 6 · skipped · not stored"),
        (5, "step 5 of 6 · running"),
        (6, "step 6 of 6 · to do"),
    ],
)
def test_what_is_said_of_a_step(step, info):
    async def body(_app, timeline, _pilot):
        timeline.cursor = step
        assert lines_of(timeline)[3].rstrip() == info

    with_app(body)


def test_keys_move_and_choose():
    async def body(app, timeline, pilot):
        await pilot.press("left", "right", "l", "h", "end", "right", "home", "end", "enter")
        await pilot.pause()
        moves = [1, 2, 1, 6, 0, 6]
        assert app.heard == [("moved", step) for step in moves] + [("chosen", 6)]
        assert timeline.cursor == 6

    with_app(body)


def test_pages_are_a_tenth():
    async def body(app, timeline, pilot):
        await pilot.press("pagedown", "pagedown", "pageup")
        assert timeline.cursor == 5
        timeline.show(RUN)
        assert timeline.cursor == 5
        timeline.show(RUN[:2])
        assert timeline.cursor == 2
        assert app.heard == [("moved", 5), ("moved", 10), ("moved", 5)]

    with_app(body, [StepCell("todo", 0, False)] * 50)


def test_a_click_moves_and_a_double_click_chooses():
    async def body(app, timeline, pilot):
        await pilot.click(Timeline, offset=(7 + 6 + 2, 1))
        await pilot.pause()
        assert app.heard == [("moved", 2)]
        await pilot.click(Timeline, offset=(7 + 2 * 6, 1), times=2)
        await pilot.pause()
        assert app.heard == [("moved", 2), ("moved", 3), ("chosen", 3)]
        await pilot.click(Timeline, offset=(5, 1))
        assert timeline.cursor == 0
        await pilot.click(Timeline, offset=(59, 1))
        assert timeline.cursor == 6

    with_app(body)


def test_more_steps_than_columns_show_the_least_advanced_of_each():
    cells = [StepCell("computed", 1.0, False)] * 150
    cells += [StepCell("running", 0, False)] + [StepCell("todo", 0, False)] * 149
    cells[20] = StepCell("reused", 0.1, True)

    async def body(_app, timeline, _pilot):
        steps = lines_of(timeline)[1][7:]
        assert len(steps) == 53
        assert set(steps[:3] + steps[4:26]) == {"█"}
        assert steps[3] == "▓"
        assert set(steps[26:]) == {"░"}
        assert lines_of(timeline)[2][7:].rstrip() == "   •"
        timeline.cursor = 21
        assert lines_of(timeline)[2][7:].rstrip() == "   ▲"
        timeline.cursor = 22
        assert lines_of(timeline)[2][7:].rstrip() == "   △"

    with_app(body, cells)


def test_a_cursor_can_be_seen_without_colour_or_focus():
    async def body(_app, timeline, pilot):
        timeline.blur()
        await pilot.pause()
        arrows = []
        for step in range(7):
            timeline.cursor = step
            arrows.append(min(lines_of(timeline)[2].find(arrow) % 99 for arrow in "▲△"))
        assert arrows == [5, 7, 13, 19, 25, 31, 37]

    with_app(body)


def test_no_steps():
    async def body(app, timeline, pilot):
        await pilot.press("right", "end", "pagedown", "enter")
        await pilot.click(Timeline, offset=(20, 1))
        assert app.heard == []
        assert "".join(lines_of(timeline)).strip() == "no steps yet"

    with_app(body, [])


def test_any_size_and_any_seconds():
    odd = [StepCell("computed", math.nan, True), StepCell("reused", math.inf, True)]

    async def body(_app, timeline, _pilot):
        for cells in ([], RUN, odd, RUN * 40):
            timeline.show(cells)
            for cursor in (0, 1, len(cells)):
                timeline.cursor = cursor
                for width in (1, 2, 3, 10, 39, 40, 200):
                    for height in range(1, 7):
                        lines = timeline.draw(width, height)
                        assert len(lines) <= height
                        assert {line.cell_length for line in lines} == {width}

    with_app(body)


def test_every_step_has_one_column():
    for num_steps in (*range(1, 30), 99, 100, 1000):
        for width in range(1, 90, 3):
            grid = grid_of(num_steps, width)
            seen = [step for column in range(grid.columns) for step in grid.steps(column)]
            assert seen == list(range(1, num_steps + 1))
            for column in range(grid.columns):
                x = grid.left + 2 + column * grid.cell
                assert grid.step_at(x) in grid.steps(column)
                assert all(grid.column(step) == column for step in grid.steps(column))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0004, "0.4 ms"), (0.013, "13 ms"), (0.9999, "1.00 s"), (2.314, "2.31 s"), (245, "4:05")],
)
def test_spans(seconds, text):
    assert span(seconds) == text
