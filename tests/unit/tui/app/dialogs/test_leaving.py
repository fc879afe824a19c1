"""Leaving: at once where nothing goes on, else what is to become of it."""

from __future__ import annotations

import asyncio
import os

import pytest
from textual.widgets import OptionList

from engine.process.version import installed_version
from store.store import Store, open_store
from tests.unit.tui.opened_app import NARROW, WIDE, play, shown, until
from tui.app.dialogs.leaving import Leaving


@pytest.fixture
def store():
    with open_store() as opened:
        yield opened


def add(store):
    return store.enqueue(b"{}", preset="micro", output="o")


async def asked(pilot):
    await until(pilot, lambda: pilot.app.status is not None)
    await pilot.press("ctrl+q")
    await until(pilot, lambda: isinstance(pilot.app.screen, Leaving))


def test_nothing_goes_on():
    async def script(pilot):
        await until(pilot, lambda: pilot.app.status is not None)
        await pilot.press("ctrl+q")
        await until(pilot, lambda: pilot.app.return_code == 0 or not pilot.app.is_running)

    app = play("queue", script)
    assert app.return_code == 0


@pytest.mark.parametrize(("key", "size"), [("d", WIDE), ("enter", NARROW)])
def test_left_to_itself(store, key, size):
    run_id = add(store)

    async def script(pilot):
        await asked(pilot)
        await pilot.press(key)
        await until(pilot, lambda: pilot.app._exit)

    app = play("queue", script, size=size)
    assert app.return_code == 0
    assert store.run(run_id).status == "queued"


@pytest.mark.parametrize("keys", [("c",), ("down", "enter")], ids=" ".join)
def test_cancelled(store, keys):
    first, second = add(store), add(store)
    lock = store.register_engine("engine1", pid=os.getpid(), version=installed_version())
    store.lease("engine1")

    async def script(pilot):
        await asked(pilot)
        told = shown(pilot.app.screen, "Static")
        assert f"Run {first} is at work; 1 run waits" in told
        await pilot.press(*keys)
        await until(pilot, lambda: pilot.app._exit)

    with lock:
        app = play("queue", script)
    assert app.cancelled == (first, second)
    assert store.run(first).cancel_requested
    assert store.run(second).status == "cancelled"


def test_stayed_and_left_by_mouse(store):
    add(store)

    async def script(pilot):
        for keys in (("escape",), ("down", "down", "enter"), ("up", "enter"), ("ctrl+q", "escape")):
            await asked(pilot)
            await pilot.press(*keys)  # the last: asked once
            await until(pilot, lambda: not isinstance(pilot.app.screen, Leaving))
        await asked(pilot)
        await pilot.click(OptionList, offset=(10, 3))  # the third row: stay
        await until(pilot, lambda: not isinstance(pilot.app.screen, Leaving))
        assert not pilot.app._exit
        await asked(pilot)
        await pilot.click(OptionList, offset=(10, 1))
        await until(pilot, lambda: pilot.app._exit)

    assert play("queue", script).return_code == 0


def test_work_that_has_ended_since_the_last_look_is_not_asked_about(store, monkeypatch):
    monkeypatch.setattr("tui.app.app.LOOK_SECONDS", 600)
    run_id = add(store)

    async def script(pilot):
        await until(pilot, lambda: pilot.app.status is not None)
        assert pilot.app.status.num_queued == 1
        store.request_cancel(run_id)
        await pilot.press("ctrl+q")
        await until(pilot, lambda: pilot.app._exit or isinstance(pilot.app.screen, Leaving))
        assert pilot.app._exit

    play("queue", script)


def test_leaving_does_not_wait_for_a_store_that_cannot_be_read(store, monkeypatch):
    monkeypatch.setattr("tui.app.app.LEAVE_LOOK_SECONDS", 0.05)
    add(store)

    async def script(pilot):
        await until(pilot, lambda: pilot.app.status is not None)

        async def never():
            await asyncio.Event().wait()

        pilot.app.lab.status = never
        await asked(pilot)

    play("queue", script)


@pytest.mark.defect
def test_a_cancelling_that_fails_stays_and_is_told(store, monkeypatch):
    add(store)

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "request_cancel_all", fails)

    async def script(pilot):
        await asked(pilot)
        await pilot.press("c")
        await until(pilot, lambda: list(pilot.app._notifications))
        assert not pilot.app._exit

    play("queue", script)


def test_before_the_first_look_the_store_is_looked_at(store, monkeypatch):
    monkeypatch.setattr("tui.app.app.LOOK_SECONDS", 60.0)  # Compose waits so long for its first one
    add(store)

    async def script(pilot):
        assert pilot.app.status is None
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(pilot.app.screen, Leaving))

    play("compose", script)
