"""A list to pick from shows what is highlighted before it is picked."""

from __future__ import annotations

import asyncio

from textual.app import App

from tui.app.dialogs.picker import Item, Picker


def test_each_value_is_told_as_one_moves():
    async def run():
        seen, picked = [], []
        async with App().run_test() as pilot:
            items = [Item("dark"), Item("light"), Item("grey")]
            pilot.app.push_screen(
                Picker("theme", items, "light", on_move=seen.append), picked.append
            )
            await pilot.pause()
            await pilot.press("down")
            await pilot.pause()
            assert seen[-1] == "grey"
            await pilot.press("l", "i")
            await pilot.pause()
            assert seen[-1] == "light"
            await pilot.press("enter")
            await pilot.pause()
        assert picked == ["light"]

    asyncio.run(run())
