"""Copies of the database, made before it is migrated: backup/lineage-<version>-<ns>.db."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from typing import TYPE_CHECKING

from store.blobs.files import disk_error, sync_file, sync_folder

if TYPE_CHECKING:
    from pathlib import Path

    from store.database.sqlite import sqlite3

KEPT = 3

_NAME = re.compile(r"lineage-\d+-(\d+)\.db")


def back_up(connection: sqlite3.Connection, root: Path, version: int) -> Path:
    """Copy the database, which is of schema `version`, durably; the newest three copies are kept.

    Raises StoreFull or StoreUnwritable when there is no place for it, SQLite's own errors else.
    """
    folder = root / "backup"
    draft = root / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        # Later than any other, whatever the clock says.
        ns = max([time.time_ns(), *(found + 1 for found in _by_time(folder))])
        target = folder / f"lineage-{version}-{ns}.db"
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection.execute("VACUUM INTO ?", (str(draft),))
        sync_file(draft)
        os.rename(draft, target)
        sync_folder(folder)
        sync_folder(root)
        copies = _by_time(folder)
        for old in sorted(copies)[:-KEPT]:
            copies[old].unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, folder) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return target


def _by_time(folder: Path) -> dict[int, Path]:
    """The copies in a folder by when they were made."""
    named = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in named if match}
