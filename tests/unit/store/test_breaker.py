"""A circuit breaker: one long wait, then short tries until one succeeds; nobody waits who is to stop."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from store import breaker as breaker_module
from store import locks
from store.breaker import Breaker
from store.errors import StoreBusy
from store.store import open_store
from store.upkeep import gc

HOLD = """
import sys
from pathlib import Path
from store import locks
with locks.acquire(Path(sys.argv[1]), timeout_seconds=5):
    print("held", flush=True)
    sys.stdin.readline()
"""
HOLD_DATABASE = """
import sys
from store.store import open_store
with open_store(sys.argv[1]) as store:
    store.lineage.db.conn.execute("BEGIN IMMEDIATE")
    print("held", flush=True)
    sys.stdin.readline()
"""
FOR_EVER = 1e9
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="tells who holds a lock")


@pytest.fixture
def no_pauses(monkeypatch):
    """Tries that end at once, and a clock that only attempts move on, by a second each."""
    now = [0.0]
    monkeypatch.setattr(breaker_module.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(breaker_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(breaker_module, "TRY_SECONDS", 1.0)
    return now


def attempts(now, *results):
    """An attempt that gives these one after the other, and the list of those made."""
    made = []

    def attempt():
        now[0] += 1.0
        made.append(results[len(made)] if len(made) < len(results) else None)
        return made[-1]

    return attempt, made


def test_only_the_first_wait_is_a_long_one(no_pauses):
    breaker = Breaker(5.0)
    lengths = []
    for _ in range(3):
        attempt, made = attempts(no_pauses)
        assert breaker.wait(attempt) is None
        lengths.append(len(made))
    assert lengths == [5, 1, 1]
    attempt, _ = attempts(no_pauses, "there")
    assert breaker.wait(attempt) == "there"
    attempt, made = attempts(no_pauses, None, None, "there")
    assert breaker.wait(attempt) == "there"
    assert len(made) == 3


def test_who_is_to_stop_waits_no_longer_than_a_short_try(no_pauses):
    breaker = Breaker(FOR_EVER, lambda: True)
    attempt, made = attempts(no_pauses)
    assert breaker.wait(attempt) is None
    assert (len(made), breaker.is_open) == (1, False)


def test_a_request_to_stop_ends_a_wait_that_has_begun(root, store, start):
    """For a lock and for the database alike."""
    asked = iter([False, False, True])
    breaker = Breaker(FOR_EVER, lambda: next(asked, True))
    process = start(HOLD, root / "locks" / "gc")
    process.read()
    with pytest.raises(StoreBusy), gc.writing(root, breaker):
        pass
    start(HOLD_DATABASE, root).read()
    asked = iter([False, True])
    with open_store(root, breaker=breaker) as other, pytest.raises(StoreBusy):
        other.enqueue(b"{}", preset="p", output="o")


def test_a_write_is_made_as_soon_as_the_database_is_free(root, store, start):
    holder = start(HOLD_DATABASE, root)
    holder.read()
    asked = []

    def ask():
        if len(asked) == 1:
            holder.kill()
        asked.append(True)
        return False

    with open_store(root, breaker=Breaker(FOR_EVER, ask)) as other:
        run_id = other.enqueue(b"{}", preset="p", output="o")
    assert store.run(run_id).status == "queued"


@only_linux
def test_the_message_names_who_holds_a_lock(root, store, start):
    path = root / "locks" / "gc"
    holder = start(HOLD, path)
    holder.read()
    pid = holder.child.pid
    assert locks.holders(path) == [pid]
    named = rf"^{path} is held by process {pid} \(python[^,)]*\); try again, or end that process$"
    with pytest.raises(StoreBusy, match=named):
        locks.acquire(path, timeout_seconds=0)
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)
    with pytest.raises(StoreBusy, match=rf"process {pid} \(python[^,)]*, suspended\)"):
        locks.acquire(path, timeout_seconds=0)
    holder.kill()
    assert (locks.holders(path), locks.holder(path)) == ([], "another process")
    assert locks.holders(root / "none") == []


@only_linux
def test_the_message_names_who_holds_the_database(root, store, start):
    holder = start(HOLD_DATABASE, root)
    holder.read()
    named = rf"is locked by process {holder.child.pid} \(python"
    for breaker in (None, Breaker(0.0)):
        with (
            open_store(root, busy_seconds=0.01, breaker=breaker) as other,
            pytest.raises(StoreBusy, match=named),
        ):
            other.enqueue(b"{}", preset="p", output="o")


def test_a_clean_up_that_does_not_move_costs_a_writer_one_long_wait(
    root, store, no_pauses, monkeypatch
):
    """The turn that is free meanwhile does not begin the waiting anew."""
    tried = []
    try_acquire = locks.try_acquire

    def counted(path, *, shared=False):
        tried.append(path.name)
        if path.name == "gc":
            no_pauses[0] += 1.0
            return None
        return try_acquire(path, shared=shared)

    monkeypatch.setattr(locks, "try_acquire", counted)
    breaker = Breaker(5.0)
    lengths = []
    for _ in range(3):
        tried.clear()
        with pytest.raises(StoreBusy), gc.writing(root, breaker):
            pass
        lengths.append(tried.count("gc"))
    assert lengths == [5, 1, 1]
