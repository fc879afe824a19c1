"""Opening, migrating, reading and writing lineage.db.

Every write goes through `immediate`: a deferred BEGIN that later upgrades to a write fails at
once with "database is locked", whatever the timeout. Reads are short and fetched whole, because
an open cursor keeps the write-ahead log from being reset. A connection belongs to one thread.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from store import locks
from store.blobs.files import disk_error, write_durably
from store.breaker import TRY_SECONDS
from store.database.backups import back_up
from store.database.filesystems import refuse_network
from store.database.schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION
from store.database.sqlite import Database, sqlite3
from store.errors import (
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreFromFuture,
    StoreFull,
    StoreUnwritable,
)
from store.paths import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from store.breaker import Breaker

MIGRATE_TIMEOUT_SECONDS = 30.0
MIN_PAGE_BYTES = 512
WAL_BYTES_KEPT = 64 * 1024 * 1024

_BUSY = {5, 6}
_UNWRITABLE = {3, 8, 14, 23}
_DAMAGED = {11, 26}
_FULL = 13
# Where SQLite keeps the lock of a writer: a byte of the shared memory beside the write-ahead log.
_WRITE_LOCK = ("-shm", 120)


@dataclass(frozen=True, slots=True)
class Lineage:
    """One connection to a store's database, of the thread that opened it.

    breaker: how long its writes wait for those of others; None for as long as the connection does. file: device and
    inode of what was opened.
    """

    root: Path
    db: Database
    breaker: Breaker | None = None
    file: tuple[int, int] | None = None

    @property
    def path(self) -> Path:
        return self.root / "lineage.db"

    def close(self) -> None:
        self.db.close()


def open_lineage(root: Path, *, busy_seconds: float, breaker: Breaker | None = None) -> Lineage:
    """Open the database of the store at `root`, creating or migrating it where needed.

    A database that holds runs is copied to backup/ before it is migrated.
    """
    refuse_network(root)
    prepare(root)
    path = root / "lineage.db"
    # SQLite takes a file without a whole first page for a new database.
    in_use = (root / "store.json").exists()
    if in_use and not (path.exists() and path.stat().st_size >= MIN_PAGE_BYTES):
        raise StoreDamaged(
            f"{path} is missing or empty although the store was in use; "
            f"put it back, or move {root} away to start a new history"
        )
    with _translated(path):
        _create_private(path)
        connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
        try:
            lineage = Lineage(
                root, Database(connection, execute_plugins=False), breaker, _file_at(path)
            )
            _refuse_foreign(lineage)
            connection.create_function("casefold", 1, _casefold, deterministic=True)
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute(f"PRAGMA journal_size_limit={WAL_BYTES_KEPT}")
            if _pragma(lineage, "user_version") < SCHEMA_VERSION:
                _migrate(lineage)
            connection.execute("PRAGMA synchronous=NORMAL")
        except BaseException:
            connection.close()
            raise
    return lineage


@contextlib.contextmanager
def immediate(lineage: Lineage, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
    """A write transaction, committed at the end of the block and rolled back on any exception.

    durable: also survives a power cut (one fsync); otherwise the last commits may be undone by
    one, in order and without damage.
    """
    connection = lineage.db.conn
    with _translated(lineage.path):
        if durable:
            connection.execute("PRAGMA synchronous=FULL")
        try:
            _begin(lineage)
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    # A failing disk may refuse the rollback too; the first error is the one to see.
                    with contextlib.suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise
        finally:
            if durable:
                connection.execute("PRAGMA synchronous=NORMAL")


def _begin(lineage: Lineage) -> None:
    connection, breaker = lineage.db.conn, lineage.breaker
    if breaker is None:
        connection.execute("BEGIN IMMEDIATE")
        return
    busy: list[sqlite3.OperationalError] = []

    def attempt() -> bool | None:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if (getattr(error, "sqlite_errorcode", 0) & 0xFF) not in _BUSY:
                raise
            busy[:] = [error]
            return None
        return True

    # The library would wait where no signal is heard and nothing else is looked at.
    waits = _pragma(lineage, "busy_timeout")
    connection.execute(f"PRAGMA busy_timeout={int(1000 * TRY_SECONDS)}")
    try:
        if breaker.wait(attempt) is None:
            raise busy[0]
    finally:
        connection.execute(f"PRAGMA busy_timeout={waits}")


def is_in_place(lineage: Lineage) -> bool:
    """Whether the database that was opened is still the one at its path: not removed, nor replaced by another."""
    return _file_at(lineage.path) == lineage.file


def _file_at(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def writers(lineage: Lineage) -> list[int]:
    """The pids of the processes that are in the middle of a write, as far as the system tells; see locks.holders."""
    return locks.holders(*_write_lock(lineage.path))


def _write_lock(path: Path) -> tuple[Path, int]:
    """The file and the byte of it that who writes to the database has locked."""
    suffix, byte = _WRITE_LOCK
    return path.with_name(path.name + suffix), byte


def rows(lineage: Lineage, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """All rows of one SELECT, fetched before returning."""
    with _translated(lineage.path):
        fetched: list[tuple[Any, ...]] = lineage.db.execute(sql, parameters).fetchall()
    return fetched


def check(lineage: Lineage) -> None:
    """Read the whole database; StoreDamaged when a page or an index is wrong."""
    [(verdict,)] = rows(lineage, "PRAGMA quick_check(1)")
    if verdict != "ok":
        problem = " ".join(str(verdict).split())
        raise StoreDamaged(f"{lineage.path} is damaged ({problem}); restore it from a backup")


def _create_private(path: Path) -> None:
    # Only when absent: opening and closing the file of a live connection in the same process
    # would drop that connection's locks.
    if not path.exists():
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            os.close(os.open(path, flags, 0o600))
        except FileExistsError:
            return
        except OSError as error:
            raise disk_error(error, path) from error


def _refuse_foreign(lineage: Lineage) -> None:
    version = _pragma(lineage, "user_version")
    [(num_tables,)] = rows(lineage, "SELECT count(*) FROM sqlite_master")
    if (version or num_tables) and _pragma(lineage, "application_id") != APPLICATION_ID:
        raise StoreDamaged(
            f"{lineage.path} is a database of another application; "
            "set MODIFF_STORE to a folder of its own"
        )
    if version > SCHEMA_VERSION:
        raise StoreFromFuture(
            f"{lineage.path} has schema {version}, this modiff knows up to {SCHEMA_VERSION}; "
            "upgrade modiff, or set MODIFF_STORE to another folder"
        )


def _migrate(lineage: Lineage) -> None:
    with locks.acquire(lineage.root / "locks" / "migrate", timeout_seconds=MIGRATE_TIMEOUT_SECONDS):
        mode = lineage.db.conn.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise StoreUnwritable(
                f"{lineage.path} cannot have a write-ahead log there (journal mode {mode}); "
                "set MODIFF_STORE to a folder on a local disk"
            )
        found = _pragma(lineage, "user_version")  # now: another process may have been first
        if 0 < found < SCHEMA_VERSION and rows(lineage, "SELECT 1 FROM runs LIMIT 1"):
            back_up(lineage.db.conn, lineage.root, found)
        for version, statements in enumerate(MIGRATIONS, start=1):
            with immediate(lineage, durable=True) as connection:
                if _pragma(lineage, "user_version") < version:
                    for statement in statements:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version={version}")
        _mark_in_use(lineage.root)


def _mark_in_use(root: Path) -> None:
    """Write store.json once; from then on a missing database is damage, not a new store."""
    mark = root / "store.json"
    if mark.exists():
        return
    text = msgspec.json.encode({"format": 1, "uuid": str(uuid.uuid4())}) + b"\n"
    write_durably(root, mark, text, mode=0o600)


def _casefold(text: object) -> str:
    """SQL's own lower() and LIKE know the letters of ASCII only."""
    return str(text).casefold()


def _pragma(lineage: Lineage, name: str) -> int:
    return int(lineage.db.conn.execute(f"PRAGMA {name}").fetchone()[0])


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into StoreErrors that say what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # a misuse of the connection (closed, wrong thread): our own bug
            raise
        raise _store_error(code & 0xFF, str(error), path) from error


def _store_error(code: int, reason: str, path: Path) -> StoreError:
    if code in _BUSY:
        return StoreBusy(
            f"{path} is locked by {locks.holder(*_write_lock(path))} for too long ({reason}); "
            "try again, or end that process"
        )
    if code == _FULL:
        return StoreFull(f"no space left for {path} ({reason}); free some and try again")
    if code in _UNWRITABLE:
        return StoreUnwritable(
            f"cannot write {path} ({reason}); check the rights on its folder, "
            "or set MODIFF_STORE to another"
        )
    if code in _DAMAGED:
        return StoreDamaged(
            f"{path} is damaged ({reason}); restore it from a backup, "
            f"or move {path.parent} away to start a new history"
        )
    return StoreError(f"{path}: {reason}")
