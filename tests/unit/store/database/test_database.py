"""Opening a store: many at once, of another version or application, damaged, unwritable, full."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sqlite3 as system_sqlite
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from store.database import database, filesystems
from store.database.schema import SCHEMA_VERSION
from store.database.sqlite import has_wal_reset_bug
from store.errors import (
    FileTooLarge,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreFailing,
    StoreFromFuture,
    StoreFull,
    StoreUnwritable,
)
from store.lineage.events import Message
from store.paths import store_root
from store.store import open_as_it_is, open_store

MAKES_STORES = True


def assert_one_line(error: BaseException, *parts: object) -> None:
    text = str(error)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text


def fill_rows(root: Path, num_runs: int) -> None:
    with open_store(root) as store:
        for _ in range(num_runs):
            run_id = store.enqueue(b"{}" + b" " * 2000, preset="p", output="o")
            store.append(run_id, [Message("info", "x" * 500)] * 5)
        store.lineage.db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def test_the_root_comes_from_the_environment_or_the_user_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MODIFF_STORE", str(tmp_path / "here"))
    assert store_root() == tmp_path / "here"
    monkeypatch.setenv("MODIFF_STORE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert store_root().is_relative_to(tmp_path)


def test_a_new_store_is_private_and_has_a_write_ahead_log(root):
    with open_store(root) as store:
        mode = store.lineage.db.execute("PRAGMA journal_mode").fetchone()[0]
        assert mode == "wal"
        store.check()
    for folder in (root, root / "blobs", root / "tmp", root / "locks", root / "logs"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "lineage.db").stat().st_mode) == 0o600


def test_a_store_opens_again_with_what_was_in_it(root):
    with open_store(root) as store:
        run_id = store.enqueue(b"{}", preset="p", output="o")
    with open_store(root) as store:
        assert [run.id for run in store.runs(limit=9)] == [run_id]


OPEN_TOGETHER = """
import sys
from store.store import open_store
for root in sys.argv[1:]:
    print("ready", flush=True)
    sys.stdin.readline()
    with open_store(root) as store:
        print(store.enqueue(b"{}", preset="p", output="o"), flush=True)
"""


def test_processes_that_create_one_store_at_once_all_succeed(start, tmp_path):
    roots = [tmp_path / f"store-{attempt}" for attempt in range(3)]
    processes = [start(OPEN_TOGETHER, *roots) for _ in range(4)]
    for root in roots:
        for process in processes:
            assert process.read() == "ready"
        for process in processes:
            process.go()
        enqueued = [process.read() for process in processes]
        with open_store(root) as store:
            assert sorted(run.id for run in store.runs(limit=99)) == sorted(enqueued)
            store.check()


def test_a_failing_migration_leaves_nothing_behind(root, monkeypatch):
    with open_store(root) as store:
        store.enqueue(b"{}", preset="p", output="o")
    broken = (*database.MIGRATIONS, ("CREATE TABLE half (a)", "CREATE TABLE runs (a)"))
    monkeypatch.setattr(database, "MIGRATIONS", broken)
    monkeypatch.setattr(database, "SCHEMA_VERSION", len(broken))
    with pytest.raises(StoreError, match="runs already exists"):
        open_store(root)
    monkeypatch.undo()
    with open_store(root) as store:
        tables = {name for (name,) in store.lineage.db.execute("SELECT name FROM sqlite_master")}
        assert "half" not in tables
        assert len(store.runs(limit=9)) == 1


def test_a_store_of_a_newer_version_is_refused(root):
    with open_store(root) as store:
        store.lineage.db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    with pytest.raises(StoreFromFuture) as caught:
        open_store(root)
    assert_one_line(caught.value, "upgrade", SCHEMA_VERSION + 1, root)


def test_a_database_of_another_application_is_left_alone(root):
    root.mkdir()
    other = system_sqlite.connect(root / "lineage.db")
    other.execute("CREATE TABLE theirs (a)")
    other.commit()
    other.close()
    before = (root / "lineage.db").read_bytes()
    with pytest.raises(StoreDamaged, match="another application"):
        open_store(root)
    assert (root / "lineage.db").read_bytes() == before


def test_a_file_that_is_no_database_is_refused(root):
    root.mkdir()
    (root / "lineage.db").write_bytes(b"not a database, but long enough to be read as one " * 20)
    with pytest.raises(StoreDamaged) as caught:
        open_store(root)
    assert_one_line(caught.value, root / "lineage.db")


@pytest.mark.parametrize("damage", ["removed", 0, 100])
def test_a_lost_history_is_never_silently_a_new_one(root, damage):
    fill_rows(root, 1)
    for name in ("lineage.db-wal", "lineage.db-shm"):
        (root / name).unlink(missing_ok=True)
    if damage == "removed":
        (root / "lineage.db").unlink()
    else:
        os.truncate(root / "lineage.db", damage)
    with pytest.raises(StoreDamaged) as caught:
        open_store(root)
    assert_one_line(caught.value, "missing or empty", root)


def test_damage_inside_the_database_is_found_and_told(root):
    path = root / "lineage.db"
    with open_store(root):
        pass
    num_empty = path.stat().st_size // 4096  # the schema is among these: without it nothing opens
    fill_rows(root, 200)
    data = bytearray(path.read_bytes())
    assert len(data) > (num_empty + 20) * 4096
    for page in range(num_empty, len(data) // 4096):
        data[page * 4096 : page * 4096 + 200] = b"\xaa" * 200
    path.write_bytes(data)
    with open_store(root) as store, pytest.raises(StoreDamaged) as caught:
        store.check()
    assert_one_line(caught.value, path)
    with open_store(root) as store, pytest.raises(StoreDamaged) as caught:
        store.runs(limit=100)
    assert_one_line(caught.value, path)


@pytest.mark.parametrize("inside", [".", "deeper/still"])
def test_a_root_that_is_a_file_is_refused(tmp_path, inside):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreUnwritable) as caught:
        open_store(tmp_path / "file" / inside)
    assert_one_line(caught.value, tmp_path / "file", "MODIFF_STORE")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def unprivileged():
    """A folder that is readable but not writable, for a user who is not root."""
    folder = Path(tempfile.mkdtemp())
    (folder / "locked").mkdir()
    folder.chmod(0o755)
    (folder / "locked").chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield folder / "locked"
    if is_root:
        os.seteuid(0)
    (folder / "locked").chmod(0o755)
    shutil.rmtree(folder)


def test_an_unwritable_root_is_refused(unprivileged):
    with pytest.raises(StoreUnwritable) as caught:
        open_store(unprivileged / "store")
    assert_one_line(caught.value, unprivileged / "store", "MODIFF_STORE")


def test_the_store_of_another_user_can_be_looked_at(unprivileged):
    """Made by root beside the folder of the test, and readable to all, as a backup is."""
    root = unprivileged.parent / "store"
    if os.getuid() != 0:
        pytest.skip("only root can make a store of another user")
    os.seteuid(0)
    fill_rows(root, 2)
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o444)
    os.seteuid(65534)
    with pytest.raises(StoreUnwritable):
        open_store(root)
    with open_as_it_is(root) as store:
        assert len(store.runs(limit=9)) == 2
        with pytest.raises(StoreUnwritable) as caught:
            store.pin(store.runs(limit=1)[0].id)
    assert_one_line(caught.value, "cannot write")
    assert not (root / "lineage.db-shm").exists()


def test_a_log_that_cannot_be_read_is_told_rather_than_passed_over(unprivileged):
    root = unprivileged.parent / "store"
    if os.getuid() != 0:
        pytest.skip("only root can make a store of another user")
    os.seteuid(0)
    fill_rows(root, 1)
    (root / "lineage.db-wal").write_bytes(b"x")
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o444)
    os.seteuid(65534)
    with pytest.raises(StoreUnwritable) as caught:
        open_as_it_is(root)
    assert_one_line(caught.value, "lineage.db-wal", "copy", "MODIFF_STORE")


def test_a_read_only_database_can_be_read_but_not_written(root):
    fill_rows(root, 1)
    with open_store(root) as store:
        store.lineage.db.execute("PRAGMA query_only=ON")
        assert len(store.runs(limit=9)) == 1
        with pytest.raises(StoreUnwritable) as caught:
            store.enqueue(b"{}", preset="p", output="o")
    assert_one_line(caught.value, root, "cannot write")


def test_a_full_disk_is_told_and_loses_only_what_did_not_fit(root):
    with open_store(root) as store:
        kept = store.enqueue(b"{}", preset="p", output="o")
        [(num_pages,)] = database.rows(store.lineage, "PRAGMA page_count")
        store.lineage.db.execute(f"PRAGMA max_page_count={num_pages}")
        with pytest.raises(StoreFull) as caught:
            store.append(kept, [Message("info", "x" * 100_000)])
        assert_one_line(caught.value, "no space left", root)
        assert len(store.events(kept)) == 1
        store.lineage.db.execute("PRAGMA max_page_count=1000000")
        store.append(kept, [Message("info", "x" * 100_000)])
        assert len(store.events(kept)) == 2
        store.check()


HOLD_WRITE_LOCK = """
import sys
from store.database.database import immediate
from store.store import open_store
with open_store(sys.argv[1]) as store, immediate(store.lineage):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_locked_database_is_told_after_the_wait_and_still_read(start, root, store):
    run_id = store.enqueue(b"{}", preset="p", output="o")
    holder = start(HOLD_WRITE_LOCK, root)
    holder.read()
    with open_store(root, busy_seconds=0.05) as hasty:
        with pytest.raises(StoreBusy) as caught:
            hasty.enqueue(b"{}", preset="p", output="o")
        assert_one_line(caught.value, root, "locked")
        assert hasty.run(run_id).status == "queued"
    holder.go()
    holder.finish()
    assert store.enqueue(b"{}", preset="p", output="o")


def test_a_killed_writer_leaves_neither_its_lock_nor_half_its_work(start, root, store):
    code = HOLD_WRITE_LOCK.replace(
        'print("held"',
        "store.lineage.db.conn.execute("
        '"INSERT INTO engines (id, pid, host, started_ns, heartbeat_ns) "'
        "\"VALUES ('ghost', 1, 'h', 0, 0)\"); print(\"held\"",
    )
    holder = start(code, root)
    holder.read()
    holder.kill()
    assert store.enqueue(b"{}", preset="p", output="o")
    assert database.rows(store.lineage, "SELECT * FROM engines") == []


def test_a_transaction_rolls_back_on_any_exception(store):
    def interrupted_write():
        with database.immediate(store.lineage) as connection:
            connection.execute(
                "INSERT INTO engines (id, pid, host, started_ns, heartbeat_ns) VALUES ('ghost', 1, 'h', 0, 0)"
            )
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_write()
    assert database.rows(store.lineage, "SELECT * FROM engines") == []
    with database.immediate(store.lineage, durable=True):
        assert database.rows(store.lineage, "PRAGMA synchronous") == [(2,)]
    assert database.rows(store.lineage, "PRAGMA synchronous") == [(1,)]


def test_which_versions_of_sqlite_have_the_wal_reset_bug():
    assert has_wal_reset_bug((3, 40, 1))
    assert has_wal_reset_bug((3, 51, 2))
    assert has_wal_reset_bug((3, 50, 6))
    assert not has_wal_reset_bug((3, 51, 3))
    assert not has_wal_reset_bug((3, 50, 7))
    assert not has_wal_reset_bug((3, 44, 6))


def test_the_viewer_side_of_the_store_imports_no_array_library():
    code = (
        "import sys, store.store, store.blobs.blobs, store.lineage.events; "
        "print(sorted({'torch', 'numpy', 'pandas', 'transformers'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(database.__file__).parents[1])}
    imported = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert imported == "[]\n"


def test_on_a_full_disk_the_database_is_read_as_it_is_and_cleaned_alone(root, monkeypatch):
    with open_store(root) as store:
        run_id = store.enqueue(b"{}", preset="p", output="o")

    def full(*_given, **_more):
        raise StoreFull("no space left")

    monkeypatch.setattr(database, "open_lineage", full)
    with pytest.raises(StoreFull):
        open_store(root)
    with open_as_it_is(root) as store:
        assert store.run(run_id).status == "queued"
        assert isinstance(store.recover_if_possible(), tuple)
        with pytest.raises(StoreUnwritable):
            store.pin(run_id)
    with open_as_it_is(root, to_clean=True) as store:
        store.pin(run_id)
        with pytest.raises(StoreBusy):
            database.open_as_it_is(root, busy_seconds=0.01, to_clean=True)


def test_without_a_database_a_full_disk_is_told(root, monkeypatch):
    def full(*_given, **_more):
        raise StoreFull("no space left")

    monkeypatch.setattr(database, "open_lineage", full)
    with pytest.raises(StoreFull):
        open_as_it_is(root)


def test_an_older_schema_that_cannot_be_migrated_is_told(root, monkeypatch):
    with open_store(root) as store:
        store.lineage.db.execute("PRAGMA user_version=1")

    def read_only(*_given, **_more):
        raise StoreUnwritable("cannot write it")

    monkeypatch.setattr(database, "open_lineage", read_only)
    with pytest.raises(StoreUnwritable, match="cannot write it"):
        open_as_it_is(root)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_what_sqlite_calls_an_io_error_is_a_full_disk_where_nothing_fits(
    store, monkeypatch, number
):
    def refused(*_given, **_more):
        raise OSError(number, os.strerror(number))

    error = database.sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = 4874
    monkeypatch.setattr(filesystems, "open", refused, raising=False)
    with pytest.raises(StoreFull) as caught, database.immediate(store.lineage):
        raise error
    assert_one_line(caught.value, "the disk is full", "modiff store gc")
    monkeypatch.undo()
    with pytest.raises(StoreFailing, match="disk I/O error"), database.immediate(store.lineage):
        raise error
    assert list(store.root.glob(".modiff-*")) == []


def test_what_sqlite_calls_an_io_error_is_a_limit_on_files_where_one_is_reached(store):
    def add(num_bytes):
        with database.immediate(store.lineage) as connection:
            connection.execute("UPDATE runs SET note=?", ("x" * num_bytes,))
            connection.execute("CREATE TABLE more AS SELECT zeroblob(?)", (num_bytes,))

    log = store.root / "lineage.db-wal"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 50_000, before[1]))
    try:
        with pytest.raises(FileTooLarge) as caught:
            add(500_000)
        assert_one_line(caught.value, "larger than files may be here", "ulimit -f")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    add(500_000)


@pytest.mark.parametrize("name", ["blobs", "tmp", "quarantine"])
def test_a_folder_on_another_disk_is_refused_once_with_advice(root, name):
    here = root.parent.stat().st_dev
    folders = (Path("/dev/shm"), Path(tempfile.gettempdir()))
    others = [each for each in folders if os.access(each, os.W_OK) and each.stat().st_dev != here]
    if not others:
        pytest.skip("this machine has no second disk that a test may write to")
    elsewhere = others[0]
    with open_store(root) as store:
        run_id = store.enqueue(b"{}", preset="p", output="o")
    with tempfile.TemporaryDirectory(dir=elsewhere) as folder:
        (root / name).rmdir()
        (root / name).symlink_to(folder)
        with pytest.raises(StoreUnwritable) as caught:
            open_store(root)
        assert_one_line(caught.value, "another disk", folder, "MODIFF_STORE")
        with open_as_it_is(root) as store:  # what is in it can be looked at, and exported
            assert store.run(run_id).status == "queued"


def test_the_whole_store_behind_a_link_is_on_one_disk(root, tmp_path):
    (tmp_path / "large").mkdir()
    root.symlink_to(tmp_path / "large")
    with open_store(root) as store:
        store.enqueue(b"{}", preset="p", output="o")


def test_folders_above_a_store_are_this_users_alone_whatever_the_umask(tmp_path):
    (tmp_path / "data").mkdir(mode=0o755)
    before = os.umask(0)
    try:
        open_store(tmp_path / "data" / "modiff" / "a" / "store").close()
    finally:
        os.umask(before)
    made = [tmp_path / "data" / name for name in ("modiff", "modiff/a", "modiff/a/store")]
    assert [path.stat().st_mode & 0o777 for path in made] == [0o700] * 3
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o755


def test_a_store_that_was_replaced_is_not_in_place(tmp_path):
    root = tmp_path / "store"
    with open_store(root) as opened:
        assert opened.is_in_place()
        root.rename(tmp_path / "aside")
        assert not opened.is_in_place()
        open_store(root).close()
        assert not opened.is_in_place()
        shutil.rmtree(root)
        (tmp_path / "aside").rename(root)
        assert opened.is_in_place()
