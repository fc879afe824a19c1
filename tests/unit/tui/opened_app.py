"""The app on one of its screens, without a terminal: keys go in, what is shown comes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Static

from tests.terminals.opened import WAIT_SECONDS, is_whole, opened
from tui.app.app import ModiffApp
from tui.app.preferences import Preferences

WIDE, NARROW = (120, 36), (80, 24)


def play(
    mode: str,
    script: Callable[[Pilot[int]], Awaitable[None]],
    *,
    size: tuple[int, int] = WIDE,
    root: Path | None = None,
) -> ModiffApp:
    """Open the app on a screen and run the script; whatever goes wrong in the app is raised here."""
    app = ModiffApp(root, preferences=Preferences(screen=mode))

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await opened(pilot)
            await script(pilot)

    asyncio.run(run())
    return app


async def until(pilot: Pilot[int], condition: Callable[[], object], what: str = "") -> None:
    """Wait for what another thread or process brings about."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition() or not is_whole(pilot.app):
        assert time.monotonic() < deadline, f"never came: {what or condition}"
        await asyncio.sleep(0.02)
    await pilot.pause()


def shown(screen: Screen[object], selector: str) -> str:
    """The text of a Static."""
    return str(screen.query_one(selector, Static).content)


def notices(app: ModiffApp) -> list[str]:
    """What the app has told on the margin, oldest first."""
    return [notice.message for notice in app._notifications]
