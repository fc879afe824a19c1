"""The runs screen: found, looked into, gone on with. Runs are rows of a real store; no engine is there."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from engine import client
from presets.encoding import decode_spec
from store.lineage.records import RunRecord, Segment
from store.store import Store
from tests.stores.recorded_runs import Recorded, micro, record_run, wave
from tests.terminals.opened import opened
from tests.unit.tui.opened_app import NARROW, WIDE, until
from tui.app.app import ModiffApp
from tui.app.desktop import CannotOpen
from tui.app.dialogs.ask import Ask, Choose, Confirm
from tui.app.lab import Lab
from tui.app.preferences import Preferences
from tui.app.run_view.player import Player
from tui.app.run_view.timeline import Timeline
from tui.app.run_view.view import RunView
from tui.app.runs.branch import Branch
from tui.app.runs.compare import Compare
from tui.app.runs.details import RunDetails
from tui.app.runs.list import RunList, table
from tui.app.runs.tree import RunTree
from tui.app.widgets.listing import Listing, Row
from tui.describe.runs.detail import Detail, detail

STAR, CIRCLE = 'prompt="a red star"', 'prompt="a blue circle"'

Script = Callable[[Pilot[int]], Awaitable[None]]


def branch_of(store, parent: Recorded, *overrides: str, at: int = 2) -> Recorded:
    segment = Segment(at, store.run(parent.id).spec_json)
    spec = micro(STAR, *overrides)
    made = record_run(store, spec, shared=parent, stop=at, segments=[segment], seed=1)
    store.lineage.db.execute("UPDATE runs SET parent_step=? WHERE id=?", [at, made.id])
    store.lineage.db.conn.commit()
    return made


def play(
    script: Script,
    *,
    size: tuple[int, int] = WIDE,
    runs_filter: str = "",
    runs_view: Literal["table", "tree"] = "table",
) -> Preferences:
    """Run the app on its runs screen; what it would remember."""
    preferences = Preferences(screen="runs", runs_filter=runs_filter, runs_view=runs_view)

    async def run() -> None:
        async with ModiffApp(preferences=preferences).run_test(size=size) as pilot:
            await opened(pilot)
            await until(pilot, lambda: list_of(pilot).query_one("#found", Static).content != "")
            await script(pilot)

    asyncio.run(run())
    return preferences


def list_of(pilot: Pilot[int]) -> RunList:
    return pilot.app.screen_stack[0].query_one(RunList)


def current(pilot: Pilot[int]) -> str:
    row = list_of(pilot).current
    return row.record.id if row else ""


def table_of(pilot: Pilot[int]) -> tuple[Row, ...]:
    return list_of(pilot).query_one(Listing)._told


def summary(pilot: Pilot[int]) -> str:
    detail = pilot.app.screen_stack[0].query_one(RunDetails).detail
    return detail.record.id if detail else ""


def told(pilot: Pilot[int]) -> str:
    return "\n".join(f"{note.title}: {note.message}" for note in pilot.app._notifications)


async def type_(pilot: Pilot[int], text: str) -> None:
    field = pilot.app.focused
    assert isinstance(field, Input)
    field.value = text
    await pilot.pause()


# The list


def test_the_list_is_filtered_and_the_filter_remembered(store):
    star = record_run(store, micro(STAR)).id
    circle = record_run(store, micro(CIRCLE)).id

    async def script(pilot):
        runs = list_of(pilot)
        assert current(pilot) == circle
        await pilot.press("slash", *"pre")
        await until(pilot, lambda: pilot.app.focused._suggestion == "preset:")
        await pilot.press("right", *"mi")
        await until(pilot, lambda: pilot.app.focused._suggestion == "preset:micro")
        await pilot.press("right")
        assert pilot.app.focused.value == "preset:micro"
        await type_(pilot, "status:x")
        problem = runs.query_one("#problem", Static)
        await until(pilot, lambda: problem.display)
        assert "none of queued" in str(problem.content)
        assert current(pilot) == circle
        await type_(pilot, "status:")
        await until(pilot, lambda: not problem.display)
        await type_(pilot, "star")
        await until(pilot, lambda: current(pilot) == star)
        assert str(runs.query_one("#found", Static).content).strip() == "1 of 2 runs"
        await pilot.press("escape", "m")  # back in the list, letters are keys again
        assert runs.marks == [star]

    assert play(script).runs_filter == "star"


def test_a_tree_of_the_last_time_and_g_goes_to_its_first(store):
    runs = [record_run(store, micro(STAR, f"seed={seed}")).id for seed in range(3)]

    async def script(pilot):
        assert list_of(pilot).query_one(RunTree).display
        assert "branches" in str(list_of(pilot).border_title)
        list_of(pilot).focus_list()
        for _ in range(2):  # in the tree, and in the table
            await pilot.press("end")
            await until(pilot, lambda: list_of(pilot).current.record.id == runs[0])
            await pilot.press("g")
            await until(pilot, lambda: list_of(pilot).current.record.id == runs[-1])
            await pilot.press("t")
        assert list_of(pilot).is_in_tree

    assert play(script, runs_view="tree").runs_view == "tree"


def test_what_keeps_the_list_from_being_read_goes_when_it_is_over(store, tmp_path):
    record_run(store, micro(STAR))

    async def script(pilot):
        problem = list_of(pilot).query_one("#problem", Static)
        store.root.rename(tmp_path / "away")
        await until(pilot, lambda: "no longer at" in str(problem.content))
        (tmp_path / "away").rename(store.root)
        await until(pilot, lambda: not problem.display)

    play(script)


def test_table_and_tree_have_one_cursor(store):
    first = record_run(store, micro(STAR))
    below = branch_of(store, first, "guidance.scale=4")
    record_run(store, micro(CIRCLE))

    async def script(pilot):
        await pilot.press("j")
        assert current(pilot) == below.id
        await pilot.press("t")
        await until(pilot, lambda: isinstance(pilot.app.focused, RunTree))
        assert current(pilot) == below.id
        tree = pilot.app.screen.query_one(RunTree)
        assert "@2 guidance 2.5→4" in str(tree.cursor_node.label)
        await pilot.press("m")
        assert str(tree.cursor_node.label).startswith("[A] ✓ ")
        await pilot.press("k")
        assert current(pilot) == first.id
        await pilot.press("t")
        assert current(pilot) == first.id
        assert isinstance(pilot.app.focused, Listing)

    play(script)


def test_a_table_that_was_hidden_has_the_columns_of_its_width(store):
    record_run(store, micro("seed=1", "guidance.scale=4"))
    record_run(store, micro("seed=2"))

    async def script(pilot):
        listing = list_of(pilot).query_one(Listing)
        await until(pilot, lambda: current(pilot))
        await pilot.press("t")
        await until(pilot, lambda: list_of(pilot).query_one("#table").size.width > 0)
        await pilot.pause()
        shown = [list_of(pilot)._rows[run_id] for run_id in list_of(pilot)._fitting]
        columns, _ = table(shown, (), 0, listing.size.width)
        assert tuple(listing._wanted) == tuple(columns)

    play(script, size=(150, 40), runs_view="tree")


def test_parents_that_do_not_fit_are_in_the_tree_only(store):
    first = record_run(store, micro(STAR))
    below = branch_of(store, first)
    store.tag(below.id, ["keep"])

    async def script(pilot):
        assert [row.key for row in table_of(pilot)] == [below.id]  # by the filter of the last time
        await pilot.press("k")
        assert current(pilot) == below.id
        await pilot.press("t", "k")
        assert current(pilot) == first.id

    play(script, runs_filter="tag:keep")


def test_ages_grow_with_the_minutes(store, monkeypatch):
    run_id = record_run(store, micro(STAR)).id

    def lines(pilot):
        detail_table = pilot.app.screen.query_one("#summary-lines", Static).content
        return [str(cell) for column in detail_table.columns for cell in column.cells]

    async def script(pilot):
        await until(pilot, lambda: summary(pilot) == run_id)
        assert "now" in table_of(pilot)[0].cells
        assert not any("3 h" in line for line in lines(pilot))
        then = time.time_ns() + 3 * 3600 * 10**9
        monkeypatch.setattr(time, "time_ns", lambda: then)
        screen = pilot.app.screen
        await screen.look().wait()
        await until(pilot, lambda: "3 h" in table_of(pilot)[0].cells)
        await until(pilot, lambda: any("3 h" in line for line in lines(pilot)))

    play(script)


def test_esc_takes_the_marks_and_says_so(store):
    for _ in range(2):
        record_run(store, micro())

    async def script(pilot):
        await until(pilot, lambda: current(pilot))
        await pilot.press("m", "j", "m")
        assert len(list_of(pilot).marks) == 2
        assert "no run is marked any more" not in told(pilot)
        await pilot.press("escape")
        assert list_of(pilot).marks == []
        await until(pilot, lambda: "no run is marked any more" in told(pilot))

    play(script)


def test_the_cursor_stays_on_its_run_when_others_come(store):
    old, new = record_run(store, micro()).id, record_run(store, micro()).id

    async def script(pilot):
        await pilot.press("j")
        assert current(pilot) == old
        newer = record_run(store, micro(CIRCLE)).id
        await until(pilot, lambda: newer in [row.record.id for row in list_of(pilot).rows])
        assert current(pilot) == old
        store.remove([old])
        await until(pilot, lambda: current(pilot) == new)

    play(script)


def test_no_runs(store):
    async def script(pilot):
        assert "no runs yet" in str(list_of(pilot).query_one("#empty Static", Static).content)
        await pilot.press(*"tmdbrRoVpTnlXy", "delete", "enter", "escape")
        assert not told(pilot)
        await pilot.press("slash", "x")
        empty = list_of(pilot).query_one("#empty Static", Static)
        await until(pilot, lambda: "no run fits" in str(empty.content))
        await pilot.press("escape")
        assert list_of(pilot).query_one(Input).value == ""  # no list to go back to

    play(script)


# The details


def test_details_and_panels_follow_the_cursor(store):
    old, new = record_run(store, micro(STAR)).id, record_run(store, micro(CIRCLE)).id

    async def script(pilot):
        await until(pilot, lambda: summary(pilot) == new)
        await pilot.press("j")
        await until(pilot, lambda: summary(pilot) == old)
        toml = pilot.app.screen.query_one("#toml", Static)
        assert 'prompt = "a red star"' in str(toml.content)
        await pilot.press("right_square_bracket")
        view = pilot.app.screen.query_one(RunView)
        await until(pilot, lambda: view.query_one("#run").border_title == old)
        await pilot.press("enter")
        assert isinstance(pilot.app.focused, Timeline)

    play(script)


def test_on_a_narrow_screen_enter_opens_and_esc_returns(store):
    record_run(store, micro())

    async def script(pilot):
        runs, details = list_of(pilot), pilot.app.screen.query_one(RunDetails)
        assert runs.display
        assert not details.display
        await pilot.press("enter")
        await pilot.pause()
        assert (runs.display, details.display) == (False, True)
        await pilot.press("escape")
        await pilot.pause()
        assert (runs.display, details.display) == (True, False)
        assert runs.has_list_focus

    play(script, size=NARROW)


# What is done with runs


def test_one_key_resumes_what_is_not_done_and_what_is_done_is_replayed(store, started):
    record_run(store, micro())
    stopped = ("cancelled", "failed", "paused", "interrupted")
    *_, last = (record_run(store, micro(), status=status).id for status in stopped)

    def keys(pilot) -> set[str]:
        return {"r", "R", "V", "o"} & set(pilot.app.screen.active_bindings)

    async def script(pilot):
        for status in reversed(stopped):
            await until(pilot, lambda status=status: list_of(pilot).current.record.status == status)
            await until(pilot, lambda: keys(pilot) == {"r"})
            await pilot.press("j")
        await until(pilot, lambda: keys(pilot) == {"R", "V", "o"})
        assert not started
        await pilot.press("g", "r")
        await until(pilot, lambda: started == ["engine"])
        assert store.run(last).status == "queued"
        assert pilot.app.watched_run == last

    play(script)


@pytest.mark.defect
def test_pin_tags_note_and_stars(store, monkeypatch):
    run_id = record_run(store, micro()).id

    def fail(*_: object) -> None:
        raise RuntimeError("by the test")

    async def script(pilot):
        await pilot.press("p")
        await until(pilot, lambda: store.run(run_id).pinned)
        await until(pilot, lambda: list_of(pilot).current.record.pinned)
        await pilot.press("p")
        await until(pilot, lambda: not store.run(run_id).pinned)
        for tags in ("a!b", "keep, client/acme"):
            await pilot.press("T")
            await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
            await type_(pilot, tags)
            await pilot.press("enter")
            if tags == "a!b":  # is none
                await until(pilot, lambda: "a!b" in told(pilot))
                assert store.tags_of([run_id])[run_id] == ()
        await until(pilot, lambda: set(store.tags_of([run_id])[run_id]) == {"keep", "client/acme"})
        await pilot.press("n")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        await type_(pilot, "too bright")
        await pilot.press("enter")
        await until(pilot, lambda: store.run(run_id).note == "too bright")
        await pilot.press("*", "4")
        await until(pilot, lambda: store.run(run_id).rating == 4)
        await until(pilot, lambda: any("★★★★" in row.cells for row in table_of(pilot)))
        assert pilot.app.current_mode == "runs"  # 4 is a screen elsewhere
        await pilot.press("*", "0")
        await until(pilot, lambda: store.run(run_id).rating == 0)
        await pilot.press("*", "escape")
        await pilot.pause()
        assert store.run(run_id).rating == 0
        monkeypatch.setattr(Store, "pin", fail)
        await pilot.press("p")
        await until(pilot, lambda: "by the test" in told(pilot))
        await pilot.press("m")  # the screen goes on
        assert list_of(pilot).marks

    play(script)


def test_after_a_launch_the_list_has_the_keys_and_the_new_run(store, started):
    old = record_run(store, micro(STAR))

    async def script(pilot):
        await pilot.press("enter")  # into the details
        await until(pilot, lambda: not list_of(pilot).has_list_focus)
        await pilot.press("2")
        await until(pilot, lambda: pilot.app.current_mode == "live")
        new = record_run(store, micro(CIRCLE))
        await until(pilot, lambda: pilot.app.status and pilot.app.status.newest_run == new.id)
        await pilot.press("3")
        await until(pilot, lambda: list_of(pilot).has_list_focus and current(pilot) == new.id)
        await pilot.press("j")
        assert current(pilot) == old.id
        await pilot.press("2", "3")  # nothing is new: where one was
        await until(pilot, lambda: list_of(pilot).has_list_focus)
        assert current(pilot) == old.id

    play(script)


def test_the_key_of_the_filter_twice_and_enter_on_what_is_offered(store):
    made = record_run(store, micro(STAR))
    store.tag(made.id, ["sweep/abc"])
    record_run(store, micro(CIRCLE))

    async def script(pilot):
        await pilot.press("slash", "slash")
        line = list_of(pilot).query_one("#filter", Input)
        assert line.value == ""
        await type_(pilot, "tag:sweep")
        found = list_of(pilot).query_one("#found", Static)
        await until(pilot, lambda: "0 of 2 runs" in str(found.content))
        await pilot.press("enter")
        await until(pilot, lambda: "1 of 2 runs" in str(found.content))
        assert line.value == "tag:sweep/abc"
        assert list_of(pilot).has_list_focus
        await pilot.press("slash", "s")  # a word of its own behind what is there
        assert line.value == "tag:sweep/abc s"
        await type_(pilot, "tag:sweep/* seed:0")
        await until(pilot, lambda: "1 of 2 runs" in str(found.content))

    play(script)


def test_marked_runs_are_removed_once_that_was_agreed_to(store):
    kept = record_run(store, micro()).id
    for _ in range(2):
        record_run(store, micro())

    async def script(pilot):
        await pilot.press("m", "j", "m", "delete")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(pilot.app.screen, Confirm))
        assert len(store.runs(limit=9)) == 3
        await pilot.press("delete")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: current(pilot) == kept)
        assert [run.id for run in store.runs(limit=9)] == [kept]
        assert list_of(pilot).marks == []

    play(script)


def test_open_replay_verify_and_export_say_what_came_of_them(store, monkeypatch, tmp_path):
    run_id = record_run(store, micro()).id
    asked: list[tuple[str, ...]] = []
    answers: dict[str, Any] = {
        "replay": {"run": run_id, "status": "done", "output": "/v/again.mp4", "seconds": 0.2},
        "verify": {
            "run": run_id,
            "identical": False,
            "first_difference": "step 3",
            "relative_l2": 1e-6,
            "environment": {"torch": {"then": "2.1", "now": "2.2"}},
        },
        "store": {"output": "/v/x.modiff", "bytes": 4096, "runs": [run_id], "left_out": []},
    }

    async def command(_lab: Lab, *arguments: str) -> Any:
        asked.append(arguments)
        return answers["verify" if "--verify" in arguments else arguments[0]]

    def refuse(_path: str) -> None:
        raise CannotOpen("there is no display")

    monkeypatch.setattr("tui.app.desktop.open_file", refuse)
    monkeypatch.setattr(Lab, "command", command)

    async def script(pilot):
        await pilot.press("o")
        await until(pilot, lambda: "there is no display" in told(pilot))
        assert store.run(run_id).output in told(pilot)
        await pilot.press("R")
        await until(pilot, lambda: "/v/again.mp4" in told(pilot))
        await pilot.press("V")
        await until(pilot, lambda: "differs first at step 3" in told(pilot))
        assert "torch was 2.1, is 2.2" in told(pilot)
        await pilot.press("X")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        await pilot.press("enter")
        await until(pilot, lambda: "bundle written" in told(pilot))

    play(script)
    target = str(tmp_path / f"{run_id}.modiff")
    assert asked[-1] == ("store", "export", run_id, "--output", target)


def test_a_video_plays_in_the_terminal_also_where_there_is_no_display(store, monkeypatch):
    record_run(store, micro(), frames=wave(3, 16, 16))

    def refuse(_path: str) -> None:
        raise CannotOpen("there is no display")

    monkeypatch.setattr("tui.app.desktop.open_file", refuse)

    async def script(pilot):
        for key in ("v", "o"):
            await pilot.press(key)
            await until(pilot, lambda: isinstance(pilot.app.screen, Player))
            label = pilot.app.screen.query_one("#told")
            await until(pilot, lambda label=label: "of 3" in str(label.render()))
            await pilot.press("escape")
            await until(pilot, lambda: not isinstance(pilot.app.screen, Player))

    play(script)


# Branches


def test_a_branch_from_a_chosen_step(store, started):
    run_id = record_run(store, micro(STAR)).id

    async def script(pilot):
        await pilot.press("b")
        await until(pilot, lambda: isinstance(pilot.app.screen, Branch))
        form = pilot.app.screen
        await until(pilot, lambda: form.query_one(Timeline).cursor == 2)
        await pilot.press("right")
        assert form.at == 3
        assert str(form.query_one("#shares", Static).content) == "shares steps 1-3 of 5"
        await until(pilot, lambda: "denoise" in str(form.query_one("#plan", Static).content))
        assert "nothing is changed yet" in str(form.query_one("#plan", Static).content)
        await pilot.press("enter")
        assert pilot.app.focused.name == "guidance.scale"
        await type_(pilot, "4")
        await pilot.press("enter")
        await until(pilot, lambda: started == ["engine"])
        branch = next(run for run in store.runs(limit=9) if run.parent)
        assert (branch.parent, branch.parent_step, branch.status) == (run_id, 3, "queued")
        assert decode_spec(branch.spec_json).guidance.scale == 4
        assert pilot.app.watched_run == branch.id

    play(script)


def test_a_branch_that_only_waits(store, started):
    run_id = record_run(store, micro(STAR)).id

    async def script(pilot):
        pilot.app.push_screen(Branch(run_id, 1))
        await until(pilot, lambda: isinstance(pilot.app.screen, Branch))
        form = pilot.app.screen
        await until(pilot, lambda: form.query_one(Timeline).cursor == 1)
        form.query_one("#more", Input).value = "guidance.scale=3 keep.every=2"
        await pilot.press("ctrl+t")
        await until(pilot, lambda: started == ["engine"])
        assert pilot.app.watched_run == ""
        (branch,) = store.queued()
        assert branch.parent_step == 1
        assert decode_spec(branch.spec_json).guidance.scale == 3

    play(script)


def test_a_branch_is_queued_once_and_started_also_where_the_form_is_left(
    store, started, monkeypatch
):
    run_id = record_run(store, micro(STAR)).id
    may_queue = threading.Event()
    queue = client.branch

    def slow(*arguments: Any, **options: Any) -> str:
        assert may_queue.wait(60)
        return queue(*arguments, **options)

    monkeypatch.setattr(client, "branch", slow)

    async def script(pilot):
        pilot.app.push_screen(Branch(run_id, 1))
        await until(pilot, lambda: isinstance(pilot.app.screen, Branch))
        form = pilot.app.screen
        await until(pilot, lambda: form.query_one(Timeline).cursor == 1)
        form.query_one("#more", Input).value = "guidance.scale=3"
        await pilot.press("ctrl+t", "ctrl+t", "ctrl+t", "escape")
        assert not isinstance(pilot.app.screen, Branch)
        may_queue.set()
        await until(pilot, lambda: started == ["engine"])
        assert len(store.queued()) == 1

    play(script)


def test_a_branch_that_is_asked_for_before_the_run_is_read_starts_once_it_is(
    store, started, monkeypatch
):
    run_id = record_run(store, micro(STAR)).id
    may_read = threading.Event()

    def slow(store: Store, run_id: str) -> Detail:
        assert may_read.wait(60)
        return detail(store, run_id)

    async def script(pilot):
        monkeypatch.setattr("tui.app.runs.branch.detail_of", slow)
        pilot.app.push_screen(Branch(run_id, 2))
        await until(pilot, lambda: isinstance(pilot.app.screen, Branch))
        pilot.app.screen.query_one("#more", Input).value = "guidance.scale=3"
        await pilot.press("ctrl+r", "ctrl+r")
        assert not store.queued()
        may_read.set()
        await until(pilot, lambda: started == ["engine"])
        (branch,) = store.queued()
        assert (branch.parent, branch.parent_step) == (run_id, 2)
        assert pilot.app.watched_run == branch.id

    play(script)


def test_a_branch_that_changes_nothing_is_not_queued(store, started):
    run_id = record_run(store, micro(STAR)).id

    async def script(pilot):
        pilot.app.push_screen(Branch(run_id, 2))
        await until(pilot, lambda: isinstance(pilot.app.screen, Branch))
        form = pilot.app.screen
        await until(pilot, lambda: form.query_one(Timeline).cursor == 2)
        await pilot.press("ctrl+r")
        below = form.query_one("#problem", Static)
        await until(pilot, lambda: "nothing is changed" in str(below.content))
        assert run_id in str(below.content)
        assert not store.queued()
        form.query_one("#more", Input).value = "guidance.scale=3"
        await pilot.press("ctrl+t")
        await until(pilot, lambda: started == ["engine"])
        assert len(store.queued()) == 1

    play(script)


def test_what_cannot_be_branched_is_said_at_its_field(store, started):
    run_id = record_run(store, micro(STAR)).id

    async def script(pilot):
        pilot.app.push_screen(Branch(run_id, 2))
        await until(pilot, lambda: isinstance(pilot.app.screen, Branch))
        form = pilot.app.screen
        await until(pilot, lambda: form.query_one(Timeline).cursor == 2)
        form.query_one("#guidance-scale", Input).value = "1000"
        problem = form.query_one("#problem-guidance-scale", Static)
        await until(pilot, lambda: problem.display)
        assert "guidance.scale" in str(problem.content)
        form.query_one("#guidance-scale", Input).value = "4"
        await until(pilot, lambda: not problem.display)
        form.query_one("#more", Input).value = "seed=5"
        below = form.query_one("#problem", Static)
        await until(pilot, lambda: below.display)
        assert "branch at step 0 to change it" in str(below.content)
        form.query_one("#more", Input).value = "'"
        await until(pilot, lambda: "quotation" in str(below.content))
        await pilot.press("ctrl+r")
        await pilot.pause(0.1)
        assert isinstance(pilot.app.screen, Branch)
        await pilot.press("escape")
        assert not isinstance(pilot.app.screen, Branch)
        pilot.app.push_screen(Branch(run_id, 5))  # after the last step only the decoding is left
        await until(pilot, lambda: isinstance(pilot.app.screen, Branch))
        form = pilot.app.screen
        await until(pilot, lambda: form.query_one(Timeline).cursor == 5)
        assert form.at == "decode"
        await pilot.press("home")
        assert form.at == 0

    play(script, size=NARROW)
    assert not started
    assert not store.queued()


# Comparisons


COMPARISON: dict[str, Any] = {
    "a": {
        "run": "a",
        "status": "done",
        "stages": [{"name": "denoise", "seconds": 1.0, "cached": False}],
        "step_seconds": 0.5,
        "seconds": 2.0,
        "computed_steps": 5,
        "reused_steps": 0,
    },
    "settings": [{"key": "guidance.scale", "a": 2.5, "b": 4.0, "start": 2, "stop": None}],
    "environment": [],
    "chain": {"shared_steps": 2, "steps_a": 5, "steps_b": 5, "same_key_other_bytes": []},
    "steps": {
        "of": "latents",
        "compared": [
            {
                "index": i,
                "sigma_a": 0.9,
                "sigma_b": 0.9,
                "relative_l2": i / 10,
                "cosine": 1 - i / 99,
            }
            for i in range(5)
        ],
        "absent": [],
    },
    "latents": {"relative_l2": 0.4, "cosine": 0.96},
    "frames": None,
    "reasons": {"frames": "run a has no video"},
    "output": ["/v/side.mp4", "/v/side.png"],
}
COMPARISON["b"] = {**COMPARISON["a"], "run": "b", "computed_steps": 3, "reused_steps": 2}


def test_two_marked_runs_are_compared(store, monkeypatch):
    first = record_run(store, micro(STAR))
    second = branch_of(store, first, "guidance.scale=4")
    asked: list[tuple[str, ...]] = []

    async def command(_lab: Lab, *arguments: str) -> Any:
        asked.append(arguments)
        if "--output" in arguments:
            await may_write.wait()
        return COMPARISON

    async def play_or_tell(_app: ModiffApp, record: RunRecord) -> None:
        played.append(record.id)

    played: list[str] = []
    may_write = asyncio.Event()
    monkeypatch.setattr(Lab, "command", command)
    monkeypatch.setattr("tui.app.runs.compare.play_or_tell", play_or_tell)

    async def script(pilot):
        await pilot.press("j", "m", "k", "m", "d")
        await until(pilot, lambda: isinstance(pilot.app.screen, Compare))
        screen = pilot.app.screen
        await until(pilot, lambda: "0.4" in str(screen.query_one("#steps").border_subtitle))
        await pilot.press("left", "left")
        await until(pilot, lambda: "0.2" in str(screen.query_one("#steps").border_subtitle))
        await pilot.press("w")
        await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
        await pilot.press("enter")
        await until(pilot, lambda: "writing" in pilot.app.job_told)
        await pilot.press("v")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choose))
        await pilot.press("right", "enter")
        await until(pilot, lambda: played == [second.id])
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(pilot.app.screen, Compare))
        may_write.set()  # left meanwhile, it is written all the same
        await until(pilot, lambda: "/v/side.png" in told(pilot))

    play(script)
    assert asked[0] == ("compare", first.id, second.id)
    assert asked[1][:4] == ("compare", first.id, second.id, "--output")


def test_what_people_typed_is_text_everywhere(store, monkeypatch):
    prompt = 'prompt="[/x] [bold] \\u001b[2J"'
    first = record_run(store, micro(prompt))
    below = branch_of(store, first, prompt)
    store.note(below.id, "[/red]")
    monkeypatch.setattr(Lab, "command", lambda _lab, *_: asyncio.sleep(0, COMPARISON))

    async def script(pilot):
        await until(pilot, lambda: summary(pilot) == below.id)
        await pilot.press("t", "b")
        await until(pilot, lambda: isinstance(pilot.app.screen, Branch))
        await pilot.press("escape", "d")
        await until(pilot, lambda: isinstance(pilot.app.screen, Compare))
        panel = pilot.app.screen.query_one("#panel-A")
        await until(pilot, lambda: "x]" in str(panel.border_title))
        await pilot.press("escape", "delete")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))

    play(script)


@pytest.mark.defect
def test_a_branch_is_compared_with_its_parent_where_none_is_marked(store, monkeypatch):
    first = record_run(store, micro(STAR))
    branch_of(store, first, "guidance.scale=4")

    async def fail(_lab: Lab, *_: str) -> Any:
        raise RuntimeError("by the test")

    monkeypatch.setattr(Lab, "command", fail)

    async def script(pilot):
        await pilot.press("d")
        await until(pilot, lambda: isinstance(pilot.app.screen, Compare))
        assert first.id in str(pilot.app.screen.query_one("#told").border_title)
        await until(pilot, lambda: "by the test" in told(pilot))
        await pilot.press("escape", "j", "d")
        await until(pilot, lambda: "mark one or two runs" in told(pilot))

    play(script, size=NARROW)
