"""Events survive encoding and the database, in order, with the stages that they finish."""

from __future__ import annotations

import json
import math

import msgspec
import pytest

from store.database.database import immediate
from store.errors import StoreDamaged, UnknownRun
from store.lineage import damage
from store.lineage.events import (
    CallAnswered,
    ChunkDecoded,
    Event,
    LatentsStored,
    LinkStored,
    MemoryPlanned,
    MemorySampled,
    Message,
    PlanMade,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    StageFinished,
    StageStarted,
    StepFinished,
    Verified,
    decode_event,
    encode_event,
)
from store.lineage.records import StageRecord

EXAMPLES = [
    RunQueued(),
    RunStarted("engineaaaa", 12),
    RunPaused(),
    RunResumed("paused"),
    PlanMade(12, 20, {"text_encode": "stored", "denoise": "compute", "load": "skip"}),
    StageStarted("denoise"),
    StageFinished("denoise", 1.5, True),
    StepFinished(3, 20, 0.9375, 937.5, 0.25, -0.001, 1.01, "computed", 0.125),
    LinkStored("denoise", 2, "k1:" + "0" * 64, "sha256:" + "1" * 64, "", "computed"),
    MemorySampled(1 << 40, 0),
    MemoryPlanned({"denoise": {"cuda:0": 1 << 40, "cpu": 0}}),
    ChunkDecoded(1, 5, 0.5),
    CallAnswered("vae", "http://mac:8765", 1, 2, 0.5),
    LatentsStored("sha256:" + "0" * 64),
    Verified(False, "step 3", 0.125, {"torch": ["2.6", "2.7"], "cuda": [None, "12"]}, 21),
    RunFinished("failed", 'a "quoted" line, ünïcode'),
    Message("warning", "a line"),
]


def test_there_is_an_example_of_every_event():
    assert {type(example) for example in EXAMPLES} == set(Event.__args__)


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_every_event_comes_back_as_it_was(event):
    assert decode_event(encode_event(event)) == event


def test_an_event_is_json_that_names_its_kind():
    assert json.loads(encode_event(StageStarted("load"))) == {
        "kind": "stage_started",
        "stage": "load",
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_statistics_of_latents_that_are_not_finite_come_back_as_nan(value):
    text = encode_event(StepFinished(1, 2, 1.0, 1000.0, 0.1, mean=value, std=0.5, change=value))
    assert "null" not in text
    event = decode_event(text)
    assert math.isnan(event.mean)
    assert math.isnan(event.change)
    assert event.std == 0.5


def test_measures_of_later_events_that_are_not_finite_come_back_too():
    for value in (math.nan, math.inf, None):
        found = decode_event(encode_event(Verified(False, "step 0", value, {}, 1)))
        assert found == Verified(False, "step 0", None, {}, 1)
    assert decode_event(encode_event(Verified(True))) == Verified(True, "", None, {}, 0)


def test_a_step_of_an_older_log_was_computed():
    text = (
        '{"kind":"step_finished","step":3,"total":20,"sigma":0.5,"timestep":500.0,"seconds":0.25,'
        '"mean":0.0,"std":1.0}'
    )
    assert decode_event(text) == StepFinished(3, 20, 0.5, 500.0, 0.25, 0.0, 1.0, "computed")


def test_fields_that_a_newer_version_added_are_ignored():
    text = msgspec.json.encode({"kind": "stage_started", "stage": "load", "later": 1}).decode()
    assert decode_event(text) == StageStarted("load")


@pytest.mark.parametrize("text", ["", "{}", '{"kind":7}', '{"kind":"stage_started"}'])
def test_an_unreadable_event_is_damage(text):
    with pytest.raises(StoreDamaged, match="unreadable event"):
        decode_event(text)


def test_the_log_of_a_run_is_in_order_and_can_be_tailed(store):
    run_id = store.enqueue(b"{}", preset="p", output="o")
    other = store.enqueue(b"{}", preset="p", output="o")
    store.append(run_id, [StageStarted("load")])
    store.append(other, [StageStarted("other")])
    store.append(run_id, [StageFinished("load", 0.5, False), StageStarted("denoise")])
    logged = store.events(run_id)
    assert [event for _, event in logged] == [
        RunQueued(),
        StageStarted("load"),
        StageFinished("load", 0.5, False),
        StageStarted("denoise"),
    ]
    assert store.events(run_id, after=logged[1][0]) == logged[2:]
    assert store.events(run_id, after=logged[-1][0]) == []


def test_stages_are_listed_as_they_finished(store):
    run_id = store.enqueue(b"{}", preset="p", output="o")
    store.append(run_id, [StageFinished("text_encode", 0.5, True)])
    store.stage(run_id, "denoise", seconds=2.0, cached=False)
    store.stage(run_id, "text_encode", seconds=0.75, cached=False)
    assert store.stages(run_id) == [
        StageRecord("text_encode", 0.75, False),
        StageRecord("denoise", 2.0, False),
    ]
    assert store.events(run_id)[-1][1] == StageFinished("text_encode", 0.75, False)


def test_events_of_an_unknown_run_are_refused(store):
    with pytest.raises(UnknownRun, match="nothing"):
        store.append("nothing", [StageStarted("load")])


def test_events_of_kinds_that_a_newer_version_added_are_passed_over(store):
    run_id = store.enqueue(b"{}", preset="p", output="o")
    store.append(run_id, [StageStarted("load"), StageStarted("denoise")])
    with immediate(store.lineage) as connection:
        connection.execute(
            """UPDATE events SET json='{"kind":"unheard_of","stage":7}' WHERE json LIKE '%load%'"""
        )
    assert [event for _, event in store.events(run_id)] == [RunQueued(), StageStarted("denoise")]


@pytest.mark.parametrize("damaged", ["'?'", "x'ff'", "CAST(x'7bff7d' AS TEXT)", "'{}'"])
def test_a_damaged_event_in_the_log_is_told_and_passed_over(store, caplog, damaged):
    run_id = store.enqueue(b"{}", preset="p", output="o")
    store.append(run_id, [StageStarted("load"), MemorySampled(7, 8)])
    [(event_id, _), *_] = store.events(run_id)
    damage.tell.cache_clear()
    with immediate(store.lineage) as connection:
        connection.execute(f"UPDATE events SET json={damaged} WHERE id=?", (event_id,))
    kept = [StageStarted("load"), MemorySampled(7, 8)]
    for _ in range(2):
        assert [event for _, event in store.events(run_id)] == kept
    assert [entry.event for entry in store.log(run_id, limit=9)] == kept
    assert store.peak_memory(run_id) == (7, 8)
    [told] = [record.message for record in caplog.records]
    assert told.startswith(f"the row {event_id} of the table events is damaged")


def test_the_log_is_read_in_pages_with_times(store):
    run_id = store.enqueue(b"{}", preset="p", output="o")
    for number in range(5):
        store.append(run_id, [ChunkDecoded(number + 1, 5, 0.1)])
    first = store.log(run_id, limit=4)
    rest = store.log(run_id, first[-1].id, limit=4)
    assert [entry.event for entry in first + rest] == [e for _, e in store.events(run_id)]
    assert [entry.id for entry in first + rest] == [i for i, _ in store.events(run_id)]
    assert len(first) == 4
    assert all(entry.ns > 1.7e18 for entry in first)
    assert sorted(entry.ns for entry in first + rest) == [entry.ns for entry in first + rest]
    assert store.log(run_id, rest[-1].id, limit=4) == []


def test_a_page_of_unknown_kinds_is_passed_over(store):
    run_id = store.enqueue(b"{}", preset="p", output="o")
    with immediate(store.lineage) as connection:
        connection.executemany(
            "INSERT INTO events (run_id, ns, json) VALUES (?, 1, ?)",
            [(run_id, '{"kind":"of_the_future"}')] * 7,
        )
    store.append(run_id, [StageStarted("load")])
    [queued] = store.log(run_id, limit=1)
    [entry] = store.log(run_id, queued.id, limit=3)
    assert entry.event == StageStarted("load")


def test_the_peak_of_memory_is_of_its_run(store):
    run_id = store.enqueue(b"{}", preset="p", output="o")
    other = store.enqueue(b"{}", preset="p", output="o")
    assert store.peak_memory(run_id) == (0, 0)
    store.append(run_id, [MemorySampled(5, 1), MemorySampled(7, 0)])
    store.append(other, [MemorySampled(9, 9)])
    assert store.peak_memory(run_id) == (7, 1)
