"""Help: every key that works is in it, by screen, panel and everywhere."""

from __future__ import annotations

import pytest
from textual.widgets import Static

from store.store import open_store
from tests.stores.made_stores import make_run
from tests.unit.tui.opened_app import NARROW, play, shown, until
from tui.app.dialogs import help as help_screen
from tui.app.dialogs.help import Help
from tui.app.runs.compare import Compare
from tui.app.top_line import TABS
from tui.app.widgets.listing import Listing


@pytest.fixture(autouse=True)
def store(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with open_store() as opened:
        make_run(opened, "micro")
        yield opened


async def settled(pilot):
    await until(pilot, lambda: pilot.app.status is not None)
    await pilot.pause(0.2)


def test_nothing_that_works_is_hidden():
    async def script(pilot):
        app = pilot.app
        await settled(pilot)
        for mode in TABS:
            await app.switch_mode(mode)
            await settled(pilot)
            screen = app.screen
            sections = help_screen.sections(screen)
            told = {
                key
                for _, keys in sections
                for names, _ in keys
                for key in names.replace(", ", " ").split(" ")
            }
            everywhere = {*"123456", *(f"alt+{number}" for number in "123456")} | {
                "tab",
                "shift+tab",
                "^c",
                "super+c",
            }
            for node, binding, is_enabled, _ in screen.active_bindings.values():
                if is_enabled and binding.description:
                    key = help_screen.shown_key(app, binding)
                    assert key in told | everywhere, (mode, node, binding)
            assert all(what for _, keys in sections for _, what in keys)

    play("compose", script)


def test_the_screen_comes_first_then_the_panel_then_everywhere():
    async def script(pilot):
        screen = pilot.app.screen
        await until(pilot, lambda: screen.query_one(Listing).current)
        sections = help_screen.sections(screen)
        assert [title for title, _ in sections] == [
            "On this screen",
            "In the list “1 run”",
            "Everywhere",
        ]
        assert ("↓, j", "Down") in sections[1][1]
        assert ("c", "Say what a clean-up would remove") in sections[0][1]

    play("store", script)


def test_opens_and_closes():
    async def script(pilot):
        await settled(pilot)
        screen = pilot.app.screen
        for opens, closes in (
            ("question_mark", "escape"),
            ("f1", "q"),
            ("question_mark", "question_mark"),
        ):
            await pilot.press(opens)
            await until(pilot, lambda: isinstance(pilot.app.screen, Help))
            assert "Nothing is ever removed by itself" in shown(pilot.app.screen, "Static")
            await pilot.press("down", "pagedown", closes)
            await until(pilot, lambda: pilot.app.screen is screen)

    play("store", script, size=NARROW)


def test_what_a_key_does_stays_in_its_column():
    async def script(pilot):
        await settled(pilot)
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(pilot.app.screen, Help))
        drawn = [
            "".join(segment.text for segment in strip).rstrip()
            for table in pilot.app.screen.query(Static).results()
            for strip in table.render_lines(table.region.reset_offset)
        ]
        at = next(i for i, line in enumerate(drawn) if "The prompt, or the preset's file" in line)
        assert drawn[at].index("The prompt") == len(drawn[at + 1]) - len(drawn[at + 1].lstrip())

    play("compose", script)


def test_the_comma_among_keys_is_told_from_what_parts_them():
    assert help_screen.joined(["[", ","]) == "[ ,"
    assert help_screen.joined(["]", "pgdn", "]"]) == "], pgdn"


def test_what_lists_and_panels_of_textual_do_is_told_in_our_words():
    async def script(pilot):
        await settled(pilot)
        with open_store() as store:
            made = make_run(store, "micro").id
        pilot.app.push_screen(Compare(made, made))
        await until(pilot, lambda: pilot.app.focused is not None)
        told = dict(help_screen.sections(pilot.app.screen))
        keys = dict(told["In the panel"])
        assert keys["↓"] == "A line down"
        assert not [key for key in keys if "^pg" in key]  # which turn from screen to screen

    play("store", script)
