"""The player: in the video's own time, frame by frame, and never more than it may hold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Label

from engine.compare.frames import Frame
from engine.errors import EngineError
from tests.unit.tui.opened_app import until
from tui.app.base import ModiffBase
from tui.app.preferences import Preferences
from tui.app.run_view import player as playing
from tui.app.run_view.player import Player
from tui.app.widgets.picture import Picture

PATH = Path("/v/star.mp4")


def frame(shade: int) -> Frame:
    return Frame(4, 4, bytes([shade]) * 48)


class FakeLab:
    """Gives so many frames, as the thread of the true one does; waits before the last one where it is told to."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.count, self.error = count, error
        self.given = 0
        self.asked: tuple[Path, tuple[int, int]] | None = None

    async def read_video(
        self, path: Path, within: tuple[int, int], take: Callable[[Frame], bool]
    ) -> None:
        self.asked = path, within
        for number in range(self.count):
            self.given += 1
            if not take(frame(number)):
                return
        if self.error is not None:
            raise self.error

    def close(self) -> None: ...


def played(
    lab: FakeLab, act: Callable[[Player, Pilot[Any]], Awaitable[None]], fps: float = 0.001
) -> None:
    """fps: so slow that no frame passes by itself."""

    async def run() -> None:
        app = ModiffBase(preferences=Preferences())
        app.__dict__["lab"] = lab
        async with app.run_test(size=(60, 20)) as pilot:
            player = Player(PATH, "a \x1b[2Jstar", fps)
            await app.push_screen(player)
            await act(player, pilot)

    asyncio.run(run())


def told(player: Player) -> str:
    return str(player.query_one("#told", Label).render())


def test_frame_by_frame_and_round():
    lab = FakeLab(3)

    async def act(player: Player, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: told(player) == "frame 1 of 3")
        for key, shown in (
            ("right", 2),
            ("l", 3),
            ("right", 1),
            ("left", 3),
            ("home", 1),
            ("end", 3),
        ):
            await pilot.press(key)
            assert told(player) == f"frame {shown} of 3"
        picture = player.query_one(Picture)
        assert picture._frames is not None
        assert picture._frames.pixels == frame(2).pixels
        assert lab.asked == (PATH, (picture.size.width, 2 * picture.size.height))
        assert "\x1b" not in str(player.query_one(".box").border_title)
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is not player)

    played(lab, act)


def test_it_plays_in_time_and_space_stops_it(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(playing, "monotonic", lambda: now[0])

    async def act(player: Player, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: "of 4" in told(player))
        player._advance()
        assert told(player) == "frame 1 of 4"
        for seconds, shown in ((2.5, 3), (3.5, 4), (5.1, 2)):
            now[0] = 100 + seconds
            player._advance()
            assert told(player) == f"frame {shown} of 4"
        await pilot.press("space")
        now[0] = 107
        player._advance()
        assert told(player) == "frame 2 of 4"
        await pilot.press("space")
        player._advance()
        now[0] = 108.1
        player._advance()
        assert told(player) == "frame 3 of 4"

    played(FakeLab(4), act, fps=1.0)


def test_more_than_it_may_hold_is_left_out_and_told(monkeypatch):
    monkeypatch.setattr(playing, "MAX_BYTES", 48 * 5)
    lab = FakeLab(1000)

    async def act(player: Player, pilot: Pilot[Any]) -> None:
        await until(
            pilot, lambda: told(player) == "frame 1 of 5, the first of them: there are more"
        )
        assert lab.given == 6

    played(lab, act)


def test_what_cannot_be_read_is_told_and_the_player_closes():
    async def act(player: Player, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: pilot.app.screen is not player)
        assert any("no video" in note.message for note in pilot.app._notifications)

    played(FakeLab(0, EngineError("no video in it")), act)


@pytest.mark.parametrize("key", ["q", "v"])
def test_it_is_left(key):
    async def act(player: Player, pilot: Pilot[Any]) -> None:
        await pilot.press(key)
        await until(pilot, lambda: pilot.app.screen is not player)
        assert not player._take(frame(0))

    played(FakeLab(2), act)
