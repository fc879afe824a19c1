"""A store of version 1 becomes one of this version with all that was in it, after a copy."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from store import locks
from store.database import backups, database, filesystems
from store.database.schema import MIGRATIONS, SCHEMA_VERSION
from store.database.sqlite import sqlite3
from store.errors import StoreFull, StoreUnwritable
from store.lineage.events import Message, RunFinished, RunQueued, encode_event
from store.lineage.records import LinkRecord, StageRecord
from store.store import open_store

MAKES_STORES = True

RUNS = [
    ("aaaaaaaaaa", "done", '{"prompt":"ein roter Kreis"}', "e1", "", 0, 10, 20, 30),
    ("bbbbbbbbbb", "interrupted", '{"prompt":"b"}', "e1", "the engine ended", 1, 11, 21, 31),
    ("cccccccccc", "queued", '{"prompt":"c"}', "", "", 0, 12, None, None),
    ("dddddddddd", "queued", '{"prompt":"d"}', "", "", 0, 13, None, None),
]
DIGEST = "sha256:" + "d" * 64


def make_version_1(root: Path, runs=RUNS) -> None:
    """What the first version left: its database and its mark."""
    root.mkdir(mode=0o700)
    connection = sqlite3.connect(root / "lineage.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    for statement in MIGRATIONS[0]:
        connection.execute(statement)
    connection.execute("PRAGMA user_version=1")
    for run in runs:
        connection.execute(
            "INSERT INTO runs (id, status, spec, engine, error, cancel_requested, created_ns, "
            "started_ns, ended_ns, preset, output) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'p', '/o')",
            run,
        )
        for event in (RunQueued(), Message("info", run[0])):
            connection.execute(
                "INSERT INTO events (run_id, ns, json) VALUES (?, 5, ?)",
                (run[0], encode_event(event)),
            )
        connection.execute(
            "INSERT INTO stages (run_id, name, seconds, cached) VALUES (?, 'denoise', 1.5, 0)",
            (run[0],),
        )
    connection.close()
    (root / "store.json").write_text('{"format":1,"uuid":"0"}\n')


def copies(root: Path) -> list[Path]:
    folder = root / "backup"
    return sorted(folder.iterdir()) if folder.exists() else []


def test_every_row_of_version_1_is_kept(root):
    make_version_1(root)
    with open_store(root) as store:
        assert database.rows(store.lineage, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
        found = store.runs(limit=99)
        assert [
            (
                run.id,
                run.status,
                run.spec_json.decode(),
                run.engine,
                run.error,
                run.cancel_requested,
                run.created_ns,
                run.started_ns,
                run.ended_ns,
            )
            for run in found
        ] == RUNS[::-1]
        for run in found:
            assert (run.parent, run.parent_step, run.segments, run.stop_at) == ("", None, (), None)
            assert (run.note, run.pinned, run.latents, run.environment) == ("", False, "", "")
            assert (run.origin, run.pause_requested, run.is_paused) == ("local", False, False)
            assert (run.verifies, run.rating) == ("", 0)
            assert [event for _, event in store.events(run.id)] == [
                RunQueued(),
                Message("info", run.id),
            ]
            assert store.stages(run.id) == [StageRecord("denoise", 1.5, False)]
            assert store.links_of(run.id) == []
        store.check()


def test_a_migrated_store_works_like_a_new_one(root):
    make_version_1(root)
    with open_store(root) as store, store.register_engine("e2", pid=os.getpid()):
        new = store.enqueue(b"{}", preset="p", output="o")
        store.resume("bbbbbbbbbb")
        order = ["cccccccccc", "dddddddddd", new, "bbbbbbbbbb"]
        assert [run.id for run in store.queued()] == order
        assert [store.lease("e2").id for _ in order] == order
        store.finish(new, "paused")
        assert store.run(new).status == "paused"
        assert [run.id for run in store.search(limit=9, words=["KREIS"])] == ["aaaaaaaaaa"]


def test_an_engine_of_version_1_goes_on_in_a_migrated_store(root):
    make_version_1(root)
    old = sqlite3.connect(root / "lineage.db", isolation_level=None)
    old.execute("UPDATE runs SET status='running', engine='e1' WHERE id='cccccccccc'")
    with open_store(root) as store:
        old.execute("UPDATE runs SET status='done', ended_ns=50 WHERE id='cccccccccc'")
        old.execute(
            "INSERT INTO events (run_id, ns, json) VALUES ('cccccccccc', 5, ?)",
            (encode_event(RunFinished("done")),),
        )
        old.execute(
            "INSERT INTO runs (id, status, preset, spec, output, created_ns) "
            "VALUES ('eeeeeeeeee', 'queued', 'p', '{}', 'o', 6)"
        )
        assert store.run("cccccccccc").status == "done"
        assert store.events("cccccccccc")[-1][1] == RunFinished("done")
        assert [run.id for run in store.queued()] == ["dddddddddd", "eeeeeeeeee"]
        after = store.enqueue(b"{}", preset="p", output="o")
        assert store.queued()[-1].id == after
    old.close()


def test_the_database_is_copied_before_it_is_migrated(root):
    make_version_1(root)
    with open_store(root):
        [copy] = copies(root)
    assert re.fullmatch(r"lineage-1-\d+\.db", copy.name)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
    assert list((root / "tmp").iterdir()) == []
    with sqlite3.connect(copy) as old:
        assert old.execute("PRAGMA user_version").fetchone() == (1,)
        assert old.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert len(old.execute("SELECT * FROM runs").fetchall()) == len(RUNS)
    old.close()


def test_a_copy_put_back_is_a_store_again(root):
    make_version_1(root)
    with open_store(root):
        pass
    [copy] = copies(root)
    for path in root.glob("lineage.db*"):
        path.unlink()
    copy.rename(root / "lineage.db")
    with open_store(root) as store:
        assert len(store.runs(limit=9)) == len(RUNS)
        store.check()


def test_a_store_is_copied_once_and_an_empty_or_new_one_never(root, tmp_path):
    with open_store(root) as store:
        store.enqueue(b"{}", preset="p", output="o")
    with open_store(root):
        assert copies(root) == []
    make_version_1(tmp_path / "empty", runs=[])
    with open_store(tmp_path / "empty") as store:
        assert store.runs(limit=9) == []
    assert copies(tmp_path / "empty") == []
    make_version_1(tmp_path / "old")
    for _ in range(2):
        with open_store(tmp_path / "old"):
            assert len(copies(tmp_path / "old")) == 1


def make_version_2(root: Path) -> None:
    """A store of the second version, with a link, what its run saw of it, and an engine's row."""
    make_version_1(root)
    connection = sqlite3.connect(root / "lineage.db", isolation_level=None)
    for statement in MIGRATIONS[1]:
        connection.execute(statement)
    connection.execute("PRAGMA user_version=2")
    connection.execute(
        "INSERT INTO links (key, kind, digest, bytes, seconds, created_ns, used_ns) "
        "VALUES ('k', 'step', ?, 7, 1.5, 3, 4)",
        (DIGEST,),
    )
    connection.execute("INSERT INTO engines VALUES ('e1', ?, 'h', 5, 6)", (os.getpid(),))
    connection.close()


def test_what_version_2_did_not_know_is_empty(root):
    make_version_2(root)
    with open_store(root) as store:
        assert len(copies(root)) == 1
        assert [run.id for run in store.runs(limit=9)] == [run[0] for run in RUNS[::-1]]
        link = LinkRecord("k", "step", DIGEST, num_bytes=7, seconds=1.5, created_ns=3, used_ns=4)
        assert store.find_links(["k"]) == {"k": link}
        assert (link.resume_at, link.keep) == (None, "")
        with locks.acquire(root / "locks" / "engine-e1", timeout_seconds=1):
            [engine] = store.engines()
        assert (engine.id, engine.version, engine.is_retiring) == ("e1", "", False)
        store.check()


MIGRATE = """
import sys
from store.store import open_store
print("ready", flush=True)
sys.stdin.readline()
with open_store(sys.argv[1]) as store:
    print(len(store.runs(limit=99)))
"""


def test_processes_that_migrate_at_once_make_one_copy(start, root):
    make_version_1(root)
    processes = [start(MIGRATE, root) for _ in range(4)]
    for process in processes:
        process.read()
    for process in processes:
        process.go()
    assert [process.finish() for process in processes] == [[str(len(RUNS))]] * 4
    assert len(copies(root)) == 1


def test_the_newest_three_copies_are_kept_even_when_the_clock_goes_back(root, monkeypatch):
    with open_store(root) as store:
        other = root / "backup" / "mine.txt"
        for ns in (500, 400, 10**6, 7, 8):
            monkeypatch.setattr(backups.time, "time_ns", lambda ns=ns: ns)
            made = backups.back_up(store.lineage.db.conn, root, 1)
            other.write_text("not a copy")
            assert made.exists()
    assert [path.name for path in copies(root)] == [
        "lineage-1-1000000.db",
        "lineage-1-1000001.db",
        "lineage-1-1000002.db",
        "mine.txt",
    ]


def test_without_room_for_the_copy_nothing_is_migrated(root, monkeypatch):
    make_version_1(root)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backups, "sync_file", full)
    with pytest.raises(StoreFull, match="backup"):
        open_store(root)
    assert copies(root) == []
    assert list((root / "tmp").iterdir()) == []
    with sqlite3.connect(root / "lineage.db") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()
    monkeypatch.undo()
    with open_store(root) as store:
        assert len(store.runs(limit=9)) == len(RUNS)


# Filesystems

MOUNTS = r"""
22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /proc rw,nosuid - proc proc rw
40 22 0:40 / /home rw,relatime shared:7 master:2 - autofs auto.home rw
41 40 0:41 /export/ann /home/ann rw,relatime - nfs4 server:/export/ann rw,vers=4.2
42 41 253:1 / /home/ann/scratch rw,relatime - xfs /dev/vdb rw
43 22 0:43 / /mnt/with\040space rw - cifs //server/share rw
44 22 0:44 / /mnt/ssh rw - fuse.sshfs ann@server: rw
45 22 0:45 / /mnt/usb rw - fuseblk /dev/sdb1 rw
46 22 0:46 / /mnt/crypt rw - fuse.gocryptfs /home/x rw
47 22 0:47 / /mnt/fuse rw - fuse something rw
48 22 0:48 / /mnt/c rw - 9p drvfs rw
49 22 0:49 / /mnt/twice rw - ext4 /dev/vdc rw
50 49 0:50 / /mnt/twice rw - nfs server:/x rw
51 22 0:51 / /mnt/back rw - nfs server:/y rw
52 51 0:52 / /mnt/back rw - tmpfs tmpfs rw
a line of another format
"""


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    monkeypatch.setattr(filesystems, "MOUNTINFO", table)
    return table


@pytest.mark.parametrize(
    ("folder", "filesystem", "is_refused"),
    [
        ("/srv/store", "ext4", False),
        ("/home", "autofs", False),
        ("/home/ann/modiff/store", "nfs4", True),
        ("/home/anna/store", "autofs", False),
        ("/home/ann/scratch/store", "xfs", False),
        ("/mnt/with space/store", "cifs", True),
        ("/mnt/ssh", "fuse.sshfs", True),
        ("/mnt/usb/store", "fuseblk", False),
        ("/mnt/crypt/store", "fuse.gocryptfs", False),
        ("/mnt/fuse/store", "fuse", True),
        ("/mnt/c/Users/ann", "9p", True),
        ("/mnt/twice/store", "nfs", True),
        ("/mnt/back/store", "tmpfs", False),
    ],
)
def test_which_filesystems_are_refused(mounts, folder, filesystem, is_refused):
    assert filesystems.filesystem_of(Path(folder)) == filesystem
    assert filesystems.is_network(filesystem) == is_refused


def test_a_store_on_a_network_filesystem_is_refused_before_anything_is_made(mounts, root):
    mounts.write_text(f"41 40 0:41 / {root.parent} rw - nfs4 server:/export rw\n")
    with pytest.raises(StoreUnwritable) as caught:
        open_store(root)
    text = str(caught.value)
    assert "\n" not in text
    for part in (root, "nfs4", "MODIFF_STORE", "local disk"):
        assert str(part) in text
    assert not root.exists()


def test_a_link_to_a_network_filesystem_is_seen_through(mounts, tmp_path):
    (tmp_path / "remote").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "remote")
    mounts.write_text(f"41 40 0:41 / {tmp_path}/remote rw - cifs //server/x rw\n")
    with pytest.raises(StoreUnwritable, match="cifs"):
        open_store(tmp_path / "link" / "store")


def test_where_mounts_cannot_be_told_every_folder_is_taken(mounts, root):
    mounts.unlink()
    with open_store(root) as store:
        store.check()
