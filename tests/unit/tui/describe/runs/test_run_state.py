"""The state of a run from its log: what panels show of live, past, resumed and broken runs."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.lineage import events
from store.lineage.records import LogEntry
from tui.describe.runs.following.state import MAX_LINES, MAX_SAMPLES, RunState

SECOND = 10**9
STEPS = 5


def entries(*told: events.Event, first_id: int = 1, first_ns: int = SECOND) -> list[LogEntry]:
    """One a second."""
    return [
        LogEntry(first_id + index, first_ns + index * SECOND, event)
        for index, event in enumerate(told)
    ]


def taken(*told: events.Event) -> RunState:
    state = RunState("a")
    state.take(entries(*told))
    return state


def step(number: int, source: str = "computed", **fields: float) -> events.StepFinished:
    known = {"seconds": 0.0 if source == "reused" else 0.5, "sigma": 1 - number / 10, "timestep": 9}
    if source == "computed":
        known |= {"mean": 0.01, "std": 0.9, "change": 0.1}
    return events.StepFinished(step=number, total=STEPS, source=source, **(known | fields))


def link(number: int, digest: str = "d") -> events.LinkStored:
    return events.LinkStored("step", number - 1, f"key{number}", digest, "l", "computed")


def plan(reused: int = 0, **stages: str) -> events.PlanMade:
    told = {"text_encode": "compute", "denoise": "compute", "decode": "compute", **stages}
    return events.PlanMade(reused, STEPS, told)


BEGUN = (events.RunQueued(), events.RunStarted("e", 7), plan())


def plain(state: RunState) -> dict[str, object]:
    return dataclasses.asdict(state)


def test_a_run_that_nobody_took_yet():
    state = taken(events.RunQueued())
    assert (state.status, state.is_over, state.rate, state.eta(None)) == ("queued", False, "", "")
    assert state.elapsed_seconds(99 * SECOND) == 0
    assert state.steps_done == 0


def test_stages_that_not_every_run_has_are_those_of_its_plan():
    given = plan(read="compute", image_encode="stored", encode="compute")
    state = taken(*BEGUN[:2], given, events.StageStarted("read"))
    assert [stage.name for stage in state.stages.values()] == [
        *("load", "text", "read", "image", "encode", "denoise", "decode", "mux")
    ]
    assert state.stages["read"].status == "running"
    usual = [stage.name for stage in taken(*BEGUN).stages.values()]
    assert usual == ["load", "text", "denoise", "decode", "mux"]


def test_a_run_from_its_queue_to_its_end():
    state = taken(
        *BEGUN,
        events.StageStarted("load"),
        events.StageFinished("load", 1.5, False),
        events.StageStarted("text_encode"),
        events.StageFinished("text_encode", 0.1, False),
        events.StageStarted("denoise"),
        *(event for number in range(1, 6) for event in (step(number), link(number))),
        events.StageFinished("denoise", 2.5, False),
        events.StageStarted("decode"),
        events.ChunkDecoded(1, 2, 0.5),
        events.ChunkDecoded(2, 2, 0.5),
        events.StageFinished("decode", 1.0, False),
        events.LatentsStored("f" * 64),
        events.StageStarted("mux"),
        events.StageFinished("mux", 0.1, False),
        events.RunFinished("done"),
    )
    assert state.status == "done"
    assert state.is_over
    assert [stage.status for stage in state.stages.values()] == ["done"] * 5
    assert [stage.name for stage in state.stages.values()][:2] == ["load", "text"]
    assert [one.status for one in state.steps] == ["computed"] * STEPS
    assert [one.key for one in state.steps] == [f"key{n}" for n in range(1, 6)]
    assert all(one.is_stored for one in state.steps)
    assert (state.steps[1].std, state.steps[1].change, state.steps[1].sigma) == (0.9, 0.1, 0.8)
    assert state.rate == "2.00 it/s"
    assert state.latents == "f" * 64
    assert state.eta(None) == ""
    assert state.elapsed_seconds(10**20) == state.elapsed_seconds(0) > 0


def test_the_step_at_work_is_the_first_that_is_not_done():
    state = taken(*BEGUN, events.StageStarted("denoise"), step(1), step(2))
    assert [one.status for one in state.steps] == ["computed"] * 2 + ["running"] + ["todo"] * 2
    assert state.steps_done == 2


def test_no_step_runs_before_the_denoising():
    assert [one.status for one in taken(*BEGUN, events.StageStarted("load")).steps] == [
        "todo"
    ] * STEPS


def test_stages_that_were_stored_and_those_that_nobody_needs_are_told_apart():
    state = taken(
        events.RunStarted("e", 7),
        plan(text_encode="stored", decode="skip"),
        events.StageFinished("text_encode", 0.0, True),
        events.StageFinished("decode", 0.0, True),
    )
    assert state.stages["text_encode"].status == "cached"
    assert state.stages["decode"].status == "skipped"


def test_a_stage_of_a_newer_version_is_shown_by_its_own_name():
    state = taken(events.StageStarted("upscale"))
    assert state.stages["upscale"].status == "running"


def test_a_link_without_a_blob_is_a_step_that_is_not_stored():
    state = taken(*BEGUN, step(1), link(1, digest=""))
    assert state.steps[0].key == "key1"
    assert not state.steps[0].is_stored


def test_links_of_other_stages_are_not_steps():
    state = taken(events.LinkStored("text", 3, "k", "d", "", "computed"))
    assert state.steps == []


def test_values_that_are_not_finite_stay_unknown():
    state = taken(*BEGUN, step(1, mean=math.nan, std=math.nan, change=math.nan))
    assert math.isnan(state.steps[0].std)
    assert "change" not in state.lines[-1].text


# Time


def test_reused_steps_cost_nothing_and_are_told_as_saved():
    state = taken(*BEGUN[:2], plan(3), events.StageStarted("denoise"))
    assert state.eta_seconds(None) is None  # nothing computed yet
    state.take(entries(*(step(n, "reused") for n in (1, 2, 3)), first_id=10))
    assert state.saved_seconds is None
    state.take(entries(step(4), first_id=20))
    assert state.saved_seconds == 1.5
    assert state.eta_seconds(2.0) == 0.5 + 2.0


def test_steps_that_the_plan_knows_as_stored_are_not_waited_for():
    state = taken(*BEGUN[:2], plan(3), events.StageStarted("denoise"), step(4))
    assert state.eta_seconds(0.0) == pytest.approx(0.5)


def test_a_run_that_is_stored_whole_has_nothing_left():
    state = taken(events.RunStarted("e", 7), plan(STEPS, text_encode="stored", decode="stored"))
    assert state.eta_seconds(9.0) == 0


def test_decoding_that_nobody_has_timed_cannot_be_told():
    done = [step(number) for number in range(1, 6)]
    state = taken(*BEGUN, events.StageStarted("denoise"), *done)
    assert state.eta_seconds(None) is None
    assert state.eta_seconds(4.0) == 4.0


def test_decoding_is_told_by_its_own_chunks_once_there_are_some():
    state = taken(*BEGUN, *(step(number) for number in range(1, 6)))
    state.take(entries(events.StageStarted("decode"), first_id=50, first_ns=100 * SECOND))
    state.take(entries(events.ChunkDecoded(1, 4, 2.0), first_id=51, first_ns=102 * SECOND))
    assert state.eta_seconds(99.0) == 6.0
    assert state.eta(99.0) == "~0:06 left"


def test_the_rate_is_that_of_the_last_steps():
    slow_first = [step(1, seconds=60.0), *(step(n, seconds=2.0) for n in range(2, 6))]
    assert taken(*BEGUN, *slow_first).rate == "2.00 s/it"


def test_the_rate_at_the_end_is_that_of_all_steps():
    told = (step(1, "reused"), step(2, seconds=7.0), *(step(n, seconds=2.0) for n in (3, 4, 5)))
    assert taken(*BEGUN, *told).rate == "2.00 s/it"
    assert taken(*BEGUN, *told, events.RunFinished("done")).rate == "3.25 s/it"
    assert taken(*BEGUN, step(1, "reused"), events.RunFinished("done")).rate == ""


def test_elapsed_time_is_never_negative():
    assert taken(*BEGUN).elapsed_seconds(0) == 0


# Ends and new beginnings


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_broke_says_where(status):
    state = taken(
        *BEGUN,
        events.StageStarted("denoise"),
        step(1),
        events.RunFinished(status, "the \x1b[31mengine died"),
    )
    assert (state.status, state.error) == (status, "the \x1b[31mengine died")
    assert state.stages["denoise"].status == "failed"
    assert "running" not in {one.status for one in state.steps}
    assert state.lines[-1].level == "error"
    assert "\x1b" not in state.lines[-1].text


@pytest.mark.parametrize("status", ["paused", "cancelled"])
def test_a_run_that_was_stopped_has_not_failed(status):
    state = taken(*BEGUN, events.StageStarted("denoise"), step(1), events.RunFinished(status))
    assert state.stages["denoise"].status == "todo"
    assert state.lines[-1].level == "info"


def test_a_resumed_run_begins_anew_and_keeps_its_log():
    state = taken(
        *BEGUN,
        events.StageStarted("denoise"),
        step(1),
        events.MemorySampled(1, 1),
        events.RunPaused(),
        events.RunFinished("paused"),
    )
    lines = state.num_lines
    state.take(entries(events.RunResumed("paused"), events.RunQueued(), first_id=100))
    assert state.status == "queued"
    assert (state.steps, state.memory, state.error) == ([], [], "")
    assert state.elapsed_seconds(10**20) == 0
    assert state.num_lines == lines + 2
    second = (events.RunStarted("f", 8), plan(1), step(1, "reused"), events.StageStarted("denoise"))
    state.take(entries(*second, first_id=200))
    assert state.engine_pid == 8
    assert [one.status for one in state.steps] == ["reused", "running", *["todo"] * 3]


def test_a_log_in_pages_is_the_same_as_a_whole_one():
    log = entries(*BEGUN, events.StageStarted("denoise"), *(step(n) for n in range(1, 6)))
    whole, paged = RunState("a"), RunState("a")
    whole.take(log)
    for index in range(0, len(log), 2):
        paged.take(log[index : index + 2])
    assert plain(whole) == plain(paged)


# Any log


numbers = st.floats(0, 1e6) | st.just(math.nan)
texts = st.text(max_size=20)
stages = st.sampled_from(["load", "text_encode", "denoise", "decode", "mux", "upscale"])
any_event = st.one_of(
    st.builds(events.RunQueued),
    st.builds(events.RunStarted, texts, st.integers(0, 9)),
    st.builds(events.RunPaused),
    st.builds(events.RunResumed, texts),
    st.builds(
        events.PlanMade,
        st.integers(0, 9),
        st.integers(0, 9),
        st.dictionaries(stages, st.sampled_from(["stored", "compute", "skip", "new"])),
    ),
    st.builds(events.StageStarted, stages),
    st.builds(events.StageFinished, stages, st.floats(0, 99), st.booleans()),
    st.builds(
        events.StepFinished,
        st.integers(-1, 12),
        st.integers(0, 9),
        numbers,
        numbers,
        st.floats(0, 99),
        numbers,
        numbers,
        st.sampled_from(["computed", "reused", "skipped"]),
        numbers,
    ),
    st.builds(events.LinkStored, stages | st.just("step"), st.integers(0, 9), *[texts] * 4),
    st.builds(events.ChunkDecoded, st.integers(0, 9), st.integers(0, 9), st.floats(0, 9)),
    st.builds(events.MemorySampled, st.integers(0, 10**12), st.integers(0, 10**12)),
    st.builds(events.LatentsStored, texts),
    st.builds(events.RunFinished, st.sampled_from(["done", "failed", "paused", "x"]), texts),
    st.builds(events.Message, texts, texts),
)


@given(st.lists(any_event, max_size=60), st.integers(0, 60))
@settings(deadline=None)
def test_entries_that_come_twice_change_nothing(told, cut):
    log = entries(*told)
    once, twice = RunState("a"), RunState("a")
    once.take(log)
    twice.take(log[:cut])
    twice.take(log)
    twice.take(log)
    assert repr(plain(once)) == repr(plain(twice))  # NaN is not NaN
    assert twice.changes == len(told)


@given(st.lists(any_event, max_size=60), st.floats(0, 99) | st.none())
@settings(deadline=None)
def test_any_log_has_a_state_that_can_be_drawn(told, decode_seconds):
    state = taken(*told)
    assert 0 <= state.steps_done <= len(state.steps) <= 10
    assert sum(one.status == "running" for one in state.steps) <= 1
    left = state.eta_seconds(decode_seconds)
    assert left is None or left >= 0
    assert isinstance(state.eta(decode_seconds) + state.rate, str)
    assert all(line.text.isprintable() for line in state.lines)


# Long runs


def test_memory_stays_bounded_and_covers_the_whole_run():
    state = RunState("a")
    state.take(entries(events.RunStarted("e", 1)))
    samples = [events.MemorySampled(number, 0) for number in range(20_000)]
    state.take(entries(*samples, first_id=2))
    assert MAX_SAMPLES // 2 <= len(state.memory) <= MAX_SAMPLES
    seconds = [sample.seconds for sample in state.memory]
    assert seconds == sorted(seconds)
    assert seconds[0] < 200
    assert seconds[-1] > 19_800
    gaps = {round(after - before) for before, after in pairwise(seconds)}
    assert len(gaps) == 1


def test_log_lines_stay_bounded():
    state = RunState("a")
    state.take(entries(*[events.Message("info", f"line {number}") for number in range(5000)]))
    assert (len(state.lines), state.num_lines) == (MAX_LINES, 5000)
    assert state.lines[-1].text == "line 4999"


def test_a_video_is_known_by_its_key_until_the_run_is_gone_on_with():
    state = RunState("r")
    state.take(entries(events.LinkStored("video", 0, "clip", "d", "", "reused")))
    assert (state.video, state.steps) == ("clip", [])
    state.take(entries(events.RunResumed("done"), first_id=9))
    assert state.video == ""


def test_steps_of_an_earlier_attempt_are_told_as_it_measured_them():
    state = taken(*BEGUN, events.StageStarted("denoise"), step(1), events.RunFinished("paused"))
    (before, *_) = state.steps
    again = (
        events.RunResumed("paused"),
        events.RunStarted("f", 8),
        plan(2),
        events.StepFinished(1, 5, 0.9, 900.0, 0.0, source="reused"),
        events.StepFinished(2, 5, 0.8, 800.0, 0.0, source="reused"),
    )
    state.take(entries(*again, first_id=100))
    first, second, *_ = state.steps
    assert (first.status, first.mean, first.std) == ("reused", before.mean, before.std)
    assert math.isnan(second.std)
