"""What is asked beside the event loop, and what of it fails."""

from __future__ import annotations

import asyncio

import pytest
from textual.app import App
from textual.screen import Screen

from tui.app.asking import told


class Asking(Screen[None]):
    """Asks for what never comes right."""

    def __init__(self, answered: asyncio.Event) -> None:
        super().__init__()
        self.answered = answered

    def on_mount(self) -> None:
        self.run_worker(told(self, self.ask()))

    async def ask(self) -> None:
        await self.answered.wait()
        raise ValueError("no answer")


class Above(Screen[None]):
    """Closed before what is below it, which gets its answer then."""

    def __init__(self, answered: asyncio.Event) -> None:
        super().__init__()
        self.answered = answered

    async def on_unmount(self) -> None:
        self.answered.set()
        for _ in range(10):
            await asyncio.sleep(0)


class Telling(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []

    def tell_error(self, error: Exception) -> None:
        self.errors.append(error)


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed"])
def test_what_fails_is_told_while_the_app_is_there(is_closed):
    app = Telling()

    async def run():
        answered = asyncio.Event()
        async with app.run_test() as pilot:
            await app.push_screen(Asking(answered))
            if is_closed:
                await app.push_screen(Above(answered))
            else:
                answered.set()
                await pilot.pause()

    asyncio.run(run())
    assert [str(error) for error in app.errors] == ([] if is_closed else ["no answer"])
