"""The app itself: what it tells of errors, and that nothing which people wrote acts on the terminal."""

from __future__ import annotations

import asyncio

import pytest
from textual.command import CommandPalette
from textual.widgets import Input, TextArea

from store.store import open_store
from tests.opened import opened
from tests.unit.tui.opened_app import notices, play, until
from tui.app.app import ModiffApp
from tui.app.compose.screen import Compose
from tui.app.lab import Lab
from tui.app.preferences import Preferences


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_a_defect_met_again_and_again_is_told_and_logged_once(monkeypatch):
    looks = []

    async def fails(lab):
        looks.append(1)
        raise ZeroDivisionError("of [/red] nothing")

    monkeypatch.setattr(Lab, "status", fails)
    monkeypatch.setattr("tui.app.app.LOOK_SECONDS", 0.01)

    async def script(pilot):
        await until(pilot, lambda: len(looks) > 20)
        for _ in range(3):
            pilot.app.tell_error(KeyError("x"))
        await until(pilot, lambda: len(notices(pilot.app)) > 1)
        told = notices(pilot.app)
        assert len(told) == 2
        assert "ZeroDivisionError: of [/red] nothing" in told[0]
        assert "KeyError" in told[1]

    play("queue", script)
    with open_store() as store:
        logs = list((store.root / "logs").glob("modiff-*.log"))
    assert len(logs) == 2


def test_no_theme_takes_the_app_down(monkeypatch):
    async def script(pilot):
        for mode in ("compose", "runs"):
            await pilot.app.switch_mode(mode)
            for theme in ("ansi-dark", "ansi-light"):
                pilot.app.theme = theme
                await pilot.pause()

    play("compose", script)


def test_the_palette_that_is_asked_for_first_opens_over_the_first_screen():
    async def run():
        app = ModiffApp(preferences=Preferences())
        async with app.run_test() as pilot:
            await pilot.press("ctrl+p")  # the frame is all there is
            await opened(pilot)
            await until(pilot, lambda: isinstance(app.screen, CommandPalette))
            assert isinstance(app.screen_stack[0], Compose)

    asyncio.run(run())


def test_what_an_editor_holds_does_not_act_on_the_terminal():
    hostile = "a\x1b]0;title\x07 star\x9b31m \u202egnp.evil"

    async def script(pilot):
        screen = pilot.app.screen
        area = screen.query_one("#prompt", TextArea)
        line = Input(hostile)
        await screen.mount(line)
        area.text = hostile
        await pilot.pause()
        for editor in (area, line):
            # as it goes to the terminal: with all filters
            shown = "".join(
                segment.text
                for strip in editor.render_lines(editor.outer_size.region)
                for segment in strip
            )
            assert "star" in shown
            assert not {*shown} & {"\x1b", "\x07", "\x9b", "\u202e"}
        assert area.text == hostile  # what is drawn is harmless; what is held is what was written

    play("compose", script)
