"""A run in words: the cells of the list, the lines of its summary."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from store.lineage.events import Verified
from store.store import open_store
from tests.recorded_runs import micro, record_run
from tui.app.lab import Lab
from tui.describe import run as summary
from tui.describe.run import Detail, RunRow

SECOND = 1_000_000_000


@pytest.fixture
def store():
    with open_store() as opened:
        yield opened


def detail_of(run_id: str) -> Detail:
    lab = Lab()
    try:
        return asyncio.run(lab.detail(run_id))
    finally:
        lab.close()


def lines(detail: Detail) -> dict[str, str]:
    return dict(summary.lines(detail))


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-5, "now"), (59, "now"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_ages(seconds, told):
    assert summary.age(seconds * SECOND) == told


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


def test_cells(store):
    record = replace(store.run(record_run(store, micro()).id), pinned=True)
    told = summary.cells(RunRow(record, ("a", "b"), "a star"), "A", record.created_ns + 61 * SECOND)
    assert told[:6] == ("A", record.id, "✓ done", "micro", "a star", "5")
    assert told[7:] == ("1 min", "a b", "★")


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
