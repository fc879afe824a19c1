"""A letter on everything that can have the focus, and where it leads."""

from __future__ import annotations

import asyncio

from textual.app import App, ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Input, Label, OptionList

from tui.app.dialogs.jump import LETTERS, Jump, targets_on


class Panels(App[None]):
    CSS = "OptionList { border: round red; width: 1fr; } VerticalScroll { width: 1fr; height: 4; }"

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield OptionList("one", "two", id="left")
            with VerticalScroll(can_focus=False):
                for number in range(9):
                    yield Input(id=f"field-{number}", compact=True)


def test_a_letter_goes_to_its_panel_and_nothing_out_of_sight_has_one():
    async def run():
        app = Panels()
        async with app.run_test(size=(60, 12)) as pilot:
            await pilot.pause()
            targets = targets_on(app.screen)
            shown = [widget.id for widget, _ in targets.values()]
            assert shown == ["left", "field-0", "field-1", "field-2", "field-3"]
            assert "".join(targets) == LETTERS[: len(targets)]
            chosen = []
            app.push_screen(Jump(targets), chosen.append)
            await pilot.pause()
            letters = {str(label.content): label.region for label in app.screen.query(Label)}
            for letter, (widget, _) in targets.items():
                assert widget.region.contains_region(letters[letter])
            await pilot.press("semicolon", "d")
            await pilot.pause()
            app.push_screen(Jump(targets), chosen.append)
            await pilot.press("escape")
            await pilot.pause()
            assert chosen == [app.query_one("#field-1"), None]

    asyncio.run(run())


def test_letters_are_enough_and_each_its_own():
    assert len(set(LETTERS)) == len(LETTERS) == 52
