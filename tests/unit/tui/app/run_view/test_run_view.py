"""The panels of a run: what they show of a state, at any size, and that they draw only what is new."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from store.lineage import events
from store.lineage.records import LogEntry, RunRecord
from tests.terminals.opened import WAIT_SECONDS
from tests.unit.tui.live_run import picture
from tui.app.run_view import cells as run_cells
from tui.app.run_view.head import RunHead
from tui.app.run_view.log_view import LogView
from tui.app.run_view.stages import Stages
from tui.app.run_view.timeline import Timeline
from tui.app.run_view.view import RunView
from tui.app.widgets.picture import Picture
from tui.app.widgets.plot import Plot
from tui.describe.runs.following.state import RunState

SECOND = 10**9
STEPS = 6
SIGMAS = (1.0, 0.9, 0.75, 0.6, 0.4, 0.2, 0.0)
RECORD = RunRecord(
    id="k3f",
    status="running",
    preset="micro",
    spec_json=json.dumps({"prompt": "a \x1b[2Jstar", "seed": 7}).encode(),
    output="/v/" + "long/" * 30 + "star.mp4",
    engine="e",
    error="",
    cancel_requested=False,
    pause_requested=False,
    created_ns=0,
    started_ns=SECOND,
    ended_ns=None,
    parent="m2a",
    parent_step=2,
    segments=(),
    stop_at=None,
    note="",
    pinned=False,
    latents="",
    environment="",
    origin="local",
)
BEGUN = (
    events.RunStarted("e", 7),
    events.PlanMade(2, STEPS, {"text_encode": "stored", "denoise": "compute", "decode": "compute"}),
    events.StageFinished("text_encode", 0.0, True),
    events.StageStarted("denoise"),
)


def step(number: int, source: str = "computed", std: float = 0.9) -> events.StepFinished:
    values = (0.5, 0.01, std) if source == "computed" else (0.0, math.nan, math.nan)
    change = 0.1 if source == "computed" else math.nan
    return events.StepFinished(number, STEPS, SIGMAS[number - 1], 9, *values, source, change)


def state_of(*told: events.Event) -> RunState:
    state = RunState("k3f")
    state.take(LogEntry(n, n * SECOND, event) for n, event in enumerate((*BEGUN, *told), start=1))
    return state


HALF = (step(1, "reused"), step(2, "reused"), step(3), events.MemorySampled(5 << 20, 9 << 30))


def viewed(
    act: Callable[[RunView, Pilot[None]], Awaitable[None]], size: tuple[int, int] = (120, 34)
) -> None:
    class ViewApp(App[None]):
        def compose(self) -> ComposeResult:
            yield RunView()

    async def run() -> None:
        app = ViewApp()
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await act(app.query_one(RunView), pilot)

    asyncio.run(run())


def show(view: RunView, state: RunState, **known: object) -> None:
    known = {"record": RECORD, "sigmas": SIGMAS, "now_ns": 20 * SECOND, **known}
    view.show(state, **known)  # type: ignore[arg-type]


def head_of(view: RunView) -> list[str]:
    head = view.query_one(RunHead)
    return [head.render_line(y).text.rstrip() for y in range(head.size.height)]


async def fits(view: RunView, pilot: Pilot[None], width: int) -> None:
    """Once the screen is laid out anew, no line of the head is wider than it."""
    end = time.monotonic() + WAIT_SECONDS
    while not all(len(line) <= width for line in head_of(view)):
        assert time.monotonic() < end, (width, head_of(view))
        await pilot.pause(0.02)


# What is told


def test_the_head_of_a_run_at_work():
    head = run_cells.head(state_of(*HALF), RECORD, decode_seconds=2.0, now_ns=11 * SECOND)
    assert (head.symbol, head.status) == ("▶", "running")
    assert head.times == "0:10  ~0:04 left  2.00 it/s  3 of 6 steps  50%"
    assert head.origin == "micro · branch of m2a @2 · seed 7 · a \\x1b[2Jstar"
    assert head.hits == "reused: text, 2 of 6 steps; ~1.00 s saved"
    assert head.message == "memory 5 MiB + 9.0 GiB device"


def test_what_was_changed_of_the_preset_comes_before_the_prompt():
    head = run_cells.head(
        state_of(), RECORD, changes="quantise int8", decode_seconds=None, now_ns=0
    )
    assert head.origin == "micro · branch of m2a @2 · seed 7 · quantise int8 · a \\x1b[2Jstar"


@pytest.mark.parametrize(
    ("asked", "told"), [("pause_requested", "paused"), ("cancel_requested", "cancelled")]
)
def test_what_was_asked_for_is_told_until_it_happens(asked, told):
    record = replace(RECORD, **{asked: True})
    head = run_cells.head(state_of(*HALF), record, decode_seconds=None, now_ns=0)
    assert head.status == f"running, to be {told} after this step"


def test_a_head_without_a_record():
    head = run_cells.head(RunState("k3f"), None, decode_seconds=None, now_ns=0)
    assert (head.origin, head.hits, head.times) == ("", "", "")


def test_a_record_of_a_newer_version_has_a_head():
    record = replace(RECORD, spec_json=b'{"prompt": 3, "seed": "x"}', parent="", preset="")
    head = run_cells.head(state_of(), record, decode_seconds=None, now_ns=0)
    assert head.origin == "no preset"


def test_stages_say_what_runs_and_how_far_it_is():
    state = state_of(*HALF)
    cells = {cell.name: cell for cell in run_cells.stage_cells(state, 9 * SECOND)}
    assert cells["text"].state == "cached"
    assert (cells["denoise"].state, cells["denoise"].detail) == ("running", "3/6")
    state.take([LogEntry(50, 50 * SECOND, events.StageStarted("decode"))])
    cells = {cell.name: cell for cell in run_cells.stage_cells(state, 54 * SECOND)}
    assert cells["decode"].detail == "0:04"


def test_steps_that_the_plan_knows_as_stored_show_it_before_their_turn():
    assert [cell.is_stored for cell in run_cells.step_cells(state_of())] == [True] * 2 + [False] * 4


def test_points_of_a_run_at_rest_outrank_its_log():
    link = events.LinkStored("step", 2, "key", "d", "l", "computed")
    state = state_of(*HALF, link)
    assert run_cells.step_cells(state)[2].is_stored
    assert not run_cells.step_cells(state, {0, 1, 2})[2].is_stored


def test_the_schedule_in_what_is_done_and_what_is_planned():
    done, planned = run_cells.sigma_series(state_of(*HALF), SIGMAS)
    assert (done.xs, done.ys) == ((0, 1, 2, 3), SIGMAS[:4])
    assert (planned.xs, planned.ys) == ((3, 4, 5, 6), SIGMAS[3:])
    (known,) = run_cells.sigma_series(state_of(*HALF), ())
    assert known.ys == SIGMAS[:3]


def test_statistics_leave_reused_steps_open():
    std, mean, change = run_cells.latent_series(state_of(*HALF))
    assert std.xs == (1, 2, 3)
    assert math.isnan(std.ys[0])
    assert (std.ys[2], mean.ys[2], change.ys[2]) == (0.9, 0.01, 0.1)
    assert run_cells.latent_series(state_of(step(1, "reused"))) == []


def test_memory_of_a_device_only_where_there_is_one():
    assert [line.name for line in run_cells.memory_series(state_of(*HALF))] == ["host", "device"]
    host_only = state_of(events.MemorySampled(1, 0))
    assert [line.name for line in run_cells.memory_series(host_only)] == ["host"]
    assert run_cells.memory_series(state_of()) == []


def test_memory_is_drawn_against_what_the_plan_told():
    planned = events.MemoryPlanned({"denoise": {"cuda:0": 2**33, "cpu": 9}})
    state = state_of(planned, *HALF)
    line = run_cells.memory_series(state)[-1]
    assert (line.name, set(line.ys)) == ("planned", {2**33})
    assert run_cells.memory_series(state_of(planned)) == []  # nothing measured yet
    assert state_of(planned, events.RunResumed("paused")).planned is None


def test_values_of_a_step():
    state = state_of(*HALF)
    told = run_cells.step_values(state, 3, SIGMAS)
    assert told == "σ 0.600  std 0.900  mean 0.010  |Δ| 0.100"
    assert run_cells.step_values(state, 0, SIGMAS) == "σ 1.000"
    assert run_cells.step_values(state, 99, ()) == ""


def test_latents_that_are_not_finite_are_found():
    assert run_cells.bad_step(state_of(*HALF)) == 0
    assert run_cells.bad_step(state_of(step(1), step(2, std=math.nan), step(3))) == 2


# What is drawn


def test_any_size():
    async def act(view: RunView, pilot: Pilot[None]) -> None:
        for size in ((120, 34), (80, 22), (200, 60), (30, 10), (8, 3), (101, 28)):
            await pilot.resize_terminal(*size)
            for told in ((), HALF, (*HALF, events.RunFinished("done"))):
                show(view, state_of(*told))
                view.show_preview(picture(9), "step 3")
                await pilot.pause()
                for _ in range(5 if told == HALF else 0):
                    view.action_tab(1)
                    await pilot.pause()
                await fits(view, pilot, size[0])

    viewed(act)


def test_all_panels_at_the_size_of_a_usual_terminal():
    async def act(view: RunView, pilot: Pilot[None]) -> None:
        show(view, state_of(*HALF))
        view.show_preview(picture(9), "step 3")
        await pilot.pause()
        assert [panel.id for panel in view.query(".panel") if panel.display] == [
            "run",
            "memory",
            "sigma",
            "latents",
            "preview",
            "log",
        ]
        assert "denoise 3/6" in view.query_one(Stages).render_line(0).text
        assert view.query_one(Timeline).cursor == 3
        assert "σ 0.600" in str(view.query_one("#run").border_subtitle)
        for name in ("sigma", "latents", "memory"):
            plot = view.query_one(f"#{name} Plot", Plot)
            lines = [plot.render_line(y).text for y in range(plot.size.height)]
            assert any(ord(character) > 0x2800 for line in lines for character in line), name

    viewed(act)


def test_a_path_that_is_too_long_keeps_its_end():
    async def act(view: RunView, pilot: Pilot[None]) -> None:
        show(view, state_of(*HALF, events.RunFinished("done")))
        await pilot.pause()
        assert head_of(view)[3].startswith("…")
        assert head_of(view)[3].endswith("star.mp4")

    viewed(act, (80, 22))


def test_a_long_error_takes_two_lines():
    async def act(view: RunView, pilot: Pilot[None]) -> None:
        words = " ".join(f"word{number}" for number in range(20))
        show(view, state_of(*HALF, events.RunFinished("failed", words)))
        await pilot.pause()
        assert " ".join(head_of(view)[2:]) == words
        assert head_of(view)[0].startswith("✖ failed")

    viewed(act, (80, 22))


def test_nothing_is_drawn_again_that_has_not_changed(monkeypatch):
    async def act(view: RunView, pilot: Pilot[None]) -> None:
        state = state_of(*HALF)
        show(view, state)
        await pilot.pause()
        drawn: list[type] = []
        for kind in (RunHead, Stages, Timeline, Plot, Picture):
            monkeypatch.setattr(kind, "redraw", lambda widget: drawn.append(type(widget)))
        monkeypatch.setattr(LogView, "add", lambda *_args, **_options: drawn.append(LogView))
        for _ in range(3):
            show(view, state, now_ns=20 * SECOND + 10_000)
        assert drawn == []
        show(view, state, now_ns=22 * SECOND)
        assert drawn == [RunHead]  # the clock

    viewed(act)


def test_plots_and_log_wait_half_a_second_but_never_for_ever():
    async def act(view: RunView, pilot: Pilot[None]) -> None:
        state = state_of(*HALF)
        show(view, state)
        seen = view._num_lines
        state.take([LogEntry(90, 90 * SECOND, step(4))])
        show(view, state, now_ns=20 * SECOND + SECOND // 10)
        assert view._num_lines == seen
        show(view, state, now_ns=21 * SECOND)
        assert view._num_lines == seen + 1
        state.take([LogEntry(91, 91 * SECOND, events.RunFinished("done"))])
        show(view, state, now_ns=21 * SECOND + 1)
        assert view._num_lines == seen + 2

    viewed(act)


def test_another_run_leaves_nothing_of_the_one_before():
    async def act(view: RunView, pilot: Pilot[None]) -> None:
        show(view, state_of(*HALF))
        view.show_preview(picture(9), "step 3")
        await pilot.pause()
        show(view, RunState("other"), sigmas=())
        await pilot.pause()
        assert view.query_one("#run").border_title == "other"
        assert view.cursor == 0
        assert not view.query_one(LogView).lines
        assert str(view.query_one("#preview").border_subtitle or "") == ""

    viewed(act)


def test_latents_that_are_not_finite_are_told_where_they_are_plotted():
    async def act(view: RunView, pilot: Pilot[None]) -> None:
        show(view, state_of(step(1), step(2, std=math.nan)))
        await pilot.pause()
        assert "✖ not finite at step 2" in str(view.query_one("#latents").border_subtitle)

    viewed(act)
