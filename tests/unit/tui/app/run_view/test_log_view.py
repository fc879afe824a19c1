"""The log: words for levels, a filter that loses nothing, following that does not disturb."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from textual.app import App, ComposeResult
from textual.pilot import Pilot

from tests.unit.tui.opened_app import until
from tui.app.run_view.log_view import MAX_LINES, LogView

LINES = [
    ("06:12:01", "info", "run accepted"),
    ("06:12:02", "warning", "step 9 \x1b[31m[bold]reused[/bold]"),
    ("06:12:03", "error", "no memory 星"),
    ("06:12:04", "strange", "unknown level"),
]


class LogApp(App[None]):
    CSS = "LogView { border: round $primary; }"

    def compose(self) -> ComposeResult:
        yield LogView()


def with_log(body: Callable[[LogView, Pilot[None]], Awaitable[None]], size=(60, 10)) -> None:
    async def run() -> None:
        async with LogApp().run_test(size=size) as pilot:
            log = pilot.app.query_one(LogView)
            log.focus()
            await pilot.pause()
            await body(log, pilot)

    asyncio.run(run())


def texts(log: LogView) -> list[str]:
    """All lines as they are drawn, from the first one on, whatever is in sight."""
    top = log.scroll_offset.y
    return [log.render_line(y - top).text.rstrip() for y in range(log.virtual_size.height)]


def test_lines_are_plain_and_say_their_level():
    async def body(log, pilot):
        log.add(LINES)
        await pilot.pause()
        assert texts(log) == [
            "06:12:01 info    run accepted",
            "06:12:02 warning step 9 \\x1b[31m[bold]reused[/bold]",
            "06:12:03 error   no memory 星",
            "06:12:04 info    unknown level",
        ]
        assert log.border_subtitle == "follow on  level info+"

    with_log(body)


def test_the_level_hides_lines_and_gives_them_back():
    async def body(log, pilot):
        log.add(LINES)
        shown = []
        for _ in range(3):
            await pilot.press("l")
            shown.append((len(log.lines), log.border_subtitle))
        assert shown == [
            (2, "follow on  level warning+"),
            (1, "follow on  level error"),
            (4, "follow on  level info+"),
        ]
        await pilot.press("l", "l")
        log.add([("06:12:05", "warning", "hidden"), ("06:12:06", "error", "shown")])
        assert [text[9:14] for text in texts(log)] == ["error", "error"]
        await pilot.press("l")
        assert len(log.lines) == 6

    with_log(body)


def test_follow_stops_when_somebody_reads():
    async def body(log, pilot):
        log.add([("06:12:01", "info", f"line {i}") for i in range(50)])
        await until(pilot, lambda: log.scroll_y == log.max_scroll_y > 0)
        end = log.scroll_y
        await pilot.press("pageup")
        await pilot.wait_for_scheduled_animations()
        assert log.border_subtitle == "follow off  level info+"
        place = log.scroll_y
        log.add(LINES)
        await pilot.pause()
        assert log.scroll_y == place < end
        await pilot.press("e")
        await until(pilot, lambda: log.scroll_y == log.max_scroll_y > end)
        await pilot.press("e")
        assert not log.auto_scroll
        await pilot.press("end")
        assert log.border_subtitle == "follow on  level info+"

    with_log(body)


def test_old_lines_go():
    async def body(log, pilot):
        log.add([("06:12:01", "info", str(i)) for i in range(MAX_LINES + 10)])
        log.add([("06:12:01", "error", "last")])
        await pilot.pause()
        assert len(log.lines) == MAX_LINES
        assert texts(log)[-1].endswith("last")
        await pilot.press("l", "l")
        assert len(log.lines) == 1
        await pilot.press("l")
        assert len(log.lines) == MAX_LINES
        log.clear()
        await pilot.press("l")
        assert texts(log) == []

    with_log(body)


def test_colours_follow_the_theme_without_touching_the_text():
    async def body(log, pilot):
        log.add(LINES)
        await pilot.pause()
        before, styles = texts(log), [segment.style for segment in log.render_line(2)]
        pilot.app.theme = "textual-light"
        await until(pilot, lambda: [segment.style for segment in log.render_line(2)] != styles)
        assert texts(log) == before

    with_log(body)


def test_any_size():
    async def body(log, pilot):
        log.add(LINES)
        for width, height in ((1, 1), (2, 3), (10, 4)):
            await pilot.resize_terminal(width, height)
            log.add(LINES)
            await pilot.pause()
        assert len(log.lines) == 16

    with_log(body)


def test_of_another_size_the_end_is_still_in_sight():
    async def body(log, pilot):
        log.add([("06:12:01", "info", f"line {number}") for number in range(100)])
        for height in (30, 8, 20):
            await pilot.resize_terminal(60, height)
            await until(pilot, lambda: log.size.height == log.app.size.height - 2)
            await until(pilot, lambda: log.scroll_offset.y == log.max_scroll_y)
        log.action_scroll_home()
        await until(pilot, lambda: log.scroll_offset.y == 0)
        await pilot.resize_terminal(60, 12)
        await until(pilot, lambda: log.size.height == log.app.size.height - 2)
        await pilot.pause()
        assert log.scroll_offset.y == 0

    with_log(body)
