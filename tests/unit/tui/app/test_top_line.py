"""What the top line says of the run at work, the longest words that fit first."""

from __future__ import annotations

from types import SimpleNamespace

from tui.app.top_line import _at_work
from tui.describe.health import Status
from tui.describe.runs.watch import Progress


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
