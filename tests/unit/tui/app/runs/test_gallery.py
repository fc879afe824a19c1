"""The gallery of Runs: eight runs of a sweep are told apart, and the best two taken to their end with three keys."""

from __future__ import annotations

import json
import threading

import pytest
from textual.pilot import Pilot
from textual.widgets._footer import FooterKey

from engine import client
from presets.encoding import encode_spec
from store.errors import StoreError
from store.index.index import open_index
from store.index.previews import Preview, put_preview
from tests.stores.recorded_runs import micro, record_run
from tests.unit.tui.opened_app import notices, play, until
from tui.app.runs import gallery
from tui.app.runs.details import RunDetails
from tui.app.runs.list import RunList
from tui.app.widgets.thumbnails import Thumbnails
from tui.describe.runs import run
from tui.describe.runs.run import run_rows

TAG = "sweep/aaaaaaaaaa"


def stopped_at(store, run_id: str, step: int) -> None:
    store.lineage.db.execute("UPDATE runs SET stop_at=? WHERE id=?", [step, run_id])
    store.lineage.db.conn.commit()


def swept(store, count: int = 8) -> list[str]:
    """Runs of one sweep that stopped early, each with a preview of a brightness of its own."""
    ids = []
    with open_index(store.root) as index:
        for seed in range(1, count + 1):
            run_id = record_run(store, micro(f"seed={seed}")).id
            store.tag(run_id, [TAG])
            stopped_at(store, run_id, 3)
            last = [link for link in store.links_of(run_id) if link.stage == "step"][-1]
            put_preview(index, last.key, Preview(1, 2, 2, bytes([30 * seed] * 12)))
            ids.append(run_id)
    return ids


def thumbnails(pilot: Pilot[int]) -> Thumbnails:
    return pilot.app.screen_stack[0].query_one(Thumbnails)


async def opened_gallery(pilot: Pilot[int]) -> Thumbnails:
    runs = pilot.app.screen_stack[0].query_one(RunList)
    await until(pilot, lambda: runs.current is not None)
    await pilot.press("G")
    grid = thumbnails(pilot)
    await until(pilot, lambda: grid.seen and all(map(grid.has_picture, grid.seen)))
    return grid


def text(grid: Thumbnails) -> str:
    return "\n".join(grid.render_line(y).text for y in range(grid.size.height))


def test_eight_runs_are_told_apart_and_the_best_two_finished_with_three_keys(store, started):
    ids = swept(store)

    async def script(pilot):
        grid = await opened_gallery(pilot)
        assert list(grid.seen) == ids  # in the order of the sweep
        assert all(f"seed {seed} " in text(grid) for seed in range(1, 9))
        assert text(grid).count("◐ 3/5") == 8
        runs = pilot.app.screen_stack[0].query_one(RunList)
        assert str(runs.border_subtitle) == "seed 8"  # whole, however narrow its tile is
        await pilot.press("home", "right", "m", "down", "right", "m", "r")
        await until(pilot, lambda: len(store.queued()) == 2)
        assert {run.id for run in store.queued()} == {ids[1], ids[6]}
        assert [run.stop_at for run in store.queued()] == [None, None]
        await until(pilot, lambda: "○ queued" in text(grid))
        assert (started, notices(pilot.app)) == (["engine"], ["2 runs are queued"])
        assert runs.marks == []

    play("runs", script)


def test_what_could_not_be_queued_stays_marked(store, monkeypatch):
    first, second = swept(store, 2)
    original = client.finish

    def finish(store, run_id):
        if run_id == first:
            raise StoreError("its clip is another file now")
        return original(store, run_id)

    monkeypatch.setattr(client, "finish", finish)

    async def script(pilot):
        await opened_gallery(pilot)
        runs = pilot.app.screen_stack[0].query_one(RunList)
        await pilot.press("home", "m", "right", "m", "r")
        await until(pilot, lambda: runs.marks == [first])
        assert [run.id for run in store.queued()] == [second]
        assert any("another file now" in told for told in notices(pilot.app))

    play("runs", script)


def test_runs_of_before_are_not_shown_while_those_of_a_sweep_are_read(store, monkeypatch):
    ids = swept(store, 2)
    record_run(store, micro("seed=77"))
    go_on, original = threading.Event(), run.found_rows
    listed: list[list[str]] = []

    def slow(opened, search, limit):
        if search.tags:
            go_on.wait(60)
        return original(opened, search, limit)

    monkeypatch.setattr(run, "found_rows", slow)
    drawn = Thumbnails.show

    def show(grid, tiles, aspect):
        listed.append([tile.key for tile in tiles])
        drawn(grid, tiles, aspect)

    monkeypatch.setattr(Thumbnails, "show", show)

    async def script(pilot):
        runs = pilot.app.screen_stack[0].query_one(RunList)
        await until(pilot, lambda: runs.current is not None)
        pilot.app.show_gallery(f"tag:{TAG}")
        await until(pilot, lambda: runs.is_in_gallery)
        go_on.set()
        await until(pilot, lambda: thumbnails(pilot).has_focus)
        assert next(filter(None, listed)) == ids

    play("runs", script)


def test_the_heading_tells_of_runs_that_are_not_seen():
    keys = ["a", "b", "c", "d"]
    assert gallery.heading(keys, keys) == gallery.heading([], []) == "gallery"
    assert gallery.heading(keys, ["b", "c"]) == "gallery: 2 to 3 of 4"
    assert gallery.heading(["c"], ["a", "b"]) == "gallery"  # of a list that was another one


def at_the_foot(screen) -> list[str]:
    return [key.description for key in screen.query(FooterKey) if key.display]


def test_there_and_back(store):
    ids = swept(store, 3)

    async def script(pilot):
        screen = pilot.app.screen_stack[0]
        runs = screen.query_one(RunList)
        grid = await opened_gallery(pilot)
        assert not screen.query_one(RunDetails).display
        await until(pilot, lambda: at_the_foot(screen)[:3] == ["Open", "Stars", "Finish"])
        await pilot.press("home", "m", "right", "enter")
        await until(pilot, lambda: screen.query_one(RunDetails).has_focus_within)
        assert not runs.display
        assert screen.query_one(RunDetails).display
        await pilot.press("escape")
        assert grid.has_focus
        assert grid.current == ids[1]
        await pilot.press("escape")
        assert not runs.is_in_gallery
        assert runs.current.record.id == ids[1]
        assert runs.marks == [ids[0]]  # the same as in the gallery
        assert runs.has_list_focus
        await pilot.press("slash", "G", "escape", "G")
        assert runs.is_in_gallery  # which in the filter was a letter
        assert pilot.app.preferences.runs_filter == "G"

    play("runs", script)


def test_marked_runs_of_the_list_go_on_together_and_one_at_its_end_stays(store):
    first, second = swept(store, 2)
    whole = record_run(store, micro()).id

    async def script(pilot):
        runs = pilot.app.screen_stack[0].query_one(RunList)
        await until(pilot, lambda: runs.current is not None)
        await pilot.press("m", "down", "m", "down", "m", "r")
        await until(pilot, lambda: len(store.queued()) == 2)
        await until(pilot, lambda: notices(pilot.app))
        assert {run.id for run in store.queued()} == {first, second}
        assert store.run(whole).status == "done"

    play("runs", script)


# The pure part


def test_other_runs_stay_newest_first(store):
    swept(store, 2)
    of_sweep = run_rows(store, store.runs(limit=9))
    assert gallery.in_order(of_sweep) == of_sweep[::-1]
    record_run(store, micro())
    every = run_rows(store, store.runs(limit=9))
    assert gallery.in_order(every) == every
    assert gallery.in_order([]) == []


def test_runs_that_do_not_differ_have_their_prompt(store):
    for _ in range(2):
        record_run(store, micro('prompt="a red star"'))
    rows = run_rows(store, store.runs(limit=9))
    assert set(gallery.titles(rows).values()) == {"a red star"}


def test_the_shape_is_that_of_the_video(store):
    assert gallery.aspect([]) == 1.0
    store.enqueue(encode_spec(micro("width=128")), preset="", output="")
    assert gallery.aspect(run_rows(store, store.queued())) == 2.0
    spec = {**json.loads(encode_spec(micro())), "width": "wide"}
    store.enqueue(json.dumps(spec).encode(), preset="", output="")
    assert gallery.aspect(run_rows(store, store.queued())[1:]) == 1.0


def test_a_tile_has_the_stars_of_its_run(store):
    first, second = swept(store, 2)
    store.rate(first, 4)
    assert gallery.line(store.run(first)) == f"◐ 3/5  ★4  {first}"
    assert gallery.line(store.run(second)) == f"◐ 3/5  {second}"


@pytest.mark.parametrize(("seconds", "is_opened"), [(1e9, False), (0.0, True)])
def test_an_enter_that_led_to_the_gallery_opens_no_run_when_it_is_pressed_twice(
    store, monkeypatch, seconds, is_opened
):
    monkeypatch.setattr("tui.app.runs.screen.TWICE_SECONDS", seconds)
    (run_id,) = swept(store, 1)

    async def script(pilot):
        pilot.app.show_gallery(f"tag:{TAG}")
        runs = pilot.app.screen_stack[0].query_one(RunList)
        await until(pilot, lambda: runs.is_in_gallery and runs.current is not None)
        await until(pilot, lambda: thumbnails(pilot).has_focus)
        await pilot.press("enter")
        await pilot.pause()
        assert pilot.app.screen.has_class("-opened") is is_opened
        assert runs.current.record.id == run_id

    play("runs", script)


def test_the_runs_of_a_sweep_do_not_hide_what_is_made_after_it(store):
    swept(store, 2)

    async def script(pilot):
        app = pilot.app
        runs = app.screen_stack[0].query_one(RunList)
        app.show_gallery(f"tag:{TAG}")
        await until(pilot, lambda: app.preferences.runs_filter == f"tag:{TAG}" and runs.current)
        await pilot.press("alt+4")
        await until(pilot, lambda: app.current_mode == "queue")
        await pilot.press("alt+3")  # nothing was made: it stays
        await until(pilot, lambda: app.current_mode == "runs" and runs.is_in_gallery)
        assert runs.line == f"tag:{TAG}"
        await pilot.press("alt+4")
        await until(pilot, lambda: app.current_mode == "queue")
        run_id = record_run(store, micro()).id
        await until(pilot, lambda: app.status.newest_run == run_id)
        await pilot.press("alt+3")
        await until(pilot, lambda: runs.line == "" and runs.current)
        await until(pilot, lambda: runs.current.record.id == run_id)
        app.show_gallery(f"tag:{TAG}")  # one that is shown now is not taken away
        await until(pilot, lambda: app.preferences.runs_filter == f"tag:{TAG}")

    play("runs", script)
