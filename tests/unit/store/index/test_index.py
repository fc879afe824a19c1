"""The index may be damaged, hostile, unwritable or gone: that costs time, never a run, a file or the machine."""

from __future__ import annotations

import os
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import diskcache
import pytest

from store import locks
from store.index import index as index_module
from store.index.index import MAX_VALUE_BYTES, Index, open_index
from store.paths import prepare

PICKLED = 4  # diskcache's mode column of a pickled value


@pytest.fixture
def index(root):
    prepare(root)
    with open_index(root) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _told_again():
    index_module._tell.cache_clear()


@pytest.fixture
def canary(tmp_path):
    """A file that only executed code would make."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


class Payload:
    def __init__(self, path):
        self.command = f"touch {path}"

    def __reduce__(self):
        return os.system, (self.command,)


def rows(root, sql, *arguments):
    with closing(sqlite3.connect(root / "index" / "cache.db")) as connection, connection:
        return connection.execute(sql, arguments).fetchall()


def insert(root, key, value, *, raw=1, mode=1, filename=None):
    sql = "INSERT INTO Cache(key, raw, store_time, mode, filename, value) VALUES (?, ?, 1, ?, ?, ?)"
    rows(root, sql, key, raw, mode, filename, value)


def set_aside(root):
    return list((root / "quarantine").iterdir())


def test_values_outlive_the_index_that_wrote_them(root, index):
    assert index.get("a") is None
    for key, value in (("a", b"1"), ("b/1", b""), ("b/ü", bytes(range(256))), ("a", b"2")):
        index.put(key, value)
    with open_index(root) as other:
        assert [other.get(key) for key in ("a", "b/1", "b/ü")] == [b"2", b"", bytes(range(256))]
        assert sorted(other.keys("b/")) == ["b/1", "b/ü"]
        other.delete("a")
        other.delete("a")
    assert index.get("a") is None
    assert sorted(index.keys("")) == ["b/1", "b/ü"]


def test_values_are_inline_and_bounded(root, index, caplog):
    index.put("big", b"x" * MAX_VALUE_BYTES)
    index.put("bigger", b"x" * (MAX_VALUE_BYTES + 1))
    assert index.get("big") == b"x" * MAX_VALUE_BYTES
    assert index.get("bigger") is None
    assert "1,048,576 bytes was dropped" in caplog.text
    assert [path.name for path in (root / "index").iterdir()] == ["cache.db"]
    assert rows(root, "SELECT mode, filename FROM Cache") == [(1, None)]


def test_an_index_that_was_never_written_costs_nothing(root, index):
    assert index.get("a") is None
    assert list(index.keys("")) == []
    index.delete("a")
    assert not (root / "index").exists()
    code = (
        "import sys; from pathlib import Path; from store.index.index import open_index\n"
        f"assert open_index(Path({str(root)!r})).get('a') is None\n"
        "print(sorted({'diskcache', 'sqlite3', 'pickle', 'torch', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[4],
    )
    assert found.stdout == "[]\n"


def test_only_its_owner_may_look_into_it(root, index):
    index.put("a", b"1")
    assert (root / "index").stat().st_mode & 0o777 == 0o700


def test_it_keeps_to_its_size_and_forgets_the_oldest_first(root):
    prepare(root)
    index = Index(root, size_limit=4 << 20)
    for number in range(40):
        index.put(f"{number:02}", os.urandom(200_000))
    kept = sorted(index.keys(""))
    assert 10 < len(kept) < 40
    assert kept[-1] == "39"
    assert kept == [f"{number:02}" for number in range(40 - len(kept), 40)]
    assert (root / "index" / "cache.db").stat().st_size < 6 << 20
    index.close()


def test_previews_are_stored_apart_and_push_nothing_out(root, monkeypatch):
    prepare(root)
    monkeypatch.setattr(index_module, "PREVIEWS_LIMIT_BYTES", 1 << 20)
    with open_index(root) as index:
        index.put("memo", b"1")
        for number in range(40):
            index.previews.put(f"{number:02}", os.urandom(200_000))
        assert index.get("memo") == b"1"
        assert list(index.keys("")) == ["memo"]
        assert 1 < len(list(index.previews.keys(""))) < 40
    assert (root / "previews" / "cache.db").stat().st_size < 3 << 20


def test_threads_take_turns_with_an_index(root, index):
    def write(number):
        index.put(f"{number}", b"%d" % number)
        index.previews.put(f"{number}", b"p%d" % number)
        index.disconnect()

    for number in range(3):
        thread = threading.Thread(target=write, args=(number,))
        thread.start()
        thread.join()
    assert not index.is_off
    assert [index.get(f"{number}") for number in range(3)] == [b"0", b"1", b"2"]
    assert index.previews.get("2") == b"p2"


# Hostile content


def test_pickles_are_neither_loaded_nor_listed(root, index, canary, caplog):
    index.put("ours", b"1")
    pickled = pickle.dumps(Payload(canary))
    insert(root, "value", pickled, mode=PICKLED)
    insert(root, pickled, b"1", raw=0)
    insert(root, pickle.dumps(Payload(canary), protocol=2), pickled, raw=0, mode=PICKLED)
    insert(root, pickled, b"1", raw=1)
    for _ in range(2):
        with open_index(root) as other:
            assert other.get("value") is None
            assert sorted(other.keys("")) == ["ours", "value"]
            assert other.get("ours") == b"1"
            other.put("value", b"mine now")
            assert other.get("value") == b"mine now"
            other.delete("value")
            insert(root, "value", pickled, mode=PICKLED)
    assert caplog.text.count("rows that are not ours") == 1


def test_the_test_would_notice_a_pickle_that_is_loaded(root, canary):
    """diskcache as it comes executes what the rows of the test above hold."""
    root.mkdir()
    with diskcache.Cache(root / "index") as cache:
        cache.set("x", 1)
        insert(root, "value", pickle.dumps(Payload(canary)), mode=PICKLED)
        cache.get("value")
    canary.unlink()


@pytest.mark.parametrize("mode", [1, 2, 3, 4])
def test_files_that_rows_name_are_never_touched(root, index, mode):
    outside = root.parent / "x"
    outside.write_bytes(b"mine")
    before = outside.stat()
    index.put("ours", b"1")
    for key in ("read", "deleted", "replaced", "evicted"):
        insert(root, key, None, mode=mode, filename="../../x")
    rows(root, "UPDATE Cache SET expire_time = 1 WHERE key = 'evicted'")
    assert index.get("read") is None
    index.delete("deleted")
    index.put("replaced", b"2")
    assert index.get("replaced") == b"2"
    assert outside.read_bytes() == b"mine"
    assert outside.stat().st_mtime_ns == before.st_mtime_ns
    assert rows(root, "SELECT count(*) FROM Cache WHERE key IN ('deleted', 'evicted')") == [(0,)]


@pytest.mark.parametrize("value", ["text", 5, 0.5, None, b"", b"short", b"x" * 40])
def test_values_without_our_checksum_are_a_miss(root, index, value):
    index.put("ours", b"1")
    insert(root, "key", value)
    assert index.get("key") is None
    assert index.get("ours") == b"1"


def test_a_flipped_bit_or_a_value_of_another_key_is_a_miss(root, index, caplog):
    index.put("a", b"value of a")
    index.put("b", b"value of b")
    ((row,),) = rows(root, "SELECT value FROM Cache WHERE key = 'a'")
    rows(root, "UPDATE Cache SET value = ? WHERE key = 'b'", row)
    rows(root, "UPDATE Cache SET value = ? WHERE key = 'a'", row[:-1] + bytes([row[-1] ^ 1]))
    assert [index.get("a"), index.get("b")] == [None, None]
    assert "damaged values" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_directory", "elsewhere"),
        ("disk_min_file_size", 10),
        ("sqlite_mmap_size", 1 << 30),
        ("sqlite_journal_mode", "off"),
        ("get", "x"),
        ("unknown", None),
    ],
)
def test_settings_that_a_database_brings_are_not_obeyed(root, index, tmp_path, key, value):
    index.put("a", b"1")
    if key == "_directory":
        value = str(tmp_path / value)
        Path(value).mkdir()
    rows(root, "INSERT OR REPLACE INTO Settings VALUES (?, ?)", key, value)
    with open_index(root) as other:
        assert other.get("a") is None
        other.put("a", b"2")
        assert other.get("a") == b"2"
    assert len(set_aside(root)) == 1
    if key == "_directory":
        assert list(Path(value).iterdir()) == []


def test_a_cache_of_another_program_is_set_aside(root, index, canary):
    with diskcache.Cache(root / "index") as foreign:
        foreign["a"] = Payload(canary)
    assert index.get("a") is None
    index.put("a", b"1")
    assert index.get("a") == b"1"
    [aside] = set_aside(root)
    assert (aside / "cache.db").is_file()


# Damage


def truncated(path):
    os.truncate(path, path.stat().st_size // 2)


def overwritten(path):
    size = path.stat().st_size
    path.write_bytes(os.urandom(size))


def half_overwritten(path):
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))


def not_a_database(path):
    path.write_text("<!DOCTYPE html>" * 1000)


def a_folder(path):
    path.unlink()
    path.mkdir()


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


def huge(path):
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    "damage",
    [truncated, overwritten, half_overwritten, not_a_database, a_folder, a_pipe, huge],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_index_is_begun_anew(root, index, damage, is_open, caplog):
    for number in range(60):
        index.put(f"{number}", b"x" * 500)
    if not is_open:
        index.close()
    damage(root / "index" / "cache.db")
    for number in range(60):
        assert index.get(f"{number}") in (None, b"x" * 500)
    index.put("new", b"1")
    with open_index(root) as other:
        other.put("newer", b"2")
        assert other.get("newer") == b"2"
    for record in caplog.records:
        assert "\n" not in record.message


def test_an_index_whose_making_was_cut_short_is_made(root, index):
    (root / "index").mkdir()
    (root / "index" / "cache.db").touch()
    assert index.get("a") is None
    index.put("a", b"1")
    assert index.get("a") == b"1"
    assert set_aside(root) == []


def test_what_was_moved_away_is_not_written_to(root, index):
    index.put("a", b"1")
    (root / "index").rename(root / "quarantine" / "moved")
    with open_index(root) as other:
        other.put("b", b"2")
    assert [index.get("a"), index.get("b")] == [None, b"2"]
    (root / "index").rename(root / "quarantine" / "moved too")
    assert index.get("b") is None
    index.put("c", b"3")
    assert list(index.keys("")) == ["c"]
    with closing(sqlite3.connect(root / "quarantine" / "moved" / "cache.db")) as moved:
        assert moved.execute("SELECT key FROM Cache").fetchall() == [("a",)]


def test_a_link_is_not_followed(root, index, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / "index").symlink_to(elsewhere)
    index.put("a", b"1")
    assert index.get("a") == b"1"
    assert list(elsewhere.iterdir()) == []


# Where it cannot be written


def test_without_a_store_it_is_a_miss_and_makes_nothing(root, caplog):
    with open_index(root) as index:
        index.put("a", b"1")
        assert index.get("a") is None
    assert not root.exists()
    with open_index(root) as again:
        again.put("a", b"1")
    assert len(caplog.records) == 1


@pytest.mark.parametrize("folder", ["locks", "quarantine"])
def test_a_file_where_a_folder_should_be(root, index, folder, caplog):
    (root / "index").touch()
    (root / folder).rmdir()
    (root / folder).touch()
    index.put("a", b"1")
    assert index.get("a") is None
    assert caplog.text.count("the index is not used") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
@pytest.mark.parametrize("folder", ["index", "locks", "."])
def test_folders_that_cannot_be_written(root, index, folder):
    if folder == "index":
        (root / "index").mkdir()
    (root / folder).chmod(0o500)
    try:
        index.put("a", b"1")
        assert index.get("a") is None
    finally:
        (root / folder).chmod(0o700)


def test_a_full_disk_drops_the_write(root, index, monkeypatch, caplog):
    index.put("a", b"1")
    pages = index._cache._sql("PRAGMA page_count").fetchone()[0]
    index._cache._sql(f"PRAGMA max_page_count={pages}")
    index.put("b", b"x" * 500_000)
    with open_index(root) as other:
        assert other.get("a") == b"1"
        assert other.get("b") is None
    assert "the index is not used (database or disk is full)" in caplog.text


def test_who_waits_for_a_stopped_writer_gives_up_soon(root, index, monkeypatch, caplog):
    monkeypatch.setattr(index_module, "LOCK_SECONDS", 0.05)
    index.put("a", b"1")
    with locks.acquire(root / "locks" / "index", timeout_seconds=1):
        index.put("a", b"2")
        index.put("a", b"3")
    assert caplog.text.count("the index is not used") == 1
    with open_index(root) as other:
        assert other.get("a") == b"1"


def test_a_folder_whose_name_diskcache_would_rewrite_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("ELSEWHERE", "taken")
    root = tmp_path / "$ELSEWHERE"
    prepare(root)
    with open_index(root) as index:
        index.put("a", b"1")
        assert index.get("a") is None
    assert not (tmp_path / "taken").exists()


WRITE = """
import sys
from pathlib import Path
from store.index.index import open_index
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    with open_index(Path(sys.argv[1])) as index:
        index.put(f"{sys.argv[2]}/{number}", b"%d" % number)
        index.put("both", b"x" * 1000)
        assert index.get("both") in (None, b"x" * 1000)
print("done")
"""


def test_processes_write_at_once(start, root, index, caplog):
    processes = [start(WRITE, root, name) for name in "ab"]
    for process in processes:
        process.read()
    for process in processes:
        process.go()
    for process in processes:
        assert process.finish() == ["done"]
    for name in "ab":
        written = [index.get(f"{name}/{number}") for number in range(40)]
        assert written == [b"%d" % number for number in range(40)]
    assert set_aside(root) == []


def test_a_killed_writer_costs_at_most_its_last_write(start, root, index):
    code = WRITE.replace("range(40)", "range(10**9)").replace('print("done")', "")
    for _ in range(3):
        process = start(code, root, "a")
        process.read()
        process.go()
        while index.get("a/20") is None:
            time.sleep(0.002)
        process.kill()
        index.put("mine", b"1")
        assert index.get("mine") == b"1"
        assert index.get("a/19") == b"19"
        index.delete("a/20")
    assert set_aside(root) == []


def test_an_index_that_was_held_for_a_while_is_used_again(root, monkeypatch, caplog):
    prepare(root)
    monkeypatch.setattr(index_module, "LOCK_SECONDS", 0.01)
    with open_index(root) as index:
        with locks.acquire(root / "locks" / "index", timeout_seconds=1):
            index.put("key", b"lost")
            assert index.is_off
            index.put("key", b"not even tried")
        assert index.get("key") is None
        monkeypatch.setattr(index, "_off_until", 0.0)  # half a minute later
        index.put("key", b"kept")
        assert index.get("key") == b"kept"
    assert "is held by" in caplog.text
