"""Opening, migrating, reading and writing lineage.db.

Every write goes through `immediate`: a deferred BEGIN that later upgrades to a write fails at
once with "database is locked", whatever the timeout. Reads are short and fetched whole, because
an open cursor keeps the write-ahead log from being reset. A connection belongs to one thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from store import locks
from store.blobs.files import FULL_ADVICE, disk_error, too_large, write_durably
from store.breaker import TRY_SECONDS
from store.database.backups import back_up
from store.database.filesystems import is_at_limit, is_full, refuse_network
from store.database.schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION
from store.database.sqlite import Database, sqlite3
from store.errors import (
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreFailing,
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
SLACK_BYTES = 4 * 1024 * 1024
MOST_AT_ONCE_BYTES = 64 * 1024 * 1024
WAL_BYTES_KEPT = 64 * 1024 * 1024

# Lines of SQLite's own checks: of a value that its column may not have, of an index that its rows do not fit, of a
# row that is not where its key belongs.
_OF_ROW = re.compile(r"^CHECK constraint failed in |^(NULL|NUMERIC|TEXT|non-\w+) value in ")
_OF_INDEX = re.compile(r" (missing from|entries in|entry in|differ from) index ")
_OUT_OF_ORDER = re.compile(r"row not in PRIMARY KEY order for (\w+)")

_BUSY = {5, 6}
_UNWRITABLE = {3, 8, 14, 23}
_DAMAGED = {11, 26}
_FULL = 13
_FAILING = 10
_INCREMENTAL = 2
# Of a full disk SQLite says one of these where it has no words of its own for what it could not write.
_MAYBE_FULL = {8, 10, 14}
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
    _refuse_lost(root)
    with _translated(path):
        _create_private(path)
        lineage = _connected(root, str(path), busy_seconds, breaker=breaker)
        try:
            if _pragma(lineage, "user_version") < SCHEMA_VERSION:
                _migrate(lineage)
        except BaseException:  # an interrupt too leaves no connection
            lineage.close()
            raise
    return lineage


def open_as_it_is(root: Path, *, busy_seconds: float, to_clean: bool = False) -> Lineage:
    """As `open_lineage`; where nothing can be written (a full or read-only disk, another's folder), what is there.

    That can be read only, until it is closed, which should be soon. to_clean: on a full disk it can be written to once
    space was given back, and no other process can open it meanwhile. Raises as `open_lineage` does where there is no
    database of this version.
    """
    try:
        return open_lineage(root, busy_seconds=busy_seconds)
    except (StoreFull, StoreUnwritable) as error:
        path = root / "lineage.db"
        if not os.access(path, os.R_OK):
            raise
        _refuse_lost(root)
        with _translated(path):
            if isinstance(error, StoreFull) and (to_clean or _has_log(path)):
                lineage = _connected(root, str(path), busy_seconds, is_alone=True)
            else:
                lineage = _connected_to_read(root, busy_seconds)
            if _pragma(lineage, "user_version") == SCHEMA_VERSION:
                return lineage
            lineage.close()
        raise


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
            except BaseException:  # an interrupt too ends the transaction
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
    """All rows of one SELECT, fetched before returning; text that is damaged, no UTF-8 any more, as bytes."""
    connection = lineage.db.conn
    with _translated(lineage.path):
        try:
            fetched: list[tuple[Any, ...]] = connection.execute(sql, parameters).fetchall()
        except (sqlite3.OperationalError, UnicodeDecodeError) as error:
            if not _is_of_text(error):
                raise
            connection.text_factory = _text_or_bytes
            try:
                fetched = connection.execute(sql, parameters).fetchall()
            finally:
                connection.text_factory = str
    return fetched


def shrink(lineage: Lineage, *, rebuilds: bool = False) -> None:
    """Give back to the disk what removed rows took in the file, but some megabytes that are soon used again.

    At most 64 MB, so that others need not wait for long; rebuilds: all of it, and a database of before that could be
    done page by page is copied as a whole where that frees a quarter of it or more and the disk has room for two
    copies. Raises StoreErrors, with nothing changed.
    """
    page_bytes, num_free = _pragma(lineage, "page_size"), _pragma(lineage, "freelist_count")
    num_unwanted = num_free - SLACK_BYTES // page_bytes
    if num_unwanted <= 0:
        return
    if not rebuilds:
        num_unwanted = min(num_unwanted, MOST_AT_ONCE_BYTES // page_bytes)
    connection = lineage.db.conn
    with _translated(lineage.path):
        if _pragma(lineage, "auto_vacuum") == _INCREMENTAL:
            connection.execute(f"PRAGMA incremental_vacuum({num_unwanted})").fetchall()
        elif rebuilds and 4 * num_free >= (num_pages := _pragma(lineage, "page_count")):
            if shutil.disk_usage(lineage.root).free < 2 * num_pages * page_bytes:
                return
            connection.execute(f"PRAGMA auto_vacuum={_INCREMENTAL}")
            connection.execute("VACUUM")


def check(lineage: Lineage) -> None:
    """Read the whole database; StoreDamaged when a page is wrong. Damaged rows are told where they are read."""
    _refuse_damage(lineage, rows(lineage, "PRAGMA quick_check"))


@dataclass(frozen=True, slots=True)
class Misplaced:
    """What can be made anew from the rows. indexes: what is wrong with them; tables: those out of order."""

    indexes: tuple[str, ...]
    tables: tuple[str, ...]


def check_places(lineage: Lineage) -> Misplaced:
    """As `check`, and whether each row is where it and the indexes say, which takes some times as long."""
    lines = _refuse_damage(lineage, rows(lineage, "PRAGMA integrity_check"))
    tables = {match[1] for line in lines if (match := _OUT_OF_ORDER.fullmatch(line))}
    return Misplaced(tuple(line for line in lines if _OF_INDEX.search(line)), tuple(sorted(tables)))


def _refuse_damage(lineage: Lineage, found: Sequence[tuple[Any, ...]]) -> list[str]:
    """StoreDamaged for what cannot be told of single rows; the other lines of a check."""
    lines = [" ".join(str(line).split()) for (line,) in found if line != "ok"]
    for line in lines:
        if not any(kind.search(line) for kind in (_OF_ROW, _OF_INDEX, _OUT_OF_ORDER)):
            raise StoreDamaged(f"{lineage.path} is damaged ({line}); restore it from a backup")
    return lines


def _refuse_lost(root: Path) -> None:
    """StoreDamaged where the store was in use and its database is gone."""
    path = root / "lineage.db"
    # SQLite takes a file without a whole first page for a new database.
    in_use = (root / "store.json").exists()
    if in_use and not (path.exists() and path.stat().st_size >= MIN_PAGE_BYTES):
        raise StoreDamaged(
            f"{path} is missing or empty although the store was in use; "
            f"put it back, or move {root} away to start a new history"
        )


def _connected(
    root: Path,
    database: str,
    busy_seconds: float,
    *,
    breaker: Breaker | None = None,
    is_alone: bool = False,
) -> Lineage:
    """A connection to a database of ours, by its path or its address; its schema may be an older one.

    is_alone: no other process may have it open, and nothing is shared with one: not even the index of the log, a
    file that a full disk has no room for.
    """
    connection = sqlite3.connect(
        database, timeout=busy_seconds, isolation_level=None, uri=database.startswith("file:")
    )
    try:
        file = _file_at(root / "lineage.db")
        lineage = Lineage(root, Database(connection, execute_plugins=False), breaker, file)
        if is_alone:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        _refuse_foreign(lineage)
        connection.create_function("casefold", 1, _casefold, deterministic=True)
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute(f"PRAGMA journal_size_limit={WAL_BYTES_KEPT}")
        connection.execute("PRAGMA synchronous=NORMAL")
    except BaseException:  # whatever it is goes on, and holds no connection
        connection.close()
        raise
    return lineage


def _connected_to_read(root: Path, busy_seconds: float) -> Lineage:
    """A connection for reading where no file can be made."""
    path = root / "lineage.db"
    address = f"file:{quote(os.fsencode(path))}?mode=ro"
    try:
        with _translated(path):
            return _connected(root, address, busy_seconds)
    except (StoreFull, StoreUnwritable) as error:
        if _has_log(path):
            raise StoreUnwritable(
                f"{path} cannot be read where nothing may be written: its last changes are in {path.name}-wal; "
                f"copy {root} to a folder that you may write, and set MODIFF_STORE to the copy"
            ) from error
        # Without a log there is no writer: all of it is in this file, and nobody changes it.
        return _connected(root, f"{address}&immutable=1", busy_seconds)


def _has_log(path: Path) -> bool:
    """Whether a database has changes that are not in its own file yet."""
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


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
        # of a new database alone; an older one becomes such a one in `shrink`
        lineage.db.conn.execute("PRAGMA auto_vacuum=INCREMENTAL")
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
    """SQL's own lower() and LIKE know the letters of ASCII only. As bytes, text that is damaged comes through too."""
    return text.decode(errors="replace").casefold() if isinstance(text, bytes) else str(text)


def _pragma(lineage: Lineage, name: str) -> int:
    return int(lineage.db.conn.execute(f"PRAGMA {name}").fetchone()[0])


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into StoreErrors that say what to do."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise _damaged_text(path) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if _is_of_text(error):
            raise _damaged_text(path) from error
        if code is None:  # a misuse of the connection (closed, wrong thread): our own bug
            raise
        raise _store_error(code & 0xFF, str(error), path) from error


def _is_of_text(error: Exception) -> bool:
    """Whether what could not be read is a text, for which SQLite's Python face has no code."""
    is_coded = getattr(error, "sqlite_errorcode", None) is not None
    return isinstance(error, UnicodeDecodeError) or ("UTF-8" in str(error) and not is_coded)


def _damaged_text(path: Path) -> StoreDamaged:
    return StoreDamaged(
        f"{path} holds a text that is damaged; `modiff store verify --repair` finds it and sets it aside"
    )


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _store_error(code: int, reason: str, path: Path) -> StoreError:
    if code in _BUSY:
        return StoreBusy(
            f"{path} is locked by {locks.holder(*_write_lock(path))} for too long ({reason}); "
            "try again, or end that process"
        )
    if code in (_FULL, *_MAYBE_FULL) and is_at_limit(path):
        return too_large(path, reason)
    if code == _FULL or (code in _MAYBE_FULL and is_full(path.parent)):
        return StoreFull(f"no space left for {path} ({reason}); {FULL_ADVICE}")
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
    kind = StoreFailing if code == _FAILING else StoreError
    return kind(f"{path}: {reason}")
