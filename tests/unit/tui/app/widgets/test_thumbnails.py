"""Thumbnails in a grid: how large they are, which are asked for, kept and drawn, where the cursor goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from store.index.previews import Preview
from tui.app.widgets.thumbnails import MIN_PICTURE, TEXT_LINES, Thumbnails, Tile, layout_of

RED = Preview(1, 2, 2, bytes((255, 0, 0)) * 4)


class Shown(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, ...]] = []
        self.chosen: list[str] = []

    def compose(self) -> ComposeResult:
        yield Thumbnails(fps=0)

    def on_thumbnails_seen(self, message: Thumbnails.Seen) -> None:
        self.seen.append(tuple(message.keys))

    def on_thumbnails_chosen(self) -> None:
        self.chosen.append(self.query_one(Thumbnails).current)


def tiles(count: int) -> list[Tile]:
    return [Tile(f"run{i}", f"seed {i}", "✓ done", "A" if i == 1 else "") for i in range(count)]


def play(script: Callable[[Pilot[None], Shown, Thumbnails], Awaitable[None]]) -> None:
    async def run() -> None:
        app = Shown()
        async with app.run_test(size=(80, 24)) as pilot:
            grid = app.query_one(Thumbnails)
            grid.focus()
            await script(pilot, app, grid)

    asyncio.run(run())


def lines(grid: Thumbnails) -> list[str]:
    return [grid.render_line(y).text for y in range(grid.size.height)]


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (200, 60), (60, 20)])
@pytest.mark.parametrize("count", [1, 2, 8, 9])
@pytest.mark.parametrize("aspect", [1.0, 832 / 480, 480 / 832])
def test_as_many_as_fit_are_as_large_as_can_be(size, count, aspect):
    width, height = size
    layout = layout_of(count, width - 4, height - 5, aspect)
    assert layout.columns * (layout.width + 2) <= width - 4 + 2
    assert layout.rows * layout.tile_lines <= height - 5 + 1
    if size != (60, 20) and aspect >= 1:
        assert layout.columns * layout.rows >= min(count, 8)


def test_where_not_all_fit_there_are_as_many_small_ones_as_fit():
    layout = layout_of(500, 76, 19, 1.0)
    assert (layout.columns, layout.rows) == (4, 2)
    assert layout.width >= MIN_PICTURE[0]
    assert layout_of(500, 196, 55, 1.0)[:2] == (10, 6)


@pytest.mark.parametrize("size", [(1, 1), (5, 2), (17, 3), (300, 1)])
def test_a_place_that_is_too_small_is_no_error(size):
    layout = layout_of(9, *size, 1.0)
    assert layout.picture_rows >= 1
    assert layout.picture_rows + TEXT_LINES <= max(size[1], 3)


def test_only_what_is_seen_is_asked_for_and_kept():
    async def script(pilot, app, grid):
        grid.show(tiles(100), 1.0)
        await pilot.pause()
        (first,) = app.seen
        assert 4 <= len(first) < 20
        grid.show_pictures(dict.fromkeys((*first, "run99"), RED))
        assert not grid.has_picture("run99")
        await pilot.press("end")
        await pilot.pause()
        last = app.seen[-1]
        assert last[-1] == grid.current == "run99"
        assert not set(last) & set(first)
        assert not grid.has_picture("run0")

    play(script)


def test_a_tile_has_its_picture_label_line_and_mark():
    async def script(pilot, app, grid):
        grid.show(tiles(3), 1.0)
        await pilot.pause()
        grid.show_pictures({"run0": RED})
        found = lines(grid)
        (title,) = (line for line in found if "seed" in line)
        assert [title.find(text) for text in ("seed 0", "A seed 1", "seed 2")] == sorted(
            title.find(text) for text in ("seed 0", "A seed 1", "seed 2")
        )
        assert found[found.index(title) + 1].count("✓ done") == 3
        picture = found[: found.index(title)]
        assert all(line.lstrip().startswith("▀") for line in picture)
        assert sum("·" in line for line in picture) == 1  # of the others

    play(script)


def test_the_cursor_goes_by_rows_and_stays_on_its_tile():
    async def script(pilot, app, grid):
        grid.show(tiles(8), 1.0)
        await pilot.pause()
        labels = [line for line in lines(grid) if "seed" in line]
        assert [line.count("seed") for line in labels] == [4, 4]
        found = []
        for key in ("right", "down", "down", "left", "left", "up", "end", "right", "home", "up"):
            await pilot.press(key)
            found.append(int(grid.current.removeprefix("run")))
        assert found == [1, 5, 5, 4, 3, 3, 7, 7, 0, 0]
        grid.select("run6")
        grid.show(list(reversed(tiles(8))), 1.0)
        assert grid.current == "run6"
        grid.show(tiles(3), 1.0)  # it is gone, others stayed
        assert grid.current == "run1" or grid.current == "run2"
        grid.show([Tile("other", "", "")], 1.0)
        assert grid.current == "other"
        await pilot.press("enter")
        await pilot.pause()
        assert app.chosen == ["other"]

    play(script)


def test_nothing_to_show_is_no_error():
    async def script(pilot, app, grid):
        grid.show([], 1.0)
        for key in ("right", "down", "end", "home", "pagedown", "enter"):
            await pilot.press(key)
        assert (grid.current, app.chosen) == ("", [])

    play(script)
