"""Locks that die with their holder: flock on close-on-exec descriptors.

A holder that is killed releases its lock at once, without a timeout to wait for. Descriptors
are close-on-exec, so a child program (ffmpeg) never keeps the lock of a dead parent; a child
made by fork alone would, so nothing here may be held across a bare fork.
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from store.errors import StoreBusy, StoreError, StoreUnwritable

if TYPE_CHECKING:
    from pathlib import Path

POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock; held until `release`, the end of its `with`, or the process's death."""

    path: Path
    descriptor: int

    def release(self) -> None:
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def try_acquire(path: Path, *, shared: bool = False) -> HeldLock | None:
    """Take the lock now, or return None when another descriptor holds it.

    shared: any number may hold it so at once, but not while one holds it for itself alone.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreUnwritable(f"cannot open the lock {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        raise StoreError(
            f"cannot lock {path}: {error.strerror}; the store must be on a local filesystem"
        ) from error
    return HeldLock(path, descriptor)


def acquire(path: Path, *, timeout_seconds: float, shared: bool = False) -> HeldLock:
    """Take the lock, waiting for its holder; StoreBusy when that takes too long."""
    deadline = time.monotonic() + timeout_seconds
    while (lock := try_acquire(path, shared=shared)) is None:
        if time.monotonic() > deadline:
            raise StoreBusy(
                f"another process has held {path} for more than {timeout_seconds:g} s; try again"
            )
        time.sleep(POLL_SECONDS)
    return lock


def is_held(path: Path) -> bool:
    """Whether some process holds the lock now.

    The probe takes a shared lock for an instant: never probe a lock that others `try_acquire`,
    only one that its single owner took before making it known.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreUnwritable(f"cannot open the lock {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
