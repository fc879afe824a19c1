"""What the top line says of the run at work, the longest words that fit first."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from tui.app.top_line import TopLine, _at_work
from tui.describe.health import Status
from tui.describe.runs.following.watch import Progress


def status(progress, num_queued=0):
    running = SimpleNamespace(id="j4u4sdjyli")
    return Status((), (running,), num_queued, "", (), False, progress=progress)


def test_how_far_the_run_at_work_is():
    assert _at_work(status(Progress(62, 19.0), 2)) == (
        "▶ 62% ~0:19 j4u4sdjyli  queue 2 ",
        "▶ 62% ~0:19 j4u4sdjyli q2",
        "▶ 62% ~0:19 j4u4s q2",
        "▶ 62% q2",
        "▶ q2",
    )
    assert _at_work(status(Progress(), 0))[0] == "▶ j4u4sdjyli "
    assert _at_work(status(None, 0))[0] == "▶ j4u4sdjyli "


IDLE = Status((SimpleNamespace(id="e"),), (), 0, "", (), False)


@pytest.mark.parametrize(
    ("found", "trouble", "state"),
    [
        (None, "", "tab"),
        (replace(IDLE, engines=()), "", "tab"),
        (IDLE, "", "idle"),
        (status(None), "", "running"),
        (replace(IDLE, is_stuck=True), "", "trouble"),
        (replace(status(None), is_full=True), "", "trouble"),
        (IDLE, "the store is gone", "trouble"),
    ],
)
def test_what_goes_on_has_a_colour(found, trouble, state):
    line = TopLine("runs")
    line.show(found, trouble)
    assert line.state == state
    assert f"topline--{state}" in TopLine.COMPONENT_CLASSES
