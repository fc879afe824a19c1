"""Every app of these tests is a cheap one."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import pytest
from textual.pilot import Pilot

from tests.terminals import quick_app
from tests.terminals.opened import WAIT_SECONDS
from tui import errors


@pytest.fixture(autouse=True, scope="session")
def spared_collector() -> None:
    quick_app.spare_the_collector()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick_app.share_style_sheets(monkeypatch)
    quick_app.paint_at_rest(monkeypatch)
    monkeypatch.setattr(Pilot._wait_for_screen, "__defaults__", (WAIT_SECONDS,))


@pytest.fixture(autouse=True)
def no_defect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An error that nobody expected is told on the margin, where a test that looks elsewhere would not see it."""
    traces: list[str] = []
    write = errors._write_log

    def seen(error: Exception) -> str:
        traces.append("".join(traceback.format_exception(error)))
        return write(error)

    monkeypatch.setattr(errors, "_write_log", seen)
    yield
    is_made = request.node.get_closest_marker("defect") is not None
    assert bool(traces) == is_made, "\n".join(traces)
