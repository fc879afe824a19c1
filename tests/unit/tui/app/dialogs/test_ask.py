"""The small questions: a line, or yes and no."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from textual.app import App
from textual.events import Key
from textual.screen import ModalScreen

from tui.app.dialogs.ask import Ask, Confirm
from tui.app.dialogs.picker import Item, Picker


def answer(screen: ModalScreen[Any], *keys: str) -> list[Any]:
    """What a question ends with after these keys; nothing where it stays."""
    given: list[Any] = []

    async def run() -> None:
        app: App[None] = App()
        async with app.run_test(size=(80, 24)) as pilot:
            app.push_screen(screen, given.append)
            await pilot.pause()
            await pilot.press(*keys)
            await pilot.pause()

    asyncio.run(run())
    return given


def test_a_line():
    assert answer(Ask("note", "of run k3f", value="a"), "b", "enter") == ["ab"]
    assert answer(Ask("note", "of run k3f"), "enter") == [""]
    assert answer(Ask("note", "of run k3f", value="a"), "escape") == [None]


def test_a_line_that_is_wrong_stays():
    def check(line: str) -> str:
        return "" if line == "ab" else "expected ab"

    assert answer(Ask("x", "y", check=check), "a", "enter") == []
    assert answer(Ask("x", "y", check=check), "a", "enter", "b", "enter") == ["ab"]


@pytest.mark.parametrize(
    "question",
    [
        lambda: Ask("note", "of run k3f", value="a"),
        lambda: Confirm("remove", ["run k3f"], "Remove"),
        lambda: Picker("presets", [Item("a")]),
    ],
    ids=["line", "yes or no", "list"],
)
def test_answered_twice_it_takes_the_first_answer_and_nothing_else_away(question):
    given: list[Any] = []

    async def run() -> None:
        app: App[None] = App()
        async with app.run_test(size=(80, 24)) as pilot:
            app.push_screen(question(), given.append)
            await pilot.pause()
            for _ in range(3):  # faster than anything is answered
                app.post_message(Key("enter", "\r"))
            await pilot.pause()
            await pilot.pause()
            assert len(app.screen_stack) == 1

    asyncio.run(run())
    assert len(given) == 1


def test_yes_and_no():
    def confirm() -> Confirm:
        return Confirm("remove", ["run k3f"], "Remove")

    assert answer(confirm(), "y") == [True]
    assert answer(confirm(), "escape") == [False]
    assert answer(confirm(), "enter") == [False]  # what is asked first does nothing
    assert answer(confirm(), "right", "enter") == [True]
