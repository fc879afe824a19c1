"""The live screen with the real engine and the micro model: pictures arrive, and a killed engine costs one key."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path

import imageio_ffmpeg
import pytest

from presets.library.loading import load_preset
from store.store import open_store
from tests.integration.forker import launch_forks
from tests.terminals.opened import opened
from tui.app.app import ModiffApp
from tui.app.preferences import Preferences
from tui.app.run_view.head import RunHead
from tui.app.run_view.view import RunView
from tui.describe.runs.previews import VIDEO, step_told

WAIT_SECONDS = 240.0
STEPS = 12
# The first engine does not go beyond this step, so that it is killed in the midst of the run.
KILLED_AT = 6


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A store of its own; its engines end with the test."""
    target = "engine.stages.denoise:_check_finite"
    gate = {"fault": "wait_for_file", "target": target, "call": KILLED_AT, "path": "/nowhere"}
    launch_forks(monkeypatch, faults=[(gate,), ()])
    for name in ("SSH_CONNECTION", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield tmp_path / "store"
    with open_store(tmp_path / "store") as store:
        for engine in store.engines():
            os.kill(engine.pid, signal.SIGKILL)


def test_a_killed_engine_costs_one_key_and_every_step_has_a_picture(root: Path):
    async def run() -> None:
        app = ModiffApp(root, preferences=Preferences())
        async with app.run_test(size=(120, 36)) as pilot:
            await opened(pilot)

            async def until(condition) -> None:
                end = time.monotonic() + WAIT_SECONDS
                while not condition():
                    assert time.monotonic() < end, head()
                    await pilot.pause(0.05)

            def view() -> RunView:
                return app.get_screen_stack("live")[0].query_one(RunView)

            def head() -> str:
                lines = view().query_one(RunHead)
                return "\n".join(lines.render_line(y).text for y in range(4))

            def picture_of() -> str:
                return str(view().query_one("#preview").border_subtitle or "")

            output = root.parent / "star.mp4"
            spec = load_preset("micro", [f"scheduler.steps={STEPS}", f"output.path={output}"])
            app.launch(spec, "micro")
            await until(lambda: "live" in app._screen_stacks and app.watched_run)
            await until(lambda: view().query(RunHead) and "it/s" in head())
            await until(lambda: picture_of().startswith("step "))
            await until(lambda: f"{KILLED_AT - 1} of {STEPS} steps" in head())

            assert app.status is not None
            (engine,) = app.status.engines
            os.kill(engine.pid, signal.SIGKILL)
            await until(lambda: "interrupted" in head() and "r resumes it" in head())
            await pilot.press("r")
            await until(lambda: "done" in head() and "star.mp4" in head())
            assert f"{STEPS} of {STEPS} steps" in head()
            assert re.search(rf"reused: text, \d+ of {STEPS} steps", head())
            await until(lambda: picture_of() == VIDEO)
            for step in (STEPS - 1, STEPS - 2):
                await pilot.press("left")
                await until(lambda step=step: picture_of() == step_told(step))

    asyncio.run(run())
    assert imageio_ffmpeg.count_frames_and_secs(str(root.parent / "star.mp4"))[0] > 0
