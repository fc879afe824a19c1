"""Blobs are whole, durable, verified on every read, and set aside when they are damaged."""

from __future__ import annotations

import hashlib
import os
import stat

import pytest

from store.blobs import blobs, files
from store.errors import BlobCorrupt, BlobMissing, StoreError, StoreFull
from store.paths import prepare

DATA = bytes(range(256)) * 40


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "store"
    prepare(root)
    return root


def drafts(root):
    return list((root / "tmp").iterdir())


def quarantined(root):
    return list((root / "quarantine").iterdir())


@pytest.mark.parametrize("data", [b"", b"a", DATA, bytearray(DATA), memoryview(DATA)[3:]])
def test_what_was_put_comes_back(root, data):
    digest = blobs.put(root, data)
    assert digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert blobs.get(root, digest) == data
    assert drafts(root) == []


def test_a_blob_larger_than_one_slice(root, monkeypatch):
    monkeypatch.setattr(files, "SLICE_BYTES", 1000)
    monkeypatch.setattr(blobs, "SLICE_BYTES", 999)
    assert blobs.get(root, blobs.put(root, DATA)) == DATA


def test_a_write_that_takes_fewer_bytes_than_it_was_given_goes_on(root, monkeypatch):
    write = os.write
    monkeypatch.setattr(files.os, "write", lambda fd, data: write(fd, data[:7]))
    assert blobs.get(root, blobs.put(root, DATA[:100])) == DATA[:100]


def test_a_blob_is_a_read_only_file_named_by_its_digest(root):
    digest = blobs.put(root, DATA)
    name = digest.removeprefix("sha256:")
    path = root / "blobs" / name[:2] / name[2:4] / name
    assert blobs.blob_path(root, digest) == path
    assert path.read_bytes() == DATA
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


def test_the_same_bytes_are_stored_once(root):
    digest = blobs.put(root, DATA)
    inode = blobs.blob_path(root, digest).stat().st_ino
    assert blobs.put(root, DATA) == digest
    assert blobs.blob_path(root, digest).stat().st_ino == inode


def test_bytes_are_on_the_disk_before_they_have_a_name_and_the_name_before_put_returns(
    root, monkeypatch
):
    calls = []
    fsync, rename = os.fsync, os.rename

    def recorded_fsync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append("fsync folder" if is_folder else "fsync file")
        fsync(descriptor)

    def recorded_rename(source, target):
        calls.append("rename")
        rename(source, target)

    monkeypatch.setattr(files.os, "fsync", recorded_fsync)
    monkeypatch.setattr(files.os, "rename", recorded_rename)
    blobs.put(root, DATA)
    # The two folders in between are parents that were made for this blob.
    assert calls == ["fsync file", "fsync folder", "fsync folder", "rename", "fsync folder"]


def test_an_unknown_blob_is_missing(root):
    with pytest.raises(BlobMissing, match="not in the store"):
        blobs.get(root, "sha256:" + "0" * 64)


@pytest.mark.parametrize(
    "digest", ["", "0" * 64, "sha256:" + "0" * 63, "sha256:../../../etc/passwd", "md5:" + "0" * 64]
)
def test_what_is_no_digest_is_refused(root, digest):
    with pytest.raises(StoreError, match="is not a digest"):
        blobs.get(root, digest)


def truncate(path):
    path.chmod(0o600)
    os.truncate(path, 100)


def empty(path):
    path.chmod(0o600)
    os.truncate(path, 0)


def grow(path):
    path.chmod(0o600)
    with path.open("ab") as file:
        file.write(b"more")


def flip(path, at):
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def flip_the_first_bit(path):
    flip(path, 0)


def flip_a_bit(path):
    flip(path, path.stat().st_size // 2)


def flip_the_last_bit(path):
    flip(path, -1)


def zero(path):
    path.chmod(0o600)
    path.write_bytes(bytes(path.stat().st_size))


def replace_by_link(path):
    copy = path.with_name("copy")
    path.rename(copy)
    path.symlink_to(copy)


def replace_by_link_to_nothing(path):
    path.unlink()
    path.symlink_to("/nonexistent")


def replace_by_fifo(path):
    path.unlink()
    os.mkfifo(path)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = [
    truncate,
    empty,
    grow,
    flip_the_first_bit,
    flip_a_bit,
    flip_the_last_bit,
    zero,
    replace_by_link,
    replace_by_link_to_nothing,
    replace_by_fifo,
    replace_by_folder,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_found_set_aside_and_healed_by_the_next_put(root, damage):
    digest = blobs.put(root, DATA)
    path = blobs.blob_path(root, digest)
    damage(path)
    with pytest.raises(BlobCorrupt) as caught:
        blobs.get(root, digest)
    assert "\n" not in str(caught.value)
    assert not os.path.lexists(path)
    assert len(quarantined(root)) == 1
    with pytest.raises(BlobMissing):
        blobs.get(root, digest)
    assert blobs.put(root, DATA) == digest
    assert blobs.get(root, digest) == DATA


def test_putting_over_a_damaged_blob_heals_it(root):
    digest = blobs.put(root, DATA)
    flip_a_bit(blobs.blob_path(root, digest))
    assert blobs.put(root, DATA) == digest
    assert blobs.get(root, digest) == DATA
    assert len(quarantined(root)) == 1


FILL = """
import resource, sys
from pathlib import Path
from store.blobs import blobs
from store.errors import FileTooLarge
root = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    blobs.put(root, bytes(10_000))
except FileTooLarge as error:
    print(error)
print(blobs.put(root, b"small"))
"""


def test_a_limit_on_files_leaves_nothing_half_written(start, root):
    told, digest = start(FILL, root).finish()
    assert "is larger than files may be here (File too large); see `ulimit -f`" in told
    assert drafts(root) == []
    assert blobs.get(root, digest) == b"small"
    with pytest.raises(BlobMissing):
        blobs.get(root, blobs.digest_of(bytes(10_000)))


def test_a_disk_that_fails_to_sync_is_an_error_and_stores_nothing(root, monkeypatch):
    def failing(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", failing)
    with pytest.raises(StoreError, match="Input/output error"):
        blobs.put(root, DATA)
    monkeypatch.undo()
    assert drafts(root) == []
    with pytest.raises(BlobMissing):
        blobs.get(root, blobs.digest_of(DATA))
    assert not isinstance(StoreError("x"), StoreFull)


PUT_FOREVER = """
import sys
from pathlib import Path
from store.blobs import blobs
print("ready", flush=True)
sys.stdin.readline()
i = 0
while True:
    print(blobs.put(Path(sys.argv[1]), i.to_bytes(4, "little") * 50_000), flush=True)
    i += 1
"""


def test_a_killed_writer_leaves_whole_blobs_and_drafts_that_are_swept(start, root):
    told = []
    for _ in range(5):
        process = start(PUT_FOREVER, root)
        process.read()
        process.go()
        told.append(process.read())
        told.append(process.read())
        process.kill()
    for digest in told:
        assert len(blobs.get(root, digest)) == 200_000
    for path in (root / "blobs").glob("*/*/*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    num_left = len(drafts(root))
    assert files.sweep_drafts(root) == num_left
    assert drafts(root) == []


def test_sweeping_spares_the_writes_of_living_processes(root):
    mine = root / "tmp" / f"{os.getpid()}-abc"
    old = root / "tmp" / f"{os.getpid()}-old"
    foreign = root / "tmp" / "left by something else"
    for path in (mine, old, foreign):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    assert files.sweep_drafts(root) == 2
    assert drafts(root) == [mine]
