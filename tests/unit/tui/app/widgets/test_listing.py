"""The table of named things: it fits its width, and its cursor stays on the same thing."""

from __future__ import annotations

import asyncio

import pytest
from rich.cells import cell_len
from textual.app import App, ComposeResult

from tui.app.widgets.listing import Column, Listing, Row

COLUMNS = (
    Column("NAME", 6),
    Column("SIZE", 8, is_number=True),
    Column("WHEN", 10, from_width=60),
    Column("PATH", 0, keeps_end=True),
)


class Shown(App[None]):
    def compose(self) -> ComposeResult:
        yield Listing(COLUMNS, id="things")


def rows(*keys: str) -> list[Row]:
    return [Row(key, (key, "1 KiB", "today", f"/a/long/way/to/the/file/of/{key}")) for key in keys]


def play(script, size=(80, 24)):
    async def run() -> None:
        app = Shown()
        async with app.run_test(size=size) as pilot:
            await script(pilot, app.query_one(Listing))

    asyncio.run(run())


def test_the_cursor_stays_on_its_row_or_at_its_place():
    async def script(pilot, listing):
        listing.show(rows("a", "b", "c", "d"))
        await pilot.press("j", "j")
        assert listing.current == "c"
        await pilot.press("end")
        assert listing.current == "d"
        await pilot.press("home", "j", "j")
        assert listing.current == "c"
        listing.show(rows("d", "x", "a", "c"))
        assert listing.current == "c"
        listing.show(rows("d", "x", "a", "y"))
        assert listing.current == "y"
        listing.show(rows("d"))
        assert listing.current == "d"
        listing.show([])
        assert listing.current == ""
        listing.show(rows("e", "f"))
        listing.select("f")
        listing.select("absent")
        assert listing.current == "f"

    play(script)


def test_the_same_rows_are_not_drawn_again(monkeypatch):
    async def script(pilot, listing):
        listing.show(rows("a", "b"))
        cleared = []
        monkeypatch.setattr(listing, "clear", lambda **_: cleared.append(1))
        listing.show(rows("a", "b"))
        assert not cleared

    play(script)


@pytest.mark.parametrize("width", [200, 80, 60, 59, 40])
def test_it_fits_its_width_however_many_rows_there_are(width):
    async def script(pilot, listing):
        for count in (2, 100):
            listing.show(rows(*(f"{i:03}" for i in range(count))))
            await pilot.pause()
            assert not listing.show_horizontal_scrollbar
            assert (len(listing.columns) == 4) == (width >= 60)

    play(script, size=(width, 24))


def test_cells_are_harmless_cut_and_aligned():
    async def script(pilot, listing):
        listing.show([Row("a", ("wide界界界界", "1 KiB", "\x1b[31m", "/x" * 100 + "/end"))])
        name, number, when, path = (cell.plain for cell in listing.get_row("a"))
        assert cell_len(name) <= 6
        assert name.endswith("…")
        assert number == "   1 KiB"
        assert when.startswith("\\x1b[31m")
        assert path.startswith("…")
        assert path.endswith("/end")
        await pilot.resize_terminal(50, 20)
        await pilot.pause()
        assert len(listing.columns) == 3

    play(script)
