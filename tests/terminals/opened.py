"""The app in a test, once its first screen is there."""

from __future__ import annotations

import time
from typing import Any

from textual.app import App
from textual.pilot import Pilot

# It is certain to come: longer than any machine is too busy for.
WAIT_SECONDS = 120.0


def is_whole(app: App[Any]) -> bool:
    """Whether all of the screen that was asked for last is there, or the app is left."""
    return not app.is_running or not app.screen_stack or app.screen.is_mounted


async def opened(pilot: Pilot[Any]) -> None:
    """Until the first screen is there."""
    app = pilot.app
    deadline = time.monotonic() + WAIT_SECONDS
    while not app.screen_stack or not app.screen.is_mounted:
        assert time.monotonic() < deadline, "the first screen never came"
        await pilot.pause(0.01)
    await pilot.pause()
