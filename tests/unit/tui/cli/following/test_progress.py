"""Progress from events, and what the two displays make of it."""

from __future__ import annotations

import os
import pty

import pytest
from rich.console import Console

from store.lineage.events import (
    ChunkDecoded,
    MemorySampled,
    Message,
    RunQueued,
    RunStarted,
    StageFinished,
    StageStarted,
    StepFinished,
)
from tui.cli.following import progress as progress_module
from tui.cli.following.progress import (
    LineDisplay,
    LiveDisplay,
    SilentDisplay,
    numbers,
    open_display,
    stage_told,
)
from tui.describe.runs.following.state import RunState


def step(number: int, total: int, seconds: float) -> StepFinished:
    return StepFinished(number, total, 0.5, 500.0, seconds)


def applied(*events) -> RunState:
    state = RunState("run")
    for event in events:
        state.apply(event, 1)
    return state


def test_a_run_goes_from_queued_through_its_stages_to_its_end():
    state = applied(RunQueued())
    assert stage_told(state) == "queued"
    state.apply(RunStarted("engine", 1), 1)
    assert stage_told(state) == "starting"
    state.apply(StageStarted("denoise"), 1)
    state.apply(step(3, 20, 0.1), 1)
    assert (stage_told(state), state.counted) == ("denoise", (1, 20))
    state.apply(StageStarted("decode"), 1)
    assert (stage_told(state), state.counted, numbers(state)) == ("decode", (0, 0), [])
    state.apply(ChunkDecoded(1, 4, 0.5), 1)
    assert (state.counted, numbers(state)) == ((1, 4), ["2.00 it/s", "eta 0:02"])


def test_rate_and_eta_follow_the_median_step_and_not_a_slow_first_one():
    seconds = [30.0, 0.5, 0.5, 0.5]
    steps = (step(i + 1, 24, each) for i, each in enumerate(seconds))
    assert numbers(applied(StageStarted("denoise"), *steps)) == ["2.00 it/s", "eta 0:10"]


def test_steps_longer_than_a_second_are_told_in_seconds():
    state = applied(StageStarted("denoise"), step(1, 61, 61.0))
    assert numbers(state) == ["61.00 s/it", "eta 1:01:00"]


def test_after_the_last_step_nothing_is_left():
    steps = (step(number, 2, 0.1) for number in (1, 2))
    assert numbers(applied(StageStarted("denoise"), *steps)) == ["10.00 it/s"]


def test_memory_names_the_device_only_where_there_is_one():
    assert numbers(applied(MemorySampled(300 << 20, 0))) == ["300 MiB"]
    assert numbers(applied(MemorySampled(3 << 30, 11 << 30))) == ["3.0 GiB + 11.0 GiB device"]


@pytest.fixture
def clock(monkeypatch):
    """The time that displays see, set by the test."""
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_lines_one_for_a_stage_and_at_most_one_a_second_for_steps(capsys, clock):
    display, state = LineDisplay(), RunState("run")
    events = [StageStarted("denoise"), *(step(i, 30, 0.1) for i in range(1, 31))]
    for event in [*events, StageFinished("denoise", 3.0, False), StageStarted("decode")]:
        state.apply(event, 1)
        display.update(state, event)
        if isinstance(event, StepFinished):
            clock[0] += 0.125
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "denoise",
        "denoise: step 1/30",
        "denoise: step 9/30",
        "denoise: step 17/30",
        "denoise: step 25/30",
        "denoise: step 30/30",
        "decode",
    ]


def test_messages_of_the_engine_are_shown_harmless_and_only_when_they_matter(capsys):
    display = LineDisplay()
    display.update(RunState("run"), Message("info", "loaded the vae"))
    display.update(RunState("run"), Message("warning", "bad \x1b[31mthings\nhere"))
    assert capsys.readouterr().err == "warning: bad \\x1b[31mthings here\n"


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_the_live_line_fits_the_terminal_whole(width, clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    display = LiveDisplay()
    try:
        events = [StageStarted("denoise"), MemorySampled(1 << 34, 1 << 36)]
        events += [step(number, 1000, 12.5) for number in range(1, 8)]
        line = display._line(applied(*events), 3.0)
    finally:
        display.close()
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(line)
    text = console.export_text().rstrip("\n")
    assert "\n" not in text
    assert "…" not in text
    assert text.startswith("  denoise")
    if width >= 40:
        assert "7/1000" in text
    if width >= 80:
        assert "12.50 s/it" in text
        assert "eta 3:26:52" in text


def test_the_display_fits_stderr(monkeypatch):
    assert isinstance(open_display(quiet=True), SilentDisplay)
    assert isinstance(open_display(quiet=False), LineDisplay)
    master, slave = pty.openpty()
    with os.fdopen(master), os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(open_display(quiet=False), LineDisplay)
        monkeypatch.setenv("TERM", "xterm-256color")
        display = open_display(quiet=False)
        assert isinstance(display, LiveDisplay)
        display.close()
