"""The queue in words: what is left of a run, and how far the one at work is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from store.lineage.events import PlanMade, StageStarted, StepFinished
from store.lineage.records import LogEntry
from store.store import open_store
from tests.stores.recorded_runs import micro, record_run
from tui.app.queue.text import COLUMNS, summary, table
from tui.describe.runs.following.state import RunState
from tui.describe.runs.queued import Expected
from tui.describe.runs.run import RunRow

SECOND = 1_000_000_000


@pytest.fixture
def record():
    with open_store() as store:
        return replace(store.run(record_run(store, micro()).id), status="queued")


def test_what_is_left_of_a_run_that_was_taken_up_again(record):
    known = {record.id: Expected("seed 7", 10.0, 2.0, 1.0)}
    cells = table([RunRow(record, (), "a star", steps_done=4)], known)[0].cells
    assert cells == ("1", record.id, "micro", "seed 7", "4/5", "~0:12", "a star")
    branch = replace(record, parent="x", parent_step=3)
    assert table([RunRow(branch, (), "")], known)[0].cells[5] == "~0:22"
    early = replace(record, stop_at=2)
    assert table([RunRow(early, (), "")], known)[0].cells[5] == "~0:22"
    assert table([RunRow(record, (), "")], {})[0].cells[3:6] == ("…", "5", "")


def test_a_run_that_is_all_stored_is_promised_no_time(record):
    known = {record.id: Expected("", 10.0, 2.0, 1.0, is_stored=True)}
    rows = [RunRow(record, (), ""), RunRow(record, (), "")]
    assert [row.cells[5] for row in table(rows, known)] == ["stored", "stored"]
    assert summary(rows, known, None) == "… 2 runs wait, and all of them is stored"
    assert summary(rows[:1], known, None) == "… 1 run waits, and all of it is stored"


@pytest.mark.parametrize(
    ("done", "total", "steps"),
    [(258, 600, "258/600 43%"), (600, 600, "600/600"), (1258, 6000, "1258/6000")],
)
def test_many_steps_are_told_whole(record, done, total, steps):
    state = RunState(record.id)
    events = [
        PlanMade(0, total, {"denoise": "compute"}),
        StageStarted("denoise"),
        *(StepFinished(step, total, 0.9, 900, 3.0) for step in range(1, done + 1)),
    ]
    state.take(LogEntry(at, SECOND, event) for at, event in enumerate(events, start=1))
    row = RunRow(replace(record, status="running"), (), "")
    column = [each.title for each in COLUMNS].index("STEPS")
    assert table([row], {}, state)[0].cells[column] == steps
    assert len(steps) <= COLUMNS[column].width


def test_the_run_at_work_is_told_by_its_own_steps(record):
    running = replace(record, status="running")
    state = RunState(record.id)
    events = [
        PlanMade(0, 5, {"denoise": "compute"}),
        StageStarted("denoise"),
        StepFinished(1, 5, 0.9, 900, 3.0),
    ]
    state.take(LogEntry(at, SECOND, event) for at, event in enumerate(events, start=1))
    known = {record.id: Expected("", 10.0, 2.0, 1.0)}
    rows = [RunRow(running, (), "a star"), RunRow(replace(record, id="b", status="paused"), (), "")]
    told = table(rows, known, state)
    assert told[0].cells[4:6] == ("1/5 20%", "~0:12")
    assert told[1].cells[0] == "‖"
    said = summary(rows, known, None, state)
    assert said == f"▶ run {record.id} is at work, 1/5 20%, ~0:12 left; no run waits, 1 is paused"
    assert table(rows, known, RunState("another"))[0].cells[5] == "~0:52"
