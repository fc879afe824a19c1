"""The diskcache database of the index: text keys, byte values, no files and no pickle.

diskcache pickles keys and values that are not plain, and keeps large ones as files named by the database
(CVE-2025-69872). This `Disk` does neither, and takes such rows from nobody else; settings that a database
brings along would be obeyed too (its own folder is one of them), so a database with others is not opened.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from diskcache import UNKNOWN, Cache, Disk
from diskcache.core import DBNAME, METADATA, MODE_RAW

MAX_ROW_BYTES = (1 << 20) + 64
BUSY_SECONDS = 1.0

# Every setting but the size limit (see `_settings`), so that none is taken from a database. Opening writes some
# forty rows: without waiting for the disk, because a value that a power cut has damaged is noticed by its checksum.
_SETTINGS = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "least-recently-stored",
    "cull_limit": 10,
    "sqlite_cell_size_check": 1,
    "sqlite_auto_vacuum": 1,  # else the file never shrinks and, once at its limit, loses ten rows a write
    "sqlite_cache_size": 2048,
    "sqlite_journal_mode": "delete",  # the system's SQLite may have the WAL-reset race
    "sqlite_mmap_size": 0,
    "sqlite_synchronous": 0,
    "sqlite_trusted_schema": 0,
    "sqlite_user_version": 0x6D6F6431,  # marks the database as ours
    "disk_min_file_size": MAX_ROW_BYTES + 1,
    "disk_pickle_protocol": 5,
}


class ForeignRow(ValueError):
    """A row that this index did not write."""


class InlineDisk(Disk):
    """Keys are `str` and values `bytes` inside the database; anything else is refused."""

    def put(self, key: Any) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError(f"a key is text, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: Any) -> str | None:
        """The key of a row, None for one that is not ours: iteration goes on behind it."""
        return key if type(key) is str and raw == 1 else None

    def store(
        self, value: Any, read: bool, key: Any = UNKNOWN
    ) -> tuple[int, int, None, memoryview]:
        if read or type(value) is not bytes or len(value) > MAX_ROW_BYTES:
            raise TypeError(f"a value is at most {MAX_ROW_BYTES} bytes")
        return 0, MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: Any, filename: Any, value: Any, read: bool) -> bytes:
        if read or mode != MODE_RAW or filename is not None or type(value) is not bytes:
            raise ForeignRow
        return value

    def filename(self, key: Any = UNKNOWN, value: Any = UNKNOWN) -> tuple[str, str]:
        raise TypeError("values are never files")

    def remove(self, file_path: Any) -> None:
        """Nothing: no row of ours has a file, and what another's names is not ours to delete."""


def open_cache(folder: Path, size_limit: int) -> Any:
    """The diskcache.Cache in `folder`, made when it is absent, of at most about `size_limit` bytes: a write that finds
    it larger drops the ten values stored least recently. Raises what SQLite and diskcache raise."""
    if os.path.expandvars(folder) != str(folder):  # diskcache would, and work somewhere else
        raise OSError(f"{folder}: a folder with $NAME in its path cannot hold the index")
    return Cache(folder, timeout=BUSY_SECONDS, disk=InlineDisk, **_settings(size_limit))


def is_ours(folder: Path, size_limit: int) -> bool:
    """Whether `folder` holds an index of this version and limit, or none yet, and diskcache may open it.

    Raises sqlite3.DatabaseError where that cannot be told.
    """
    database = folder / DBNAME
    for path, has_kind in ((folder, stat.S_ISDIR), (database, stat.S_ISREG)):
        try:
            status = path.lstat()
        except FileNotFoundError:
            return True
        if not has_kind(status.st_mode):
            return False
    if status.st_size > 4 * size_limit:
        return False
    # mode=rw, not ro: what a killed writer left half done is rolled back here, which is a write
    address = f"file:{quote(os.fsencode(database))}?mode=rw"
    with closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS)) as connection:
        try:
            return _has_our_settings(connection, _settings(size_limit))
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                return False
            raise


def is_damage(error: Exception) -> bool:
    """Whether SQLite says that the file is no database, or a damaged one."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _settings(size_limit: int) -> dict[str, Any]:
    return {**_SETTINGS, "size_limit": size_limit}


def _has_our_settings(connection: sqlite3.Connection, ours: dict[str, Any]) -> bool:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    ((version,),) = connection.execute("PRAGMA user_version")
    if not tables:  # its making was cut short
        return version in (0, ours["sqlite_user_version"])
    if version != ours["sqlite_user_version"] or "Settings" not in tables:
        return False
    known = {**METADATA, **ours}
    settings = connection.execute("SELECT key, value FROM Settings").fetchmany(len(known) + 1)
    return len(settings) <= len(known) and all(
        key in known and (key in METADATA or value == known[key]) for key, value in settings
    )
