"""The palette: what applies now, every screen, every preset, the recent runs."""

from __future__ import annotations

import os
import threading

import pytest
from textual.command import CommandPalette
from textual.css.query import NoMatches
from textual.events import Key
from textual.widgets import Input, OptionList

from engine.process.version import installed_version
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from presets.library.saving import save_preset
from store.store import open_store
from tests.terminals.opened import WAIT_SECONDS
from tests.unit.tui.opened_app import play, until
from tui.app import palette
from tui.app.app import ModiffApp
from tui.app.dialogs.picker import Picker
from tui.app.top_line import TABS
from tui.describe.runs.finding.filter import Search
from tui.describe.runs.run import found_rows


@pytest.fixture(autouse=True)
def engine_starts(monkeypatch):
    asked = []
    monkeypatch.setattr(ModiffApp, "ensure_engine", lambda app: asked.append(1))
    return asked


@pytest.fixture(autouse=True)
def store(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tui.app.app.ACT_SECONDS", 120.0)  # on a busy machine
    with open_store() as opened:
        yield opened


def add(store, prompt="a red circle"):
    spec = load_preset("micro", values={"prompt": prompt})
    return store.enqueue(encode_spec(spec), preset="micro", output="/v/{run}.mp4")


def names(app):
    return [command.name for command in palette.actions(app, app.screen)]


def test_what_applies_now_and_nothing_else(store):
    add(store)

    async def script(pilot):
        await until(pilot, lambda: "queue: Remove" in names(pilot.app))
        told = names(pilot.app)
        assert "engine: Start" in told
        assert "engine: Stop" not in told
        assert not {"queue: Pause", "queue: Undo", "panel: Cursor up"} & set(told)
        assert {f"open: {name}" for _, name, _ in TABS.values()} <= set(told)
        assert told.index("queue: Remove") < told.index("open: Compose")
        assert {  # what every screen does is found from anywhere
            "runs: Branch",
            "live: Cancel",
            "store: Plan clean-up",
            "components: Doctor",
        } <= {*told}
        assert not {"store: Pin", "runs: Mark", "components: Panel before"} & {*told}
        with store.register_engine("engine1", pid=os.getpid(), version=installed_version()):
            await until(pilot, lambda: "engine: Stop" in names(pilot.app))
            assert "engine: Start" not in names(pilot.app)

    play("queue", script)


def test_every_preset_and_the_recent_runs(store):
    save_preset("mine", load_preset("micro"), extends="micro")
    run_id = add(store, prompt="a \x1b[31mstar")

    async def script(pilot):
        told = {each.name: each.help for each in await palette.found_commands(pilot.app)}
        assert {"compose: use preset micro", "compose: use preset mine"} <= set(told)
        assert "a \\x1b[31mstar" in told[f"runs: open {run_id}"]

    play("store", script)


def test_runs_of_one_prompt_are_told_apart(store):
    for seed in (1, 2):
        spec = load_preset("micro", values={"seed": seed, "prompt": "a red circle"})
        store.enqueue(encode_spec(spec), preset="micro", output="")
    newer, older = found_rows(store, Search(), 2)
    now_ns = older.record.created_ns + 5 * 60 * 10**9
    assert palette.about_run(older, now_ns) == "queued, 5 min ago, micro, seed 1: a red circle"
    told = palette.about_run(newer, newer.record.created_ns)
    assert told == "queued, just now, micro, seed 2: a red circle"


def test_a_preset_whose_models_are_not_here_says_so(store, monkeypatch):
    monkeypatch.setattr(palette, "MARK_SECONDS", WAIT_SECONDS)

    async def script(pilot):
        told = {each.name: each.help for each in await palette._presets(pilot.app)}
        assert told["compose: use preset wan2.1-t2v-14b"].endswith("✖ 69.04 GB to get")
        assert "✖" not in told["compose: use preset micro"]

    play("store", script)


def test_what_people_wrote_is_no_markup(store):
    prompt = "a star [/red] \\[b] [@click=app.exit]here[/]"
    add(store, prompt=prompt)

    async def script(pilot):
        await pilot.press("ctrl+p")
        found = pilot.app.screen.query_one(OptionList)

        def is_told():
            return any(prompt in str(option.prompt) for option in found.options)

        await until(pilot, is_told)
        await pilot.press(*("r", "e", "d", "space", "h", "e", "r", "e"))  # the same by searching
        await until(pilot, lambda: found.option_count < 5 and is_told())

    play("store", script)


def test_keys_of_the_app_are_told_as_they_are(store):
    async def script(pilot):
        told = {each.name: each.help for each in palette.actions(pilot.app, pilot.app.screen)}
        keys = {each.id: each.key for each in ModiffApp.BINDINGS}
        assert told["app: Jump"].endswith(f"(key {keys['app.jump']})")
        assert told["app: Copy the last error"].endswith(f"(key {keys['app.copy_error']})")

    play("store", script)


def test_enter_again_and_again(store):
    async def script(pilot):
        await pilot.press("ctrl+p")
        found = pilot.app.screen.query_one(OptionList)
        await pilot.press(*"open: live")
        await until(pilot, lambda: found.option_count and found.highlighted is not None)
        for _ in range(3):  # faster than Textual leaves the palette
            pilot.app.post_message(Key("enter", "\r"))
        await until(pilot, lambda: type(pilot.app.screen).__name__ == "Live")

    play("store", script)


def test_a_store_that_does_not_answer_costs_runs_not_presets(monkeypatch):
    go_on = threading.Event()

    async def presets(_app):
        return [palette.Command("compose: use preset micro", "", lambda: None)]

    monkeypatch.setattr(palette, "found_rows", lambda *_: go_on.wait(60))
    monkeypatch.setattr(palette, "WAIT_SECONDS", 0.5)
    monkeypatch.setattr(palette, "_presets", presets)

    async def script(pilot):
        told = [each.name for each in await palette.found_commands(pilot.app)]
        assert "compose: use preset micro" in told
        assert not [name for name in told if name.startswith("runs:")]
        go_on.set()

    play("store", script)


async def choose(pilot, typed):
    """Open the palette, type, and take the first that is offered."""
    await pilot.press("ctrl+p")
    await until(pilot, lambda: isinstance(pilot.app.screen, CommandPalette))
    listed = pilot.app.screen.query_one(OptionList)
    pilot.app.screen.query_one(Input).value = typed

    def is_first():
        return listed.option_count and typed in str(listed.get_option_at_index(0).prompt)

    await until(pilot, is_first, typed)
    await pilot.press("enter")
    await until(pilot, lambda: not isinstance(pilot.app.screen, CommandPalette))


def test_an_action_is_carried_out(store):
    first, second = add(store), add(store)

    async def script(pilot):
        await until(pilot, lambda: "queue: Remove" in names(pilot.app))
        await choose(pilot, "queue: Remove")
        await until(pilot, lambda: [each.id for each in store.queued()] == [second])
        await choose(pilot, "open: Store")
        await until(pilot, lambda: pilot.app.current_mode == "store")

    play("queue", script)
    assert store.run(first).status == "cancelled"


def test_a_preset_goes_into_the_form_and_a_run_into_the_list(store, monkeypatch):
    run_id = add(store)
    given = []
    monkeypatch.setattr(
        ModiffApp, "compose_with", lambda app, asked: given.append((asked.spec, asked.preset))
    )
    monkeypatch.setattr(ModiffApp, "show_run", lambda app, run: given.append(run))

    async def script(pilot):
        await choose(pilot, "compose: use preset micro")
        await until(pilot, lambda: given == [(load_preset("micro"), "micro")])
        await choose(pilot, f"runs: open {run_id}")
        await until(pilot, lambda: given[1:] == [run_id])

    play("store", script)


def command(name, help_text=""):
    return palette.Command(name, help_text, lambda: None)


def test_names_go_before_helps_and_scattered_letters_fit_nothing():
    export, remove = (
        command("runs: Export a bundle", "key X"),
        command("runs: Remove", "key delete"),
    )
    preset = command("compose: use preset wan2.1-t2i-14b", "an export of a model")
    assert palette.fit(["export"], export) > palette.fit(["export"], preset) > 0
    assert palette.fit(["delete"], remove) > 0
    assert palette.fit(["delete"], preset) == 0
    assert palette.fit(["exbu"], export) == 0
    assert palette.fit(["bundle", "runs"], export) > palette.fit(["undle"], export)


def test_an_action_of_another_screen_asks_for_which_run(store):
    first, second = add(store), add(store)

    async def script(pilot):
        await choose(pilot, "runs: Pin or unpin")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press(*first[:6], "enter")
        await until(pilot, lambda: store.run(first).pinned)
        assert pilot.app.current_mode == "runs"
        await pilot.app.switch_mode("store")
        pilot.app.show_run(second)
        await until(pilot, lambda: pilot.app.current_mode == "runs")
        runs = pilot.app.get_screen_stack("runs")[0].runs
        await until(pilot, lambda: runs.current is not None and runs.current.record.id == second)

    play("store", script)
    assert not store.run(second).pinned


def test_a_palette_that_fails_while_it_is_closed_ends_nothing(store, monkeypatch):
    missed = []

    def miss(*_):
        missed.append(1)
        raise NoMatches("it is being closed")

    monkeypatch.setattr(palette.Palette, "_refresh_command_list", miss)

    async def script(pilot):
        await pilot.press("ctrl+p")
        await until(pilot, lambda: isinstance(pilot.app.screen, palette.Palette))
        await until(pilot, lambda: missed)
        closed = pilot.app.screen
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(pilot.app.screen, palette.Palette))
        await until(pilot, lambda: not closed.is_attached)
        closed._show_busy = closed._list_visible = True  # as a search does that goes on
        closed._watch__show_busy()

    play("queue", script)
