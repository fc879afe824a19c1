"""The decoded video of a run, where its preview is stored: in the summary of a run, and of two side by side."""

from __future__ import annotations

import asyncio

import pytest
from textual.pilot import Pilot

from tests.unit.tui.live_run import LiveRun, live_run, picture
from tests.unit.tui.opened_app import WIDE, play, until
from tui.app.lab import Lab
from tui.app.runs.compare import Compare
from tui.app.runs.details import RunDetails
from tui.app.widgets.picture import STEP_FPS, Picture
from tui.describe.runs.previews import VIDEO, playing_rate, step_told

VIDEO_PICTURE = picture(99)
"""That of `LiveRun.decode`."""


@pytest.fixture
def made(own_folders):
    """A run at work that has done its two steps, each of which has a picture."""
    with live_run(own_folders / "store", steps=2) as run:
        run.step(1)
        run.step(2)
        yield run


@pytest.fixture
def other(own_folders, made):
    """Another one, which is over with its video."""
    made.decode()
    made.store.finish(made.id, "done")
    with live_run(own_folders / "store", steps=2) as run:
        run.step(1)
        run.step(2)
        run.decode()
        run.store.finish(run.id, "done")
        yield run


def shows(shown: Picture, run: LiveRun) -> bool:
    """Whether it is the video, which plays in its own time."""
    rate = playing_rate(run.store.run(run.id).spec_json, VIDEO_PICTURE.num_frames)
    assert rate not in (None, STEP_FPS)
    is_video = shown._caption == VIDEO and shown._frames == VIDEO_PICTURE
    return is_video and shown.fps == rate


def test_the_video_takes_the_place_of_the_last_step_in_the_summary(made):
    async def script(pilot: Pilot[int]) -> None:
        await until(pilot, lambda: pilot.app.screen.query_one(RunDetails).detail)
        shown = pilot.app.screen.query_one("#summary-picture", Picture)
        await until(pilot, lambda: shown._caption == step_told(2))
        assert shown._frames == picture(2)
        assert shown.fps == STEP_FPS
        made.decode()
        made.store.finish(made.id, "done")
        await until(pilot, lambda: shows(shown, made), "the video")

    play("runs", script, size=WIDE)


def test_two_videos_are_compared_frame_by_frame(made, other, monkeypatch):
    async def compare(_lab: Lab, *_: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Lab, "command", compare)

    async def script(pilot: Pilot[int]) -> None:
        pilot.app.push_screen(Compare(made.id, other.id))
        await until(pilot, lambda: isinstance(pilot.app.screen, Compare))
        a, b = (pilot.app.screen.query_one(f"#picture-{name}", Picture) for name in "AB")
        await until(pilot, lambda: shows(a, made) and shows(b, other), "both videos")
        await until(pilot, lambda: a.is_moving and a.is_in_view and b.is_in_view)
        assert not b.is_moving  # it has no time of its own
        for _ in range(VIDEO_PICTURE.num_frames):
            before = a._index
            a._advance()
            assert a._index != before
            assert b._index == a._index
        await pilot.press("left")
        await until(pilot, lambda: b._caption == step_told(1) and b._frames == picture(1))

    play("runs", script, size=(150, 60))
