"""Journeys of people in a terminal: the true command, the true engine, the micro model.

One of them launches its engine as a person's app does, from nothing; the others find one that was forked for them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest

from store.store import Store, open_store
from tests.integration.forker import Fault, Forked, forker
from tests.terminals.sessions import Session, open_session, press_until, wait_for, wait_until

__all__ = ["open_session"]  # a fixture

Open = Callable[[Path], Session]
PTY_ONLY = pytest.mark.parametrize("open_session", ["pty"], indirect=True)


@pytest.fixture
def store(own_folders: Path) -> Iterator[Store]:
    """The store that the sessions use; its engines end with the test."""
    with open_store(own_folders / "store") as opened:
        yield opened
        for engine in opened.engines():
            os.kill(engine.pid, signal.SIGKILL)


@pytest.fixture
def gate(own_folders: Path) -> Path:
    """The file before which the runs of `engine_at_gate` do not go beyond their fifth step. The app begins with a
    preset of 1000 steps."""
    presets = own_folders / "config" / "presets"
    presets.mkdir(parents=True)
    (presets / "long.toml").write_text('extends = "micro"\n[scheduler]\nsteps = 1000\n')
    (own_folders / "config" / "app.json").write_text(json.dumps({"preset": "long"}))
    return own_folders / "gate"


def engine_at_gate(store: Store, gate: Path) -> Forked:
    target = "engine.stages.denoise:_check_finite"
    wait = {"fault": "wait_for_file", "target": target, "call": 5, "path": str(gate)}
    return ready_engine(store, wait)


def ready_engine(store: Store, *faults: Fault) -> Forked:
    """One that the app finds."""
    engine = forker().start("engine.process.worker", "--store", str(store.root), faults=faults)
    deadline = time.monotonic() + 60
    while not store.engines():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return engine


def is_done(screen: str) -> bool:
    return "✓ done" in screen


def wait_for_steps(session: Session) -> str:
    """The screen of a run that is in the middle of its steps."""
    return wait_until(
        session,
        lambda screen: re.search(r"┃ ▶ running .* [1-9]\d* of 1000 steps", screen) is not None,
    )


def test_start_run_branch_quit(
    request: pytest.FixtureRequest, open_session: Open, store: Store, tmp_path: Path
):
    if "tmux" in request.node.name:
        ready_engine(store)
    session = open_session(tmp_path)
    wait_for(session, "Compose")
    wait_for(session, "0 of 20 steps")  # the plan is there
    press_until(session, "ctrl+r", "[2 Live]")
    screen = wait_until(session, is_done)
    [run] = store.runs(limit=10)
    assert run.id in screen
    assert Path(run.output).parent == tmp_path
    assert Path(run.output).name in screen  # a newcomer sees where it is
    frames, _ = imageio_ffmpeg.count_frames_and_secs(run.output)
    assert frames == 17

    session.press("home", *["right"] * 8)
    wait_for(session, "step 8 of 20")
    press_until(session, "b", "branch from")
    press_until(session, "ctrl+r", "nothing is changed, so")
    session.press("enter", "end", "1")  # the guidance scale
    session.press("ctrl+r")
    wait_until(session, lambda screen: "branch of" in screen and is_done(screen))
    branched, _ = store.runs(limit=10)
    assert (branched.parent, branched.parent_step) == (run.id, 8)

    session.press("ctrl+q")
    wait_until(session, lambda _screen: session.is_over())


@PTY_ONLY
def test_a_terminal_that_is_closed_leaves_the_run_live(
    open_session: Open, store: Store, gate: Path, tmp_path: Path
):
    engine_at_gate(store, gate)
    session = open_session(tmp_path)
    wait_for(session, "0 of 1000 steps")
    press_until(session, "ctrl+r", "[2 Live]")
    wait_for_steps(session)
    session.kill_terminal()
    wait_until(session, lambda _screen: session.is_over())
    again = open_session(tmp_path)
    wait_for(again, "▶")
    again.press("escape", "2")
    wait_for_steps(again)
    [run] = store.runs(limit=10)
    assert run.status == "running"
    again.press("ctrl+q")
    wait_for(again, "the engine goes on")
    again.press("d")
    wait_until(again, lambda _screen: again.is_over())
    assert store.run(run.id).status == "running"


@PTY_ONLY
def test_an_engine_that_is_killed_leaves_a_run_that_one_key_resumes(
    open_session: Open, store: Store, gate: Path, tmp_path: Path
):
    engine = engine_at_gate(store, gate)
    session = open_session(tmp_path)
    wait_for(session, "0 of 1000 steps")
    press_until(session, "ctrl+r", "[2 Live]")
    wait_for_steps(session)
    engine.kill()
    wait_for(session, "▲ interrupted")
    wait_for(session, "r Resume")
    engine_at_gate(store, gate)
    press_until(session, "r", "reused: text")
    wait_for_steps(session)
    press_until(session, "x", "cancel the run")
    session.press("y")
    wait_until(session, lambda _screen: store.cancel_requested(store.runs(limit=1)[0].id))
    gate.touch()
    wait_until(session, lambda _screen: store.runs(limit=1)[0].status == "cancelled")
    wait_for(session, "engine idle")
    session.press("ctrl+q")
    wait_until(session, lambda _screen: session.is_over())
