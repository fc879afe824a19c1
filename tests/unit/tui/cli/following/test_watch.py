"""What watching does with signals that arrive together, without a process to send them."""

from __future__ import annotations

import os
import signal

import pytest

from engine.process.version import installed_version
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.database.database import immediate
from store.lineage.events import StageStarted, StepFinished
from store.store import open_store
from tui.cli.following.progress import SilentDisplay
from tui.cli.following.watch import Signals, watch


def step(number: int) -> StepFinished:
    """One of eight that took next to no time."""
    return StepFinished(number, 8, 0.5, 9, 1e-9, 0.01, 0.9, change=0.1)


@pytest.fixture
def store():
    """With an engine of this process that has leased a run and does nothing."""
    with (
        open_store() as opened,
        opened.register_engine("engineaaaa", pid=os.getpid(), version=installed_version()),
    ):
        opened.enqueue(encode_spec(load_preset("micro")), preset="micro", output="/v.mp4")
        opened.lease("engineaaaa")
        yield opened


def test_two_interrupts_at_once_leave_and_still_cancel(store):
    (run,) = store.runs(limit=1)
    signals = Signals()
    signals.interrupts = 2
    watched = watch(store, run.id, SilentDisplay(), signals)
    assert (watched.cancel_asked, watched.state.is_over) == (True, False)
    assert store.cancel_requested(run.id)


def test_an_end_signal_leaves_without_cancelling(store):
    (run,) = store.runs(limit=1)
    signals = Signals()
    signals.ended_by = signal.SIGTERM
    watched = watch(store, run.id, SilentDisplay(), signals)
    assert not watched.cancel_asked
    assert not store.cancel_requested(run.id)


def test_the_handlers_of_before_come_back():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert (signals.interrupts, signals.ended_by) == (1, signal.SIGTERM)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


class Notes(SilentDisplay):
    """Keeps its lines; each is followed by what is to come after it, the last one by leaving."""

    def __init__(self, signals, *after):
        self.lines = []
        self._signals = signals
        self._after = list(after)

    def note(self, line):
        self.lines.append(line)
        if self._after:
            self._after.pop(0)()
        else:
            self._signals.ended_by = signal.SIGTERM


def test_who_watches_is_told_once_that_the_engine_is_silent_and_that_it_is_not(store, monkeypatch):
    monkeypatch.setattr("tui.cli.following.watch.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("tui.cli.following.watch.TICK_SECONDS", 0.001)
    (run,) = store.runs(limit=1)
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE engines SET heartbeat_ns=heartbeat_ns - 60000000000")
    signals = Signals()
    notes = Notes(signals, lambda: store.heartbeat("engineaaaa"))
    watch(store, run.id, notes, signals)
    silent, alive = notes.lines
    assert f"the engine (process {os.getpid()}) has given no sign of life for 6" in silent
    assert "`modiff engine stop --force`" in silent
    assert alive == "the engine gives signs of life again"


def test_who_watches_is_told_once_that_a_step_takes_long_and_that_it_ended(store, monkeypatch):
    monkeypatch.setattr("tui.cli.following.watch.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("tui.cli.following.watch.TICK_SECONDS", 0.001)
    monkeypatch.setattr("tui.describe.runs.following.stalling.LEAST_SECONDS", 0.0)
    monkeypatch.setattr("tui.describe.runs.following.stalling.FIRST_SECONDS", 1e9)
    (run,) = store.runs(limit=1)
    store.append(run.id, [StageStarted("denoise"), step(1), step(2)])
    signals = Signals()

    def go_on():
        monkeypatch.setattr("tui.describe.runs.following.stalling.LEAST_SECONDS", 1e9)
        store.append(run.id, [step(3)])

    notes = Notes(signals, go_on)
    watch(store, run.id, notes, signals)
    stall, again = notes.lines
    assert "no progress since" in stall
    assert "of 8 done, which usually take" in stall
    assert again == "the run gets on again"
    assert store.run(run.id).status == "running"
