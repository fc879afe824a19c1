"""The queue screen: order, removal and its undo, editing, and what it says of the engine. No engine is there."""

from __future__ import annotations

import os
import threading

import pytest

from engine.process.version import installed_version
from presets.encoding import decode_spec, encode_spec
from presets.library.loading import load_preset
from store.lineage.events import PlanMade, StageStarted, StepFinished
from store.lineage.records import Segment
from store.store import Store, open_store
from tests.unit.tui.opened_app import NARROW, notices, play, shown, until
from tui.app.app import ModiffApp
from tui.app.compose.screen import Compose
from tui.app.queue.screen import Queue
from tui.app.widgets.listing import Listing


@pytest.fixture(autouse=True)
def engine_starts(monkeypatch):
    """How often an engine was asked for."""
    asked = []
    monkeypatch.setattr(ModiffApp, "ensure_engine", lambda app: asked.append(1))
    return asked


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store() as opened:
        yield opened


def add(store, *overrides, prompt="a red circle", preset="micro", **more):
    spec = load_preset("micro", overrides, values={"prompt": prompt})
    return store.enqueue(encode_spec(spec), preset=preset, output="/v/{run}.mp4", **more)


def begin(store, run_id="engine1"):
    """An engine lives and has leased the first run."""
    lock = store.register_engine(run_id, pid=os.getpid(), version=installed_version())
    return lock, store.lease(run_id)


def order(store):
    return [record.id for record in store.queued()]


def listing(pilot):
    return pilot.app.screen.query_one(Listing)


def ids(pilot):
    return [row.key for row in listing(pilot)._told]


async def filled(pilot, count):
    await until(pilot, lambda: len(ids(pilot)) == count, f"{count} rows")


def test_three_runs_second_removed_third_moved_up_second_returned(store):
    first, second, third = add(store), add(store, "seed=2"), add(store, "seed=3")

    async def script(pilot):
        await filled(pilot, 3)
        await pilot.press("j", "delete")
        await until(pilot, lambda: ids(pilot) == [first, third], "the second to go")
        assert listing(pilot).current == third  # the cursor is where the removed one was
        await pilot.press("K")
        await until(pilot, lambda: order(store) == [third, first], "the third to move")
        assert listing(pilot).current == third
        assert store.run(second).status == "cancelled"
        await pilot.press("J")
        await until(pilot, lambda: order(store) == [first, third], "the third to move back")
        await pilot.press("u")
        await until(pilot, lambda: order(store) == [first, second, third], "the second to return")
        await filled(pilot, 3)
        assert "undo" not in {
            each.binding.action for each in pilot.app.screen.active_bindings.values()
        }

    play("queue", script, size=NARROW)


def test_moves_in_quick_succession_add_up(store):
    made = [add(store, f"seed={i}") for i in range(5)]

    async def script(pilot):
        await filled(pilot, 5)
        await pilot.press("J", "J", "shift+down", "J", "J", "J")
        await until(pilot, lambda: order(store) == [*made[1:], made[0]], "it to be the last")
        await pilot.press("K", "shift+up")
        await until(pilot, lambda: order(store) == [*made[1:3], made[0], *made[3:]], "two up")

    play("queue", script)


def test_says_what_differs_and_what_it_may_take(store):
    add(store, "scheduler.steps=7", "guidance.scale=3", prompt="a \x1b[31m[b]star[/b]")

    async def script(pilot):
        screen = pilot.app.screen
        await filled(pilot, 1)
        await until(pilot, lambda: "steps 7" in shown(screen, "#about"), "the changes")
        assert "guidance 3" in shown(screen, "#about")
        assert "a \\x1b[31m[b]star[/b]" in shown(screen, "#about")
        assert "press s" in shown(screen, "#summary")
        assert "1 run waits" in shown(screen, "#summary")

    play("queue", script)


def test_empty_teaches_and_its_keys_are_few(store):
    async def script(pilot):
        screen = pilot.app.screen
        await until(pilot, lambda: screen.query_one("#nothing").display)
        assert "Compose" in shown(screen, "#nothing Static")
        await pilot.press("K", "J", "delete", "e", "enter", "space", "x", "u", "w")
        actions = {each.binding.action for each in screen.active_bindings.values()}
        assert not actions & {"drop", "edit", "undo", "pause", "cancel", "move(1)"}
        # and the list has the focus again when something waits
        first, second = add(store), add(store)
        await filled(pilot, 2)
        await pilot.press("j")
        await until(pilot, lambda: listing(pilot).current == second)
        await pilot.press("delete")
        await until(pilot, lambda: order(store) == [first])

    play("queue", script)


def test_s_starts_an_engine_only_where_none_lives(store, engine_starts):
    add(store)

    async def script(pilot):
        await filled(pilot, 1)
        await pilot.press("s")
        assert engine_starts == [1]
        with begin(store)[0]:
            await until(pilot, lambda: "is at work" in shown(pilot.app.screen, "#summary"))
            await pilot.press("s")
            assert engine_starts == [1]

    play("queue", script)


def test_the_run_at_work_is_on_top_and_pauses_and_comes_back(store):
    first, second = add(store), add(store)
    lock, _ = begin(store)

    async def script(pilot):
        await filled(pilot, 2)
        assert ids(pilot)[0] == first
        await pilot.press("space")
        await until(pilot, lambda: store.run(first).pause_requested, "the request")
        await until(pilot, lambda: "stops" in shown(pilot.app.screen, "#summary"))
        store.finish(first, "paused")  # as the engine would
        await until(pilot, lambda: ids(pilot) == [second, first], "it to stay as paused")
        await pilot.press("u")
        await until(pilot, lambda: order(store) == [first, second], "it to be queued again")

    with lock:
        play("queue", script)


def test_a_paused_run_stays_and_is_resumed(store, engine_starts):
    first, second = add(store), add(store)
    store.request_pause(first)

    async def script(pilot):
        await filled(pilot, 2)
        assert ids(pilot) == [second, first]
        assert "1 is paused" in shown(pilot.app.screen, "#summary")
        assert not pilot.app.screen.check_action("resume", ())
        await pilot.press("j")
        await until(pilot, lambda: pilot.app.screen.check_action("resume", ()))
        await pilot.press("r")
        await until(pilot, lambda: order(store) == [second, first], "it to be queued again")
        assert engine_starts

    play("queue", script)


def test_a_paused_run_stays_while_another_is_moved(store, monkeypatch):
    paused, first, second = add(store), add(store), add(store)
    store.request_pause(paused)
    may_move, reorder = threading.Event(), Store.reorder

    def slow(opened, *given):
        assert may_move.wait(60)
        reorder(opened, *given)

    monkeypatch.setattr(Store, "reorder", slow)

    async def script(pilot):
        await filled(pilot, 3)
        await pilot.press("J")
        assert ids(pilot) == [second, first, paused]
        may_move.set()
        await until(pilot, lambda: order(store) == [second, first])

    play("queue", script)


def test_the_run_at_work_says_how_far_it_is(store):
    first = add(store, "scheduler.steps=4")
    lock, _ = begin(store)
    steps = [StepFinished(step, 4, 0.9, 900, 2.0) for step in (1, 2)]
    store.append(first, [PlanMade(0, 4, {"denoise": "compute"}), StageStarted("denoise"), *steps])

    async def script(pilot):
        await until(pilot, lambda: "2/4 50%, ~0:04 left" in shown(pilot.app.screen, "#summary"))
        assert "2/4 50%" in listing(pilot)._told[0].cells

    with lock:
        play("queue", script)


def test_cancel_asks_first(store):
    first = add(store)
    lock, _ = begin(store)

    async def script(pilot):
        await filled(pilot, 1)
        await pilot.press("x", "escape")
        await pilot.pause()
        assert not store.run(first).cancel_requested
        await pilot.press("x", "y")
        await until(pilot, lambda: store.run(first).cancel_requested)

    with lock:
        play("queue", script)


def test_edit_puts_a_run_into_the_form_and_out_of_the_queue(store):
    first, second = add(store, "seed=11"), add(store, "seed=12", prompt="a blue star")
    expected = decode_spec(store.run(second).spec_json)

    async def script(pilot):
        await filled(pilot, 2)
        given = []
        screen = pilot.app.get_screen_stack("queue")[0]
        original = Compose.load_run

        def load_run(form, spec, preset, field):
            given.append((spec, preset))
            return original(form, spec, preset, field)

        Compose.load_run = load_run
        try:
            await pilot.press("j", "enter")
            await until(pilot, lambda: order(store) == [first], "it to leave the queue")
        finally:
            Compose.load_run = original
        assert given == [(expected, "micro")]
        assert isinstance(pilot.app.screen, Compose)
        await pilot.app.switch_mode("queue")
        await pilot.press("u")
        await until(pilot, lambda: order(store) == [first, second])
        assert pilot.app.screen is screen

    play("queue", script)


@pytest.mark.defect
def test_a_run_is_not_lost_when_the_form_fails(store, monkeypatch):
    first = add(store)

    def fails(form, spec, preset, field):
        raise RuntimeError("the form is broken")

    monkeypatch.setattr(Compose, "load_run", fails)

    async def script(pilot):
        await filled(pilot, 1)
        await pilot.press("e")
        await until(pilot, lambda: notices(pilot.app))
        assert "the form is broken" in notices(pilot.app)[0]
        await pilot.pause()
        assert [record.id for record in store.queued()] == [first]

    play("queue", script)
    assert order(store) == [first]


def test_a_branch_is_not_edited_but_told_about(store):
    parent = add(store)
    store.request_cancel(parent)
    spec_json = store.run(parent).spec_json
    child = add(store, parent=parent, parent_step=2, segments=[Segment(2, spec_json)])

    async def script(pilot):
        await filled(pilot, 1)
        await until(pilot, lambda: f"after step 2 of {parent}" in shown(pilot.app.screen, "#about"))
        await pilot.press("e")
        await until(pilot, lambda: notices(pilot.app))

    play("queue", script)
    assert order(store) == [child]


def test_a_run_that_has_begun_meanwhile_is_not_cancelled_by_delete(store):
    first = add(store)

    async def script(pilot):
        screen = pilot.app.screen
        assert isinstance(screen, Queue)
        await filled(pilot, 1)
        row = screen._rows[0]
        with begin(store)[0]:
            screen._change(screen._drop(row))
            await until(pilot, lambda: any("has begun" in each for each in notices(pilot.app)))
            assert not store.run(first).cancel_requested

    play("queue", script)


def test_what_another_process_changes_is_shown_and_the_cursor_stays(store):
    first, second = add(store), add(store)

    async def script(pilot):
        await filled(pilot, 2)
        await pilot.press("j")
        third = add(store)
        await filled(pilot, 3)
        store.reorder(third, first)
        await until(pilot, lambda: ids(pilot) == [third, first, second], "the new order")
        assert listing(pilot).current == second

    play("queue", script)


def test_no_size_breaks_it(store):
    add(store)

    async def script(pilot):
        await filled(pilot, 1)
        for size in ((20, 5), (8, 3), (200, 60)):
            await pilot.resize_terminal(*size)
            await pilot.pause()

    play("queue", script)
