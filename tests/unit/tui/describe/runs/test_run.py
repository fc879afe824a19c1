"""A run in words: the cells of the list, the lines of its summary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine import client
from engine.tasks.route import route_of_run
from store.lineage.events import Verified
from store.lineage.records import StageRecord
from store.store import open_store
from tests.stores.recorded_runs import micro, record_run
from tui.describe.runs import detail as all_about
from tui.describe.runs import run as summary
from tui.describe.runs.detail import Detail, points_told

SECOND = 1_000_000_000


@pytest.fixture
def store():
    with open_store() as opened:
        yield opened


def detail_of(run_id: str) -> Detail:
    with open_store() as store:
        return all_about.detail(store, run_id)


def lines(detail: Detail) -> dict[str, str]:
    return dict(all_about.lines(detail))


def test_a_run_that_is_done(store):
    run_id = record_run(store, micro('prompt="a red star"')).id
    told = lines(detail_of(run_id))
    assert told["status"] == "✓ done"
    assert told["prompt"] == "a red star"
    assert told["output"] == f"/v/{run_id}.mp4 (no longer there)"
    assert told["steps"] == "5 computed of 5"
    assert told["branch at"] == "0-4, decode"
    assert told["replay"] == "decoded again: the store has the last latents"
    assert not {"error", "parent", "note", "tags", "branches"} & told.keys()


def test_the_times_of_a_run_add_up_to_all_of_it(store):
    """What a new engine imports, and what waits, is of no stage."""
    detail = detail_of(record_run(store, micro()).id)
    started = detail.record.started_ns
    stages = (StageRecord("load", 0.5, False), StageRecord("denoise", 3.5, False))

    def time_of(seconds: float) -> str:
        record = replace(detail.record, ended_ns=started + round(seconds * SECOND))
        return lines(replace(detail, record=record, stages=stages))["time"]

    assert time_of(9.0) == "9.00 s: load 0.50 s, denoise 3.50 s, other 5.00 s"
    assert time_of(4.0) == "4.00 s: load 0.50 s, denoise 3.50 s"


def test_a_run_whose_steps_were_cleaned_up(store):
    run_id = record_run(store, micro(), keep=lambda index: "velocity" if index < 2 else "").id
    latents = store.run(run_id).latents.removeprefix("sha256:")
    for path in Path(store.root).rglob(f"*{latents[4:]}*"):
        path.unlink()
    told = lines(detail_of(run_id))
    assert told["branch at"] == "0-2"
    assert told["replay"] == "computed again from step 2 on"


def test_a_run_that_can_go_on(store):
    record = store.run(record_run(store, micro(), status="interrupted").id)
    assert summary.can_go_on(record)
    told = lines(detail_of(record.id))
    assert told["status"] == "▲ interrupted; r resumes it"
    assert told["output"] == f"{record.output} (not made yet)"
    early = replace(record, status="done", stop_at=3)
    assert summary.can_go_on(early)
    assert summary.steps_told(early) == "3/5"
    assert not summary.can_go_on(replace(early, stop_at=None))
    assert not summary.can_go_on(replace(early, status="running"))


def test_a_run_that_stopped_early_as_it_was_to(store):
    record = replace(store.run(record_run(store, micro()).id), stop_at=3)
    assert summary.status_words(record) == "done 3/5"
    assert summary.status_word(record) == "◐ 3/5"
    assert summary.steps_of(record) == (3, 5)
    paused = replace(record, status="paused")
    assert summary.steps_told(paused, 2) == "2/5"
    assert summary.status_word(paused) == "‖ paused"
    assert summary.steps_of(replace(record, stop_at=None)) == (5, 5)


def test_the_settings_that_people_change_most(store):
    run_id = record_run(store, micro("seed=18446744073709551615", "guidance.scale=4")).id
    told = lines(detail_of(run_id))
    assert told["seed"] == "18446744073709551615"
    assert told["size"] == "64x64, 17 frames"
    assert told["scheduler"] == "unipc, 5 steps, shift 3"
    assert told["guidance"] == "4"
    assert "guidance 4" in told["preset"]


def test_a_spec_of_another_version_has_a_summary_too(store):
    spec = b'{"seed": "x", "width": null, "scheduler": [], "guidance": 3, "prompt": 5}'
    run_id = store.enqueue(spec, preset="p", output="")
    assert lines(detail_of(run_id)).keys() == {"run", "status", "preset", "created"}


def test_stars(store):
    run_id = record_run(store, micro()).id
    assert "rating" not in lines(detail_of(run_id))
    store.rate(run_id, 4)
    assert lines(detail_of(run_id))["rating"] == "★★★★"


def test_what_people_typed_cannot_act_on_the_terminal(store):
    run_id = record_run(store, micro()).id
    store.note(run_id, "\x1b[2J")
    assert lines(detail_of(run_id))["note"] == r"\x1b[2J"


def test_what_came_of_verifying_it(store):
    run_id = record_run(store, micro()).id
    assert "verified" not in lines(detail_of(run_id))
    for verdict in (Verified(False, "step 3", 0.00025), Verified(True, checked=22)):
        again = store.enqueue(b"{}", preset="micro", output="", verifies=run_id)
        store.append(again, [verdict])
        told = lines(detail_of(run_id))["verified"]
        expected = "identical, " if verdict.identical else "differs first at step 3 by 2.5e-04"
        assert told.startswith(expected)
        assert told.endswith("just now")


def test_points_are_told_as_ranges():
    assert points_told([0, 1, 2, 5, 7, 8], has_latents=True) == "0-2, 5, 7-8, decode"
    assert points_told([0], has_latents=False) == "0"
    assert points_told([], has_latents=False) == ""


def test_a_branch_of_another_schedule_has_the_steps_that_it_comes_to(store):
    parent = record_run(store, micro("scheduler.steps=20")).id
    other = client.branch(store, parent, at=10, overrides=["scheduler.shift=6"])
    same = client.branch(store, parent, at=10, overrides=["guidance.scale=6"])
    told = {run_id: summary.num_steps(store.run(run_id)) for run_id in (parent, same, other)}
    assert told == {parent: 20, same: 20, other: route_of_run(store.run(other)).num_steps}
    assert told[other] < 20
