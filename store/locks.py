"""Locks that die with their holder: flock on close-on-exec descriptors.

A holder that is killed releases its lock at once, without a timeout to wait for. Descriptors
are close-on-exec, so a child program (ffmpeg) never keeps the lock of a dead parent; a child
made by fork alone would, so nothing here may be held across a bare fork.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from store.breaker import Breaker
from store.errors import StoreBusy, StoreError, StoreUnwritable

_PROC = Path("/proc")


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


def try_use(path: Path, *, alone: bool = False) -> HeldLock | None:
    """Lock a file itself, which no clean-up removes as long as somebody uses it; None where it is not there, or others
    do. alone: as a clean-up does, where nobody uses it; else any number may."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        # it may have been removed before it was locked
        is_there = os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        is_there = False
    if is_there:
        return HeldLock(path, descriptor)
    os.close(descriptor)
    return None


def acquire(
    path: Path, *, timeout_seconds: float, shared: bool = False, breaker: Breaker | None = None
) -> HeldLock:
    """Take the lock, waiting for its holder; StoreBusy, which names it, when that takes too long.

    breaker: decides how long, in the place of timeout_seconds.
    """
    lock = (breaker or Breaker(timeout_seconds)).wait(lambda: try_acquire(path, shared=shared))
    if lock is None:
        raise StoreBusy(f"{path} is held by {holder(path)}; try again, or end that process")
    return lock


def holder(path: Path, byte: int | None = None) -> str:
    """Who holds a lock, for people: "process 123 (modiff, suspended)", or "another process" where nobody can tell.

    byte: of a lock on one byte of the file, instead of its flock.
    """
    for pid in holders(path, byte):
        try:
            # PID (NAME) STATE ...: the name may hold blanks and parentheses itself
            name, _, rest = (
                (_PROC / str(pid) / "stat")
                .read_text(errors="replace")
                .partition("(")[2]
                .rpartition(")")
            )
        except OSError:
            return f"process {pid}"
        printable = "".join(character for character in name if character.isprintable())
        return f"process {pid} ({printable}{', suspended' if rest.split()[:1] == ['T'] else ''})"
    return "another process"


def holders(path: Path, byte: int | None = None) -> list[int]:
    """The pids of the processes that hold a lock, as far as the system tells; only Linux does, and only of processes
    that it shows. byte: as of `holder`."""
    try:
        status = os.stat(path)
        lines = (_PROC / "locks").read_text().splitlines()
    except OSError:
        return []
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    found = []
    for line in lines:
        # NUMBER: KIND ADVISORY MODE PID DEVICE:INODE FIRST LAST; "->" in the second place for one who waits
        fields = line.split()
        if len(fields) != 8 or fields[5] != f"{device}:{status.st_ino}":
            continue
        _, kind, _, mode, pid, _, first, last = fields
        if byte is None:
            is_it = kind == "FLOCK"
        else:
            is_it = mode == "WRITE" and kind in ("POSIX", "OFDLCK") and _covers(first, last, byte)
        if is_it and int(pid) > 0:
            found.append(int(pid))
    return found


def _covers(first: str, last: str, byte: int) -> bool:
    return int(first) <= byte and (last == "EOF" or byte <= int(last))


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
