"""The app in a test, once its first screen is there."""

from __future__ import annotations

import time
from typing import Any

from textual.pilot import Pilot

# It is certain to come: longer than any machine is too busy for.
WAIT_SECONDS = 120.0


async def opened(pilot: Pilot[Any]) -> None:
    """Until the first screen is there."""
    app = pilot.app
    deadline = time.monotonic() + WAIT_SECONDS
    while not app.screen.is_mounted:
        assert time.monotonic() < deadline, "the first screen never came"
        await pilot.pause(0.01)
    await pilot.pause()
