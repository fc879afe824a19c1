"""What a widget that draws its own lines has painted."""

from __future__ import annotations

import asyncio

from textual.app import App
from textual.pilot import Pilot
from textual.strip import Strip

from tui.app.widgets.drawn import Drawn


class Lines(Drawn):
    """Shows texts, and notes which lines are drawn and which are painted."""

    def __init__(self) -> None:
        super().__init__()
        self.texts = ["one", "two", "three"]
        self.num_draws = 0
        self.painted: list[int] = []

    def draw(self, width: int, height: int) -> list[Strip]:
        self.num_draws += 1
        return [self.line([(text, self.plain)], width) for text in self.texts[:height]]

    def render_line(self, y: int) -> Strip:
        self.painted.append(y)
        return super().render_line(y)

    def change(self, *texts: str) -> None:
        self.texts = list(texts)
        self.redraw()


class LinesApp(App[None]):
    def compose(self):
        yield Lines()


def with_lines(body) -> None:
    async def run() -> None:
        async with LinesApp().run_test(size=(20, 5)) as pilot:
            lines = pilot.app.query_one(Lines)
            await painted(pilot, lines)
            forget(lines)
            await body(pilot, lines)

    asyncio.run(run())


async def painted(pilot: Pilot[None], lines: Lines, looks: int = 5) -> None:
    """Until something was painted, and no more while one looks so often."""
    before, unchanged = [], 0
    for _ in range(6000):
        await pilot.pause(0.02)
        now = list(lines.painted)
        unchanged = unchanged + 1 if now and now == before else 0
        if unchanged == looks:
            return
        before = now
    raise AssertionError("nothing was painted")


def forget(lines: Lines) -> None:
    lines.num_draws, lines.painted = 0, []


def test_only_lines_that_changed_are_painted():
    async def body(pilot, lines):
        lines.change("one", "2", "three")
        await painted(pilot, lines)
        assert lines.painted == [1]
        assert lines.render_line(1).text.strip() == "2"

    with_lines(body)


def test_lines_that_are_gone_are_painted_over():
    async def body(pilot, lines):
        lines.change("one")
        await painted(pilot, lines)
        assert lines.painted == [1, 2]
        assert lines.render_line(2).text.strip() == ""

    with_lines(body)


def test_what_changes_several_times_in_a_moment_is_drawn_once():
    async def body(pilot, lines):
        lines.change("1", "two", "three")
        lines.change("1", "two", "3")
        await painted(pilot, lines)
        assert lines.num_draws == 1
        assert lines.painted == [0, 2]

    with_lines(body)


def test_what_changes_and_changes_back_is_not_painted():
    async def body(pilot, lines):
        lines.change("1")
        lines.change("one", "two", "three")
        await pilot.pause(0.1)
        assert lines.painted == []

    with_lines(body)


def test_what_is_hidden_is_drawn_when_it_is_shown_again():
    async def body(pilot, lines):
        lines.display = False
        await pilot.pause(0.1)
        forget(lines)
        lines.change("1", "two", "three")
        await pilot.pause(0.1)
        assert lines.num_draws == 0
        lines.display = True
        await painted(pilot, lines)
        assert lines.num_draws == 1
        assert {0, 1, 2} <= set(lines.painted)

    with_lines(body)


def test_another_size_and_another_theme_are_painted_whole():
    async def body(pilot, lines):
        await pilot.resize_terminal(30, 6)
        await painted(pilot, lines)
        assert {0, 1, 2} <= set(lines.painted)
        forget(lines)
        pilot.app.theme = "textual-light"
        await painted(pilot, lines)
        assert {0, 1, 2} <= set(lines.painted)

    with_lines(body)
