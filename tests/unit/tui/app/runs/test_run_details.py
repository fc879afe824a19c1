"""The panels of a run in the list: what they show of one that is over, and of one that goes on after all."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest
from textual.pilot import Pilot
from textual.widgets import TabbedContent

from engine.process.version import installed_version
from tests.unit.tui.live_run import LiveRun, live_run
from tests.unit.tui.opened_app import NARROW, WIDE, play, until
from tui.app.app import ModiffApp
from tui.app.run_view.timeline import Timeline
from tui.app.run_view.view import RunView
from tui.app.runs.details import RunDetails
from tui.app.runs.list import RunList
from tui.app.widgets.picture import Picture

STEPS = 5


@pytest.fixture
def run(own_folders):
    """At rest after its last step, each of which has a picture."""
    with live_run(own_folders / "store", steps=STEPS) as made:
        for step in range(1, STEPS + 1):
            made.step(step)
        made.store.finish(made.id, "interrupted")
        yield made


@pytest.fixture(autouse=True)
def no_engine(monkeypatch):
    monkeypatch.setattr(ModiffApp, "ensure_engine", lambda _app: None)


def look_at(script: Callable[[Pilot[int]], Awaitable[None]], size=WIDE) -> None:
    """With the panels of the only run open and its last picture there."""

    async def opened(pilot: Pilot[int]) -> None:
        await until(pilot, lambda: pilot.app.screen.query_one(RunList).current)
        await pilot.press("enter")
        pilot.app.screen.query_one(TabbedContent).active = "panels"
        await until(pilot, lambda: note(pilot) == f"step {STEPS}")
        await script(pilot)

    play("runs", opened, size=size)


def view(pilot: Pilot[int]) -> RunView:
    return pilot.app.screen.query_one(RunView)


def note(pilot: Pilot[int]) -> str:
    """Whose picture is shown, "" for none."""
    if pilot.app.screen.query_one("#preview Picture", Picture)._frames is None:
        return ""
    return str(pilot.app.screen.query_one("#preview").border_subtitle).partition(" · ")[0]


def attempt(run: LiveRun) -> None:
    """Another one, which comes to the same steps with the same pictures."""
    run.store.resume(run.id)
    with run.store.register_engine("another", pid=os.getpid(), version=installed_version()):
        run.store.lease("another")
        for step in range(1, STEPS + 1):
            run.step(step)
        run.store.finish(run.id, "done")


def test_the_picture_is_that_of_the_step_however_quickly_one_moves(run):
    async def script(pilot):
        pilot.app.screen.query_one(Timeline).focus()
        await pilot.press("left", "left")
        await until(pilot, lambda: note(pilot) == "step 3")
        await pilot.press("right", "right")
        await until(pilot, lambda: note(pilot) == "step 5")

    look_at(script)


def test_a_picture_that_was_hidden_is_that_of_the_step_when_it_is_seen_again(run):
    async def script(pilot):
        view(pilot).action_tab(1)
        pilot.app.screen.query_one(Timeline).focus()
        await pilot.press("left", "left")
        await pilot.pause(0.2)
        assert note(pilot) == "step 5"
        view(pilot).action_tab(-1)
        await until(pilot, lambda: note(pilot) == "step 3")

    look_at(script, NARROW)


@pytest.mark.parametrize("is_seen", [True, False], ids=["seen", "unseen"])
def test_a_run_that_was_resumed_and_ended_is_drawn_anew(run, is_seen):
    async def script(pilot):
        head = pilot.app.screen.query_one("#head")
        details = pilot.app.screen.query_one(RunDetails)
        assert head._head.status == "interrupted"
        if not is_seen:
            await pilot.press("2")
        attempt(run)
        if not is_seen:
            await pilot.pause(0.5)
            await pilot.press("3")
        await until(pilot, lambda: head._head and head._head.status == "done")
        await until(pilot, lambda: details.detail.record.status == "done")
        await until(pilot, lambda: note(pilot) == f"step {STEPS}")

    look_at(script)
