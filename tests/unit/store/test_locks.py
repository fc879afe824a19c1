"""Locks between real processes: exclusive, free as soon as the holder is dead, never inherited."""

from __future__ import annotations

import os
import signal

import pytest

from store import locks
from store.errors import StoreBusy, StoreUnwritable

HOLD = """
import subprocess, sys
from pathlib import Path
from store import locks
lock = locks.try_acquire(Path(sys.argv[1]))
child = subprocess.Popen(["sleep", "60"], close_fds=False, stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL) if sys.argv[2:] else None
print(child.pid if child else "held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


def test_a_lock_is_exclusive_until_released(start, tmp_path):
    path = tmp_path / "lock"
    assert not locks.is_held(path)
    holder = start(HOLD, path)
    holder.read()
    assert locks.is_held(path)
    assert locks.try_acquire(path) is None
    with pytest.raises(StoreBusy, match="held"):
        locks.acquire(path, timeout_seconds=0.05)
    holder.go()
    holder.read()
    assert not locks.is_held(path)
    with locks.acquire(path, timeout_seconds=5):
        assert locks.is_held(path)
    assert not locks.is_held(path)


def test_a_lock_dies_with_its_holder(start, tmp_path):
    holder = start(HOLD, tmp_path / "lock")
    holder.read()
    holder.kill()
    assert not locks.is_held(tmp_path / "lock")


def test_a_child_program_does_not_keep_the_lock_of_its_dead_parent(start, tmp_path):
    holder = start(HOLD, tmp_path / "lock", "with child")
    child = int(holder.read())
    holder.kill()
    try:
        os.kill(child, 0)
        assert not locks.is_held(tmp_path / "lock")
    finally:
        os.kill(child, signal.SIGKILL)


def test_probing_does_not_create_or_keep_the_lock(tmp_path):
    assert not locks.is_held(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()
    with locks.acquire(tmp_path / "lock", timeout_seconds=0):
        assert locks.is_held(tmp_path / "lock")
        assert locks.is_held(tmp_path / "lock")


def test_a_lock_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnwritable, match="cannot open the lock"):
        locks.try_acquire(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_is_used_by_many_or_by_one_alone(tmp_path):
    path = tmp_path / "weights"
    assert locks.try_use(path) is None
    assert not path.exists()
    path.touch()
    with locks.try_use(path), locks.try_use(path):
        assert locks.try_use(path, alone=True) is None
    with locks.try_use(path, alone=True):
        assert locks.try_use(path) is None
    with locks.try_use(path):
        pass


def test_a_file_that_is_removed_before_it_is_locked_is_not_used(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    path.touch()
    flock = locks.fcntl.flock

    def late(descriptor, how):
        path.unlink()
        path.touch()  # another one
        flock(descriptor, how)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    assert locks.try_use(path) is None
