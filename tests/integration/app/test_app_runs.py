"""The runs screen with the real engine and the micro model: yesterday's run, step 8, other guidance, compare."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
from textual.widgets import Input, Static

from engine.client import submit
from engine.process.launch import ensure_engine
from engine.runs.following import follow
from presets.encoding import decode_spec
from presets.library.loading import load_preset
from store.store import Store, open_store
from tests.integration.forker import Forked, forker, launch_forks
from tests.terminals.opened import opened
from tui.app.app import ModiffApp
from tui.app.preferences import Preferences
from tui.app.run_view.timeline import Timeline
from tui.app.runs.branch import Branch
from tui.app.runs.compare import Compare
from tui.app.runs.details import RunDetails
from tui.app.widgets.picture import Picture
from tui.app.widgets.plot import Plot
from tui.describe.runs.previews import step_told

WAIT_SECONDS = 240.0


class ForkedCommand:
    """`modiff` in a process of its own, as the app runs it for what needs torch."""

    def __init__(self, process: Forked) -> None:
        self.process = process
        self.terminate = process.terminate

    @classmethod
    async def start(cls, *command: str, env: Mapping[str, str], **streams: Any) -> ForkedCommand:
        python, safe, module, name, *arguments = command
        assert (python, safe, module, name) == (sys.executable, "-P", "-m", "tui.cli")
        return cls(
            forker().start(
                "tui.cli.main",
                *arguments,
                stdout=streams["stdout"],
                stderr=streams["stderr"],
                environment=env,
                folder=Path.cwd(),
                is_session=streams["start_new_session"],
            )
        )

    async def communicate(self) -> tuple[bytes, bytes]:
        out, err = await asyncio.to_thread(self.process.communicate)
        return out.encode(), err.encode()


@pytest.fixture
def store(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The engines of it end with the test."""
    monkeypatch.chdir(own_folders)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launch_forks(monkeypatch)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", ForkedCommand.start)
    with open_store() as opened:
        yield opened
        for engine in opened.engines():
            os.kill(engine.pid, signal.SIGKILL)


def test_yesterdays_run_is_branched_at_a_step_and_compared(store: Store):
    ensure_engine(store)
    spec = load_preset("micro", ["scheduler.steps=10", "frames=5", "guidance.scale=3"])
    old = submit(store, spec, preset="micro")
    for _ in follow(store, old):
        pass
    assert store.run(old).status == "done"
    app = ModiffApp(preferences=Preferences(screen="runs"))

    async def run() -> None:
        async with app.run_test(size=(120, 36)) as pilot:
            await opened(pilot)

            async def until(is_so: Callable[[], Any]) -> None:
                end = time.monotonic() + WAIT_SECONDS
                while not is_so():
                    assert time.monotonic() < end, [str(n.message) for n in app._notifications]
                    await pilot.pause(0.05)

            details = app.screen.query_one(RunDetails)
            await until(lambda: details.detail is not None)
            await pilot.press("right_square_bracket")
            timeline = details.query_one(Timeline)
            await until(lambda: timeline.cursor == 10)
            await pilot.press("enter", "left", "left")
            assert details.cursor == 8
            picture = app.screen.query_one("#preview")
            await until(lambda: str(picture.border_subtitle) == step_told(8))

            await pilot.press("b")
            await until(lambda: isinstance(app.screen, Branch))
            form = app.screen
            await until(lambda: form.query_one(Timeline).cursor == 8)
            form.query_one("#guidance-scale", Input).value = "6"
            plan = form.query_one("#plan", Static)
            await until(lambda: "computes 2 of 10 steps" in str(plan.content))
            await pilot.press("enter", "enter")
            await until(lambda: len(store.runs(limit=9)) == 2)
            new = store.runs(limit=9)[0]
            assert (new.parent, new.parent_step) == (old, 8)
            assert decode_spec(new.spec_json).guidance.scale == 6

            await until(lambda: app.watched_run == new.id and app.current_mode == "live")
            await pilot.press("3", "escape", "end", "k")
            await until(lambda: details.detail is not None and details.detail.record.id == new.id)
            await pilot.press("d")
            await until(lambda: isinstance(app.screen, Compare))
            screen = app.screen
            steps = screen.query_one("#steps")
            await until(lambda: "relative L2 0." in str(steps.border_subtitle))
            await until(lambda: store.run(new.id).status == "done")
            assert all(plot._content.series for plot in screen.query(Plot))
            for picture in screen.query(Picture):
                await until(lambda picture=picture: picture._frames is not None)
            timeline = screen.query_one(Timeline)
            for _ in range(timeline.cursor - 8):
                await pilot.press("left")
            await until(lambda: str(steps.border_subtitle) == "relative L2 0, cosine 1.000000")
            await pilot.press("w")
            await pilot.pause()
            await pilot.press("enter")
            await until(lambda: any(n.title == "written" for n in app._notifications))

    asyncio.run(run())
    (video,) = Path.cwd().glob("compare-*.mp4")
    assert imageio_ffmpeg.count_frames_and_secs(str(video))[0] == 5
