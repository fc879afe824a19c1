"""Keys that come in one burst act one after the other, each where the one before it has led."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

import pytest
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.events import Key, Paste
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList

from tui.app import key_order
from tui.app.key_order import KeysInOrder


class Over(ModalScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss", "Leave")]

    def compose(self) -> ComposeResult:
        yield Input("over", id="over")

    def on_input_submitted(self) -> None:
        self.dismiss()


class Form(Vertical):
    def compose(self) -> ComposeResult:
        with Vertical():
            yield Input("123", select_on_focus=False)


class Ordered(KeysInOrder):
    BINDINGS: ClassVar[list[BindingType]] = [("f2", "over", "Over")]
    over = ""

    def compose(self) -> ComposeResult:
        yield Form()

    def action_over(self) -> None:
        self.push_screen(Over())

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "over":
            self.over = event.value


def after(app, *keys):
    """What the field of the app holds after keys that came in one burst, the last of them `.`."""

    async def run():
        async with app.run_test() as pilot:
            field = app.query_one(Input)
            field.focus()
            await pilot.pause()
            for key in (*keys, "full_stop"):
                app.post_message(
                    Key(key, "." if key == "full_stop" else key if len(key) == 1 else None)
                )
            while "." not in field.value:
                await pilot.pause(0.01)
            return field.value

    return asyncio.run(run())


def test_what_is_typed_behind_a_key_that_deletes_stays():
    assert after(Ordered(), "ctrl+u", "9", "7") == "97."


def test_what_is_typed_behind_a_key_that_opens_a_dialog_goes_there():
    app = Ordered()
    assert after(app, "f2", "a", "b", "escape", "4") == "1234."
    assert app.over == "ab"


def test_no_key_is_waited_for_in_a_dialog_that_it_has_closed(monkeypatch):
    monkeypatch.setattr(key_order, "LOST_SECONDS", 1000.0)
    app = Ordered()
    keys = ("f2", "a", "enter", "4", "f2", "escape", "5")
    assert after(app, *keys) == "12345."


class Slow(Ordered):
    """What its dialog shows is read before that is opened, for longer than a lost key is waited for."""

    def action_over(self) -> None:
        self.run_worker(self.read())

    async def read(self) -> None:
        with self.opening():
            await asyncio.sleep(0.2)
        self.push_screen(Over())


def test_what_is_typed_behind_a_key_waits_for_what_its_dialog_reads():
    app = Slow()
    assert after(app, "f2", "a", "b", "escape", "4") == "1234."
    assert app.over == "ab"


class Flushed(Slow):
    """Another callback of the app has its turn before the dialog is pushed."""

    async def read(self) -> None:
        with self.opening():
            await asyncio.sleep(0.2)
        self.call_next(asyncio.sleep, 0.2)
        await self.push_screen_wait(Over())


def test_what_is_typed_behind_a_key_waits_for_a_dialog_that_other_callbacks_come_before():
    app = Flushed()
    assert after(app, "f2", "a", "b", "escape", "4") == "1234."
    assert app.over == "ab"


def test_keys_go_on_where_a_dialog_takes_too_long_to_read(monkeypatch):
    monkeypatch.setattr(key_order, "LOST_SECONDS", 0.01)
    monkeypatch.setattr(key_order, "OPEN_SECONDS", 0.05)
    monkeypatch.setattr(Slow, "read", lambda app: held(app))
    assert after(Slow(), "f2", "4") == "1234."


async def held(app: KeysInOrder) -> None:
    with app.opening():
        await asyncio.Event().wait()


def test_a_key_that_is_long_under_way_is_not_lost(monkeypatch):
    async def on_key(_form: Form) -> None:
        time.sleep(0.05)  # noqa: ASYNC251  # as on a machine that does other things
        for _ in range(100):
            await asyncio.sleep(0)

    monkeypatch.setattr(key_order, "LOST_SECONDS", 0.01)
    monkeypatch.setattr(Form, "on_key", on_key, raising=False)
    assert after(Ordered(), "ctrl+u", "9") == "9."


@pytest.mark.parametrize("number", [1, 3])
def test_keys_go_on_where_one_was_lost(monkeypatch, number):
    monkeypatch.setattr(key_order, "LOST_SECONDS", 0.05)
    monkeypatch.setattr(KeysInOrder, "on_came_round", lambda _app, _message: None)
    keys = "456"[:number]
    assert after(Ordered(), *keys) == f"123{keys}."


class Led(Ordered):
    """Its key f3 leads to another field, while there is much to do."""

    BINDINGS: ClassVar[list[BindingType]] = [("f3", "elsewhere", "Elsewhere")]

    def compose(self) -> ComposeResult:
        yield Form()
        yield Input(id="elsewhere")

    async def _check_bindings(self, key: str, priority: bool = False) -> bool:
        for _ in range(20):
            await asyncio.sleep(0)
        return await super()._check_bindings(key, priority)

    def action_elsewhere(self) -> None:
        self.query_one("#elsewhere").focus()


def test_what_is_typed_behind_a_key_that_moves_the_focus_goes_there():
    async def run():
        app = Led()
        async with app.run_test() as pilot:
            field, other = app.query(Input)
            field.focus()
            await pilot.pause()
            for key in ("f3", "a", "b"):
                app.post_message(Key(key, key if len(key) == 1 else None))
            while len(field.value + other.value) < len("123ab"):
                await pilot.pause(0.01)
            assert (field.value, other.value) == ("123", "ab")

    asyncio.run(run())


class Chosen(Ordered):
    """Its dialog is opened by a row of a list."""

    def compose(self) -> ComposeResult:
        yield Form()
        yield Vertical(OptionList("over"))

    def on_option_list_option_selected(self) -> None:
        self.push_screen(Over())


def test_what_is_typed_behind_a_row_that_opens_a_dialog_goes_there():
    async def run():
        app = Chosen()
        async with app.run_test() as pilot:
            app.query_one(OptionList).focus()
            await pilot.pause()
            for key in ("enter", "a", "b"):
                app.post_message(Key(key, key if len(key) == 1 else None))
            while not app.over:
                await pilot.pause(0.01)
            await pilot.pause()
            assert app.over == "ab"

    asyncio.run(run())


def test_what_is_pasted_waits_too():
    async def run():
        app = Ordered()
        async with app.run_test() as pilot:
            field = app.query_one(Input)
            field.focus()
            await pilot.pause()
            app.post_message(Key("ctrl+u", None))
            app.post_message(Paste("pasted"))
            while field.value != "pasted":
                await pilot.pause(0.01)

    asyncio.run(run())


def test_a_key_that_comes_while_a_dialog_is_composed_goes_there():
    async def run():
        app = Slow()
        async with app.run_test() as pilot:
            field = app.query_one(Input)
            field.focus()
            await pilot.pause()
            app.post_message(Key("f2", None))
            while not isinstance(app.screen, Over):  # noqa: ASYNC110  # the very moment
                await asyncio.sleep(0)
            app.post_message(Key("a", "a"))
            app.post_message(Key("b", "b"))
            while not app.over:
                await pilot.pause(0.01)
            await pilot.pause(0.05)
            assert (field.value, app.over) == ("123", "ab")

    asyncio.run(run())
