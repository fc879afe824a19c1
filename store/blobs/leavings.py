"""What killed commands left in people's folders: drafts with names of ours, removed by the next that writes there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from store import locks

STALE_SECONDS = 3600.0
# Where a video is encoded; an engine that somebody suspended over night may go on.
TEMPORARY_SECONDS = 86_400.0

# `.modiff-<uuid>`, and the name or the suffix of what it was to become.
DRAFT = re.compile(r"\.modiff-[0-9a-f]{32}(\..*)?")
_TEMPORARY = re.compile(r"modiff-[a-z0-9_]{8}")
_OF_ENCODING = (".mp4", ".mkv", ".webm", ".gif", ".webp", ".txt")
# After the same `.modiff-<uuid>`: what is locked as long as somebody is at work on the draft.
_LOCK = ".in-use.lock"


@contextlib.contextmanager
def in_use(draft: Path) -> Iterator[None]:
    """Nobody sweeps the draft while the block runs, however long ago it was written to: a lock lives and dies with
    its process, also for processes that do not see each other. Where a file system has no locks, its age tells.

    Raises OSError where the folder is not to be written to.
    """
    lock = _lock_of(draft)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(descriptor)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for a video in the making, among the system's temporary ones; nobody sweeps it while the block runs,
    whatever their clock says."""
    with tempfile.TemporaryDirectory(prefix="modiff-") as name:
        folder = Path(name)
        with locks.try_use(folder) or contextlib.nullcontext():
            yield folder


def sweep_leavings(folder: Path, pattern: re.Pattern[str] = DRAFT) -> int:
    """Remove the drafts in `folder` that are this user's, that nobody wrote to for an hour and nobody says to be at
    work on; returns how many.

    pattern: of the whole names of drafts; a folder is one with all that is in it. What cannot be read or removed is
    left alone.
    """
    num_removed = 0
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            with contextlib.suppress(OSError):
                if pattern.fullmatch(entry.name) and _is_left(Path(entry.path)):
                    _remove(Path(entry.path))
                    num_removed += 1
    return num_removed


def sweep_temporary() -> int:
    """Remove what killed engines left in the system's folder for temporary files; returns how many folders that was.

    Only those of this user that nobody else can enter, that hold a video in the making and nothing else, that nobody
    wrote to for a day and nobody uses.
    """
    num_removed = 0
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as found:
        for entry in found:
            with contextlib.suppress(OSError):
                path = Path(entry.path)
                if not (
                    _TEMPORARY.fullmatch(entry.name)
                    and _is_left(path, TEMPORARY_SECONDS)
                    and _is_of_encoding(path)
                ):
                    continue
                if held := locks.try_use(path, alone=True):
                    with held:
                        _remove(path)
                    num_removed += 1
    return num_removed


def _is_of_encoding(folder: Path) -> bool:
    if stat.S_IMODE(os.lstat(folder).st_mode) != 0o700:
        return False
    with os.scandir(folder) as found:
        return all(
            entry.is_file(follow_symlinks=False) and entry.name.endswith(_OF_ENCODING)
            for entry in found
        )


def _is_left(draft: Path, seconds: float = STALE_SECONDS) -> bool:
    status = os.lstat(draft)
    if status.st_uid != os.geteuid():
        return False
    newest = status.st_mtime
    if stat.S_ISDIR(status.st_mode):
        newest = max([newest, *(os.lstat(path).st_mtime for path in draft.rglob("*"))])
    return time.time() - newest > seconds and not _is_in_use(draft)


def _is_in_use(draft: Path) -> bool:
    try:
        descriptor = os.open(_lock_of(draft), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _lock_of(draft: Path) -> Path:
    return draft.with_name(f".{draft.name[1:].partition('.')[0]}{_LOCK}")


def _remove(draft: Path) -> None:
    if draft.is_dir() and not draft.is_symlink():
        shutil.rmtree(draft)
    else:
        draft.unlink()
