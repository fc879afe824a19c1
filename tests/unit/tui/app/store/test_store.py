"""The store screen: what takes space, pins, a clean-up that is read before it is done, verifying."""

from __future__ import annotations

import threading

import pytest
from textual.events import Key
from textual.widgets import Input, Static

from store.blobs import blobs
from store.store import open_store
from store.upkeep.gc import writing
from store.upkeep.removal import Policy
from tests.stores.made_stores import make_run, on_disk
from tests.unit.tui.opened_app import NARROW, notices, play, shown, until
from tui import units
from tui.app.app import ModiffApp
from tui.app.dialogs.ask import Choose, Confirm
from tui.app.lab import Lab
from tui.app.store import screen
from tui.app.store.clean_up import CleanUp
from tui.app.store.usage import largest, shares
from tui.app.widgets.listing import Listing
from tui.describe.runs.run import prompt_of
from tui.describe.space import overview_lines, space


@pytest.fixture
def store():
    with open_store() as opened:
        yield opened


def rows(pilot):
    return pilot.app.screen.query_one(Listing)._told


def cells(pilot):
    return [row.cells for row in rows(pilot)]


def report(pilot):
    return shown(pilot.app.get_screen_stack("store")[0], "#lines")


async def filled(pilot):
    await until(pilot, lambda: rows(pilot), "rows")


def test_by_run_by_kind_by_age(store):
    made = make_run(store, "micro", num_steps=4)
    make_run(store, "other", num_steps=2, parent=made, at=1, age_days=10)

    async def script(pilot):
        await filled(pilot)
        prompts = {run.id: prompt_of(run) for run in store.runs(limit=9)}
        assert {row.key: row.cells[-1] for row in rows(pilot)} == prompts
        assert prompts[made.id]
        await pilot.press("t")
        await until(pilot, lambda: ("prompts", "2") in [each[:2] for each in cells(pilot)])
        await pilot.press("t")
        await until(pilot, lambda: "in the last day" in [each[0] for each in cells(pilot)])
        assert "in the last month" in [each[0] for each in cells(pilot)]
        await pilot.press("t")
        await until(pilot, lambda: made.id in [each[0] for each in cells(pilot)])
        await pilot.click("#kind")
        await until(pilot, lambda: "videos" in [each[0] for each in cells(pilot)])

    play("store", script, size=NARROW)


def test_p_pins_and_unpins_and_enter_shows_the_run_in_the_list_of_runs(store, monkeypatch):
    made = make_run(store, "micro")
    asked = []
    monkeypatch.setattr(ModiffApp, "show_run", lambda app, run_id: asked.append(run_id))

    async def script(pilot):
        await filled(pilot)
        await pilot.press("p")
        await until(pilot, lambda: "◆ pinned" in cells(pilot)[0])
        assert store.run(made.id).pinned
        await pilot.press("p")
        await until(pilot, lambda: "◆ pinned" not in cells(pilot)[0])
        await pilot.press("enter")
        await until(pilot, lambda: asked == [made.id])

    play("store", script)
    assert not store.run(made.id).pinned


def test_a_plan_removes_nothing_until_it_is_agreed_to(store):
    make_run(store, "micro", num_steps=4)
    before = on_disk(store)

    async def script(pilot):
        await filled(pilot)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(pilot.app.screen, CleanUp))
        await until(pilot, lambda: "nothing to remove" in shown(pilot.app.screen, "#lines"))
        await pilot.press("0")
        await until(pilot, lambda: "would free" in shown(pilot.app.screen, "#lines"))
        await pilot.press("escape")
        await pilot.pause()
        assert "would free" in report(pilot)
        assert on_disk(store) == before
        await pilot.press("C")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("escape")
        await pilot.pause()
        assert on_disk(store) == before
        await pilot.press("C")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: "freed" in report(pilot))

    play("store", script)
    assert len(on_disk(store)) == len(before) - 4


def test_what_is_typed_behind_the_key_of_a_clean_up_waits_for_it(store, monkeypatch):
    make_run(store, "micro")
    go_on = threading.Event()
    original = screen.space_of

    def slow(*given):
        go_on.wait(60)
        return original(*given)

    monkeypatch.setattr(screen, "space_of", slow)

    async def script(pilot):
        for key in ("c", "2"):
            pilot.app.post_message(Key(key, key))
        await pilot.pause(0.05)
        go_on.set()
        await until(pilot, lambda: isinstance(pilot.app.screen, CleanUp))
        budget = pilot.app.screen.query_one("#budget", Input)
        await until(pilot, lambda: budget.value == "2")

    play("store", script)


def test_applied_in_the_plan_with_outputs(store):
    made = make_run(store, "micro", num_steps=2)
    kept = make_run(store, "kept", num_steps=2, pinned=True)

    async def script(pilot):
        await filled(pilot)
        await pilot.press("c", "0", "tab", "tab", "space")
        await until(pilot, lambda: "videos" in shown(pilot.app.screen, "#lines"))
        assert "pinned" in shown(pilot.app.screen, "#lines")  # more stays than was asked for
        await pilot.press("f5")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("right", "enter")
        await until(pilot, lambda: "freed" in report(pilot))

    play("store", script)
    left = on_disk(store)
    assert not {made.video, made.latents, *made.steps} & left
    assert {kept.video, kept.latents, *kept.steps} <= left


def test_amounts_are_those_of_the_command_line(store):
    make_run(store, "micro", age_days=40)

    async def script(pilot):
        await filled(pilot)
        await pilot.press("c", *"lots")
        await until(pilot, lambda: "is not a size" in shown(pilot.app.screen, "#problem"))
        await pilot.press("f5")  # of a plan that is not there
        assert isinstance(pilot.app.screen, CleanUp)
        await pilot.press("ctrl+u", "tab", *"30d")
        await until(pilot, lambda: "would free" in shown(pilot.app.screen, "#lines"))
        assert not shown(pilot.app.screen, "#problem")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(pilot.app.screen, CleanUp))
        assert pilot.app.screen._policy == Policy(None, 30 * 86_400 * 10**9, False)

    play("store", script)


def test_a_clean_up_while_a_run_writes_is_refused_and_told(store):
    make_run(store, "micro")
    before = on_disk(store)

    async def script(pilot):
        await filled(pilot)
        await pilot.press("c", "0")
        await until(pilot, lambda: "would free" in shown(pilot.app.screen, "#lines"))
        with writing(store.root):
            await pilot.press("f5", "y")
            await until(pilot, lambda: notices(pilot.app))
        assert "✖" in report(pilot)

    play("store", script)
    assert on_disk(store) == before


def test_verifying_tells_the_verdict(store):
    made = make_run(store, "micro")

    async def script(pilot):
        await filled(pilot)
        await pilot.press("V")
        await until(pilot, lambda: "✓" in report(pilot))
        path = blobs.blob_path(store.root, made.steps[0])
        path.chmod(0o600)
        path.write_bytes(b"damaged")
        await pilot.press("V")
        await until(pilot, lambda: "✖" in report(pilot))
        assert made.steps[0] in report(pilot)

    play("store", script)


def test_verifying_goes_on_beside_everything_else_and_stops_when_asked(store, monkeypatch):
    make_run(store, "micro")
    at_work, go_on = threading.Event(), threading.Event()

    def verify(_lineage, on_progress):
        on_progress(1, 100)
        at_work.set()
        assert go_on.wait(120)
        on_progress(2, 100)
        raise AssertionError("it was not stopped")

    monkeypatch.setattr("store.upkeep.verify.verify", verify)

    async def script(pilot):
        await filled(pilot)
        await pilot.press("V")
        await until(pilot, at_work.is_set)
        await until(pilot, lambda: "1 %" in report(pilot))
        await pilot.press("t")
        await until(pilot, lambda: "videos" in [each[0] for each in cells(pilot)])
        await pilot.press("V")
        go_on.set()
        await until(pilot, lambda: "Not everything was read" in report(pilot))

    play("store", script)


def test_leaving_stops_the_verifying(store, monkeypatch):
    make_run(store, "micro")
    at_work, ended = threading.Event(), threading.Event()

    def verify(_lineage, on_progress):
        at_work.set()
        try:
            while not ended.wait(0.01):
                on_progress(1, 100)
        finally:
            ended.set()

    monkeypatch.setattr("store.upkeep.verify.verify", verify)

    async def script(pilot):
        await filled(pilot)
        await pilot.press("V")
        await until(pilot, at_work.is_set)

    play("store", script)
    assert ended.wait(120)


def test_an_empty_store_teaches(store):
    async def script(pilot):
        screen = pilot.app.screen
        await until(pilot, lambda: screen.query_one("#nothing").display)
        assert "Compose" in shown(screen, "#nothing Static")
        await pilot.press("p", "enter", "o", "C")

    play("store", script)


@pytest.mark.defect
def test_what_keeps_it_from_being_read_is_said(store, monkeypatch):
    make_run(store, "micro")

    def fails(_store):
        raise OSError(28, "No space left on device")

    async def script(pilot):
        await filled(pilot)
        monkeypatch.setattr("tui.app.store.screen.space_of", fails)
        await pilot.press("r")
        await until(pilot, lambda: "No space left" in shown(pilot.app.screen, "#problem"))
        monkeypatch.undo()

    play("store", script)


@pytest.mark.parametrize(
    "sizes", [[1], [5, 5], [1, 1_000_000, 3], [7, 0, 1], [10**12, 1, 1, 1, 1, 1]]
)
def test_the_bar_is_filled_and_every_part_is_seen(sizes):
    for width in (6, 7, 80, 200):
        cells = shares(sizes, width)
        assert sum(cells) == width
        assert min(cells) >= 1


def test_no_size_breaks_it(store):
    make_run(store, "micro")

    async def script(pilot):
        await filled(pilot)
        for size in ((20, 5), (8, 3), (200, 60)):
            await pilot.resize_terminal(*size)
            await pilot.pause()

    play("store", script)


def test_a_bundle_comes_in(monkeypatch, tmp_path):
    bundle, asked = tmp_path / "fox.modiff", []
    bundle.write_bytes(b"x")
    monkeypatch.chdir(tmp_path)

    async def command(lab, *arguments):
        asked.append(arguments)
        return {
            "runs": [{"run": "k3f", "bundled_run": "q7a", "new": True}],
            "new_blobs": 3,
            "new_bytes": 2048,
            "new_links": 5,
            "differing_links": 0,
        }

    monkeypatch.setattr(Lab, "command", command)

    async def script(pilot):
        await pilot.press("i", *"no")
        dialog = pilot.app.screen
        await until(pilot, lambda: "no file" in str(dialog.query_one(".error", Static).content))
        await pilot.press("backspace", "backspace", "f", "o")
        await until(pilot, lambda: dialog.query_one(Input)._suggestion == "fox.modiff")
        await pilot.press("right", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choose))
        assert "nobody can check that" in str(pilot.app.screen.query(Static).first().content)
        await pilot.press("right", "enter")
        await until(pilot, lambda: "run q7a is another one here; it is now k3f" in report(pilot))
        assert "other runs reuse 5 results of this bundle" in report(pilot)

    play("store", script)
    assert asked == [("store", "import", str(bundle), "--trust")]


def test_the_sizes_are_those_of_the_command_line(store):
    make_run(store, "micro", num_steps=4)
    overview = space(store).overview
    told = [line.split() for line in overview_lines(overview)]
    for name, num_bytes in largest(overview):
        rows = [words for words in told if " ".join(words).startswith(f"{name} ")]
        if name == "the rest":
            continue
        assert [words[-2:] for words in rows] == [units.size(num_bytes).split()], name
    assert "database" in dict(largest(overview))
    assert sum(dict(largest(overview)).values()) == overview.num_bytes
