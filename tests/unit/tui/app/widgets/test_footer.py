"""What the app keeps of widgets that are gone: nothing, however long it is used."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import ClassVar

import pytest
from textual import widgets
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets._footer import FooterKey

from tests.unit.tui.opened_app import play, until
from tui.app.widgets.footer import Footer

SWITCHES = 20
# At the foot of one screen.
MOST_KEYS = 12
MODES = ("runs", "queue", "store", "components")


def live(kind: type[Widget], others: list[Widget] | None = None) -> list[Widget]:
    """others: which were there before, such as those of a test that failed."""
    gc.collect()
    known = {*map(id, others or ())}
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]
    return [widget for widget in found if id(widget) not in known]


class Small(App[None]):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("a", "a", "A"), Binding("b", "b", "B")]

    def __init__(self, kind: type[widgets.Footer]) -> None:
        super().__init__()
        self.kind = kind
        self.has_b = True

    def compose(self) -> ComposeResult:
        yield self.kind(show_command_palette=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self.has_b if action == "b" else super().check_action(action, parameters)


def keys_left(kind: type[widgets.Footer], switches: int) -> int:
    """How many keys that are shown no more live after a footer was made anew so often."""

    others = live(FooterKey)

    async def run() -> int:
        app = Small(kind)
        async with app.run_test() as pilot:
            footer = app.query_one(kind)
            await pilot.pause()
            for _ in range(switches):
                made = asyncio.Event()
                app.has_b = not app.has_b

                async def make_anew(made: asyncio.Event = made) -> None:
                    await footer.recompose()
                    made.set()

                footer.call_later(make_anew)  # as it does itself when the bindings change
                await made.wait()
            await pilot.pause()
            shown = len(app.query(FooterKey))
            return len(live(FooterKey, others)) - shown

    return asyncio.run(run())


def test_of_changes_of_the_keys_nothing_is_kept():
    assert keys_left(Footer, SWITCHES) <= 0


def test_textuals_own_footer_keeps_them():
    """Where this fails, it is mended there, and `tui.app.widgets.footer` can go."""
    assert keys_left(widgets.Footer, SWITCHES) >= SWITCHES


def test_of_screens_that_are_left_nothing_is_kept():
    others = live(Widget)

    async def act(pilot):
        for mode in MODES * 2:
            await pilot.app.action_open(mode)
            await pilot.pause()
            await pilot.press("tab")

        def kept() -> Counter[type[Widget]]:
            """Widgets that are shown no more, but for the keys that were at the foot last."""
            gone = (widget for widget in live(Widget, others) if widget not in pilot.app._registry)
            return Counter(map(type, gone)) - Counter({FooterKey: MOST_KEYS})

        await until(pilot, lambda: not kept())

    play("runs", act)


def test_keys_that_stay_the_same_are_not_made_anew():
    async def act(pilot):
        footer = pilot.app.screen.query_one(Footer)
        before = [*footer.query(FooterKey)]
        await footer.recompose()
        assert [*footer.query(FooterKey)] == before != []

    play("runs", act)


def test_the_keys_at_the_foot_are_those_of_the_screen():
    async def act(pilot):
        def shown() -> list[str]:
            return [key.description for key in pilot.app.screen.query_one(Footer).query(FooterKey)]

        await until(pilot, lambda: "Filter" in shown())
        await pilot.press("4")
        await until(pilot, lambda: "Start engine" in shown())
        assert "Filter" not in shown()
        await pilot.press("3")
        await until(pilot, lambda: "Filter" in shown())
        assert "Start engine" not in shown()

    play("runs", act)


@pytest.mark.parametrize("mode", ["compose", "runs", "components"])
def test_where_there_is_no_room_for_all_keys_each_is_whole_and_help_is_there(mode):
    async def act(pilot):
        footer = pilot.app.screen.query_one(Footer)

        def keys() -> dict[str, FooterKey]:
            shown = [key for key in footer.query(FooterKey) if key.display and key.parent.display]
            return {key.action: key for key in shown}

        def are_whole() -> bool:
            palette = [key for key in keys().values() if key.has_class("-command-palette")]
            edge = palette[0].region.x if palette else pilot.app.size.width
            others = [key for key in keys().values() if key not in palette]
            return (
                {"leave", "help"} <= keys().keys()
                and len(others) > 2
                and all(0 < key.region.right <= edge for key in others)
            )

        for width in (60, 80, 120):
            await pilot.resize_terminal(width, 24)
            await until(pilot, are_whole, f"all whole at {width}")

    play(mode, act)
