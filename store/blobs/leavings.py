"""What killed commands left in people's folders: drafts with names of ours, removed by the next that writes there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path

STALE_SECONDS = 3600.0
# Where a video is encoded; an engine that somebody suspended over night may go on.
TEMPORARY_SECONDS = 86_400.0

# `.modiff-<uuid>`, and the name or the suffix of what it was to become.
DRAFT = re.compile(r"\.modiff-[0-9a-f]{32}(\..*)?")
_TEMPORARY = re.compile(r"modiff-[a-z0-9_]{8}")
_OF_ENCODING = (".mp4", ".txt")


def sweep_leavings(folder: Path, pattern: re.Pattern[str] = DRAFT) -> int:
    """Remove the drafts in `folder` that are this user's and that nobody wrote to for an hour; returns how many.

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

    Only those of this user that nobody else can enter, that hold a video in the making and nothing else, and that
    nobody wrote to for a day.
    """
    num_removed = 0
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as found:
        for entry in found:
            with contextlib.suppress(OSError):
                path = Path(entry.path)
                if (
                    _TEMPORARY.fullmatch(entry.name)
                    and _is_left(path, TEMPORARY_SECONDS)
                    and _is_of_encoding(path)
                ):
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
    return time.time() - newest > seconds


def _remove(draft: Path) -> None:
    if draft.is_dir() and not draft.is_symlink():
        shutil.rmtree(draft)
    else:
        draft.unlink()
