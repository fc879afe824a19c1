"""Every app of these tests is a cheap one."""

from __future__ import annotations

import pytest
from textual.pilot import Pilot

from tests.terminals import quick_app
from tests.terminals.opened import WAIT_SECONDS


@pytest.fixture(autouse=True, scope="session")
def spared_collector() -> None:
    quick_app.spare_the_collector()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick_app.share_style_sheets(monkeypatch)
    quick_app.paint_at_rest(monkeypatch)
    monkeypatch.setattr(Pilot._wait_for_screen, "__defaults__", (WAIT_SECONDS,))
