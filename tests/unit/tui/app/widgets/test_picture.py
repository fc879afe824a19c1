"""The picture: where its cells are and what they hold, and that it moves only where it is seen."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from textual.app import App, ComposeResult
from textual.containers import VerticalScroll
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from tests.unit.tui.opened_app import until
from tui.app.widgets.graphics import ImageMaker
from tui.app.widgets.halfblocks import fitted, scaled
from tui.app.widgets.picture import Picture


@dataclass(frozen=True)
class Frames:
    num_frames: int
    height: int
    width: int
    pixels: bytes


def plain_frames(*colours: tuple[int, int, int], width: int = 8, height: int = 8) -> Frames:
    """One frame of each colour."""
    pixels = b"".join(bytes(colour) * (width * height) for colour in colours)
    return Frames(len(colours), height, width, pixels)


RED_GREEN = plain_frames((255, 0, 0), (0, 255, 0))


class PictureApp(App[None]):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def compose(self) -> ComposeResult:
        yield Picture(**self.options)


def with_picture(
    body: Callable[[Picture, Pilot[None]], Awaitable[None]],
    size: tuple[int, int] = (20, 10),
    **options: Any,
) -> None:
    async def run() -> None:
        async with PictureApp(**options).run_test(size=size) as pilot:
            await pilot.pause()
            await body(pilot.app.query_one(Picture), pilot)

    asyncio.run(run())


def texts(picture: Picture) -> list[str]:
    return [picture.render_line(y).text for y in range(picture.size.height)]


def colours(picture: Picture) -> set[tuple[int, int, int]]:
    styles = [
        s.style for y in range(picture.size.height) for s in picture.render_line(y) if "▀" in s.text
    ]
    found = {color.triplet for style in styles for color in (style.color, style.bgcolor)}
    return {tuple(triplet) for triplet in found}


def test_it_fills_what_its_aspect_allows_in_the_middle():
    async def body(picture, pilot):
        picture.show(RED_GREEN, "two frames")
        await pilot.pause()
        lines = texts(picture)
        assert lines[:9] == [" " + "▀" * 18 + " "] * 9
        assert lines[9].strip() == "two frames"
        assert lines[9].index("two") == 5
        assert colours(picture) == {(255, 0, 0)}

    with_picture(body)


def test_pixels_are_where_they_were():
    corner = bytearray(3 * 4 * 4)
    corner[0:3] = (255, 255, 255)
    corner[-3:] = (0, 0, 255)

    async def body(picture, pilot):
        picture.show(Frames(1, 4, 4, bytes(corner)))
        await pilot.pause()
        first = next(iter(picture.render_line(0)._segments[1:]))
        assert first.style.color.triplet == (255, 255, 255)
        last = [segment for segment in picture.render_line(3) if segment.text.strip()][-1]
        assert last.style.bgcolor.triplet == (0, 0, 255)
        assert {(255, 255, 255), (0, 0, 0), (0, 0, 255)} < colours(picture)

    with_picture(body, (20, 4))


def test_frames_go_round():
    async def body(picture, pilot):
        picture.show(RED_GREEN)
        assert picture.is_moving
        seen = []
        for _ in range(4):
            seen.append(next(iter(colours(picture))))
            picture._advance()
        assert seen == [(255, 0, 0), (0, 255, 0)] * 2
        kept = [picture.render_line(0)]
        picture._advance()
        picture._advance()
        assert picture.render_line(0) is kept[0]

    with_picture(body, fps=0.01)


def test_the_timer_moves_it():
    async def body(picture, pilot):
        picture.show(RED_GREEN)
        seen = set()

        def both_were_seen():
            seen.update(colours(picture))
            return len(seen) == 2

        await until(pilot, both_were_seen)

    with_picture(body, fps=50)


def test_it_rests_until_it_is_seen_anew(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("tui.app.widgets.picture.monotonic", lambda: now[0])

    async def body(picture, pilot):
        picture.show(RED_GREEN)
        assert picture.is_moving
        now[0] += 60.0
        picture._advance()
        assert not picture.is_moving
        assert texts(picture)  # the frame stays
        picture.show(plain_frames((0, 0, 255), (0, 255, 0)))
        assert picture.is_moving
        now[0] += 60.0
        picture._advance()
        pilot.app.push_screen(Screen())
        await pilot.pause()
        pilot.app.pop_screen()
        await until(pilot, lambda: picture.is_moving)

    with_picture(body, fps=0.01)


def test_a_still_is_the_middle_frame():
    async def body(picture, pilot):
        picture.show(plain_frames((255, 0, 0), (0, 255, 0), (0, 0, 255)))
        assert not picture.is_moving
        assert colours(picture) == {(0, 255, 0)}
        picture.fps = 5
        assert picture.is_moving
        picture.fps = 0
        assert not picture.is_moving
        picture.fps = 5
        picture.show(plain_frames((1, 2, 3)))
        assert not picture.is_moving

    with_picture(body, fps=0)


def test_nothing_moves_while_it_is_not_seen():
    async def body(picture, pilot):
        picture.show(RED_GREEN)
        assert picture.is_moving
        picture.display = False
        await until(pilot, lambda: not picture.is_moving)
        picture.show(plain_frames((1, 1, 1), (2, 2, 2)))
        assert not picture.is_moving
        picture.display = True
        await until(pilot, lambda: picture.is_moving)
        await pilot.app.push_screen(Screen())
        await until(pilot, lambda: not picture.is_moving)
        pilot.app.pop_screen()
        await until(pilot, lambda: picture.is_moving)
        picture.show(None)
        assert not picture.is_moving

    with_picture(body)


def test_scrolled_away_it_stands_still():
    class Long(App[None]):
        CSS = "Picture { height: 5; } Static { height: 50; }"

        def compose(self) -> ComposeResult:
            with VerticalScroll():
                yield Picture()
                yield Static("below")

    async def run() -> None:
        async with Long().run_test(size=(20, 10)) as pilot:
            picture = pilot.app.query_one(Picture)
            picture.show(RED_GREEN)
            pilot.app.query_one(VerticalScroll).scroll_to(y=30, animate=False)
            await until(pilot, lambda: not picture.is_in_view)
            index = picture._index
            picture._advance()
            assert picture._index == index

    asyncio.run(run())


@pytest.mark.parametrize("frames", [None, Frames(0, 0, 0, b""), Frames(1, 0, 5, b"")])
def test_without_frames_the_caption_is_in_the_middle(frames):
    async def body(picture, pilot):
        picture.show(frames, "no preview yet")
        await pilot.pause()
        lines = texts(picture)
        assert [line.strip() for line in lines] == [""] * 4 + ["no preview yet"] + [""] * 5
        assert lines[4].index("no") == 3

    with_picture(body)


def test_any_size():
    async def body(picture, pilot):
        noise = Frames(2, 7, 5, bytes(range(210)))
        for frames in (noise, plain_frames((9, 9, 9), width=96, height=1), RED_GREEN, None):
            picture.show(frames, "a caption 星")
            for width in (1, 2, 3, 40):
                for height in (1, 2, 3, 4, 17):
                    lines = picture.draw(width, height)
                    assert [line.cell_length for line in lines] == [width] * height

    with_picture(body)


def test_cells_keep_the_aspect():
    assert fitted(96, 54, 60, 18) == (60, 17)
    assert fitted(54, 96, 60, 18) == (20, 18)
    assert fitted(8, 8, 20, 10) == (20, 10)
    assert fitted(8, 8, 1, 1) == (1, 1)
    assert fitted(1000, 1, 40, 5) == (40, 1)
    assert fitted(8, 8, 20, 10, cell_aspect=1.0) == (10, 10)


def test_scaling_means_what_lies_in_a_cell():
    checks = memoryview(bytes([0, 0, 0, 200, 100, 50] * 2 + [200, 100, 50, 0, 0, 0] * 2))
    assert scaled(checks, 4, 2, 2, 1) == bytes([100, 50, 25] * 2)
    assert scaled(checks, 4, 2, 4, 2) == bytes(checks)
    assert list(scaled(checks, 4, 2, 8, 2)[:9]) == [0, 0, 0, 0, 0, 0, 200, 100, 50]


def test_enlarging_is_bilinear():
    """Within what rounding costs, twice; the oracle is torch."""
    pixels = random.Random(1).randbytes(3 * 7 * 5)
    frame = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).reshape(1, 5, 7, 3)
    wanted = torch.nn.functional.interpolate(
        frame.permute(0, 3, 1, 2).double(), size=(12, 23), mode="bilinear", align_corners=False
    )
    found = torch.tensor(list(scaled(memoryview(pixels), 7, 5, 23, 12))).reshape(12, 23, 3)
    assert (found - wanted[0].permute(1, 2, 0)).abs().max() <= 4


class FakeImage(Widget):
    image: Any = None


@pytest.mark.parametrize("kind", ["kitty", "sixel"])
def test_real_pixels_are_painted_seldom(kind):
    painted: list[bytes] = []

    class Maker(ImageMaker):
        def paint(self, widget, pixels, width, height):
            assert isinstance(widget, FakeImage)
            painted.append(pixels[:3])

    async def body(picture, pilot):
        three = plain_frames((1, 1, 1), (2, 2, 2), (3, 3, 3))
        picture.show(three)
        await pilot.pause()
        assert picture.is_moving == (kind == "kitty")
        assert painted == [bytes([1] * 3) if kind == "kitty" else bytes([2] * 3)]
        assert texts(picture) == [" " * 20] * 10
        image = picture.query_one(FakeImage)
        assert image.size == (20, 10)
        for _ in range(5):
            picture.show(plain_frames((7, 7, 7)))
        assert len(painted) == 1
        await until(pilot, lambda: len(painted) > 1)
        assert painted[1:] == [bytes([7] * 3)]
        picture.show(None, "nothing")
        await until(pilot, lambda: not image.display)
        assert "nothing" in "".join(texts(picture))

    with_picture(body, graphics=Maker(kind, FakeImage, 10, 20))


def test_two_pictures_go_in_step_whatever_their_numbers_of_frames():
    class Two(App[None]):
        def compose(self) -> ComposeResult:
            yield Picture(id="lead", fps=0.001)  # it moves, and not by itself
            yield Picture(id="other", fps=0.001)

    async def run() -> None:
        async with Two().run_test(size=(20, 20)) as pilot:
            lead = pilot.app.query_one("#lead", Picture)
            other = pilot.app.query_one("#other", Picture)
            other.follow(lead)
            other.show(plain_frames(*[(shade, 0, 0) for shade in range(8)]))
            await pilot.pause()
            assert other.is_moving  # with nobody to follow it goes by itself
            lead.show(plain_frames(*[(shade, 0, 0) for shade in range(4)]))
            await pilot.pause()
            assert lead.is_moving
            assert not other.is_moving
            places = []
            for _ in range(5):
                lead._advance()
                places.append((lead._index, other._index))
            assert places == [(1, 2), (2, 4), (3, 6), (0, 0), (1, 2)]
            lead.show(None)
            await pilot.pause()
            assert other.is_moving

    asyncio.run(run())
