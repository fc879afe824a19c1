"""Variants of the run in the form: planned while one types, queued as `modiff sweep` does, shown in the gallery."""

from __future__ import annotations

import json

import pytest
from textual.widgets import Input

from store.store import open_store
from tests.unit.tui.opened_app import play, shown, until
from tui.app.app import ModiffApp
from tui.app.compose.variants.dialog import Variants
from tui.app.runs.list import RunList
from tui.app.runs.screen import Runs
from tui.app.widgets.thumbnails import Thumbnails


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ModiffApp, "ensure_engine", lambda _app: None)
    with open_store() as opened:
        yield opened


def test_variants_are_planned_queued_under_one_tag_and_shown(store):
    async def script(pilot):
        app = pilot.app
        await until(pilot, lambda: app.screen.checked is not None)
        await pilot.press("ctrl+g")
        await until(pilot, lambda: isinstance(app.screen, Variants))
        dialog = app.screen
        await until(pilot, lambda: "8 runs" in shown(dialog, "#told"))
        await pilot.press("1", "full_stop", "full_stop", "x")  # in the place of what stands there
        await until(pilot, lambda: "1..x is no range" in shown(dialog, "#wrong"))
        await pilot.press("backspace", "2")
        await pilot.pause()
        assert "x" not in shown(dialog, "#wrong")
        await until(pilot, lambda: "2 runs" in shown(dialog, "#told"))
        dialog.query_one("#seeds", Input).value = "3 random"
        dialog.query_one("#setting", Input).value = "guidance.scale=2,4"
        dialog.query_one("#stop", Input).value = "21"
        await until(pilot, lambda: "stop at one of 20 steps" in shown(dialog, "#wrong"))
        await pilot.press("enter")
        await pilot.pause(0.1)
        assert store.queued() == []
        dialog.query_one("#stop", Input).value = "5"
        await until(pilot, lambda: "30 of 30 steps to compute" in shown(dialog, "#told"))
        await pilot.press("enter", "enter")
        await until(pilot, lambda: isinstance(app.screen, Runs))
        if app.screen.has_class(
            "-opened"
        ):  # by the second of the two, where the first one was quick
            await pilot.press("escape")
        runs = app.screen.query_one(RunList)
        await until(pilot, lambda: len(app.screen.query_one(Thumbnails).seen) == 6)
        queued = store.queued()
        assert [run.id for run in queued] == list(app.screen.query_one(Thumbnails).seen)
        tags = set(store.tags_of([run.id for run in queued]).values())
        assert len(tags) == 1
        assert runs.is_in_gallery
        assert runs.query_one("#filter", Input).value == f"tag:{tags.pop()[0]}"
        specs = [json.loads(run.spec_json) for run in queued]
        assert len({spec["seed"] for spec in specs}) == 3
        assert {(run.preset, run.stop_at) for run in queued} == {("micro", 5)}

    play("compose", script)
