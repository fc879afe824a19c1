"""What is remembered of a file counts as long as the file is the same, and never changes a key given out before."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoints import digests, fingerprint
from engine.checkpoints.digests import (
    Identity,
    claimed_digest,
    fingerprint_of,
    full_digest,
    identity,
    remember_digest,
    remembered,
)
from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.components.protocols import Description
from engine.errors import CheckpointError
from engine.process.digesting import Digester
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.index.index import open_index
from store.paths import prepare


@pytest.fixture
def root(tmp_path: Path) -> Path:
    prepare(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def index(root: Path):
    with open_index(root) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "m.safetensors"
    save_file({"w": torch.arange(20_000, dtype=torch.float32)}, file)
    return file


def flipped(path: Path, name: str) -> Path:
    """A copy with one other bit, which no sample sees."""
    copy = Path(shutil.copy(path, path.with_name(name)))
    with copy.open("r+b") as file:
        file.seek(-30_000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    return copy


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest(index, path: Path) -> None:
    found = full_digest(path)
    assert found == sha256(path)
    remember_digest(index, path, found)


@pytest.fixture
def samples(monkeypatch):
    """The files that were sampled."""
    taken = []

    def sample_of(file):
        taken.append(file)
        return fingerprint.sample_of(file)

    monkeypatch.setattr(digests, "sample_of", sample_of)
    return taken


# The memo


def test_an_unchanged_file_is_sampled_once(root, index, path, samples):
    tokenizer = path.with_name("tokenizer.json")
    tokenizer.write_text("{}")
    first = fingerprint_of(index, [path, tokenizer])
    assert first == fingerprint.fingerprint([path, tokenizer])
    with open_index(root) as other:
        assert fingerprint_of(other, [path, tokenizer]) == first
    assert samples == [path, tokenizer]
    assert remembered(index, path).sha256 is None
    assert abs(remembered(index, path).when - time.time_ns()) < 60e9


def test_a_file_is_known_through_every_link_to_it(index, path, samples):
    link = path.with_name("link")
    link.symlink_to(path)
    assert fingerprint_of(index, [path]) == fingerprint_of(index, [link])
    assert samples == [path]


def rewritten(path):
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")


def replaced(path):
    shutil.copy(path, path.with_name("draft"))
    rewritten(path.with_name("draft"))
    path.with_name("draft").rename(path)


@pytest.mark.parametrize("keeps_mtime", [False, True])
@pytest.mark.parametrize("change", [rewritten, replaced])
def test_a_changed_file_is_noticed_even_with_its_old_size_and_time(
    index, path, change, keeps_mtime
):
    before = fingerprint_of(index, [path])
    digest(index, path)
    status = path.stat()
    change(path)
    if keeps_mtime:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert path.stat().st_size == status.st_size
    assert remembered(index, path) is None
    assert fingerprint_of(index, [path]) == fingerprint.fingerprint([path]) != before
    assert remembered(index, path).sha256 is None


def test_a_change_within_one_tick_of_the_clock_is_noticed(index, path):
    """The file is first seen as soon as it is written, and written again as soon as it was seen."""
    for number in range(20):
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(bytes([number]))
        assert fingerprint_of(index, [path]) == fingerprint.fingerprint([path])
        # where the clock is finer than its ticks, nothing but this tells that the sample waited for the next
        assert time.time_ns() - path.stat().st_ctime_ns > 10_000_000


@pytest.mark.parametrize("row", [b"", b"{}", b"[1]", b"\xff", b'{"facts":[1,2,3,4,5],"sampled":1}'])
def test_a_row_that_makes_no_sense_is_a_miss(index, path, row):
    expected = fingerprint_of(index, [path])
    for key in list(index.keys("weights/")):
        index.put(key, row)
    assert remembered(index, path) is None
    assert fingerprint_of(index, [path]) == expected


def test_without_an_index_everything_is_computed(tmp_path, path, samples):
    with open_index(tmp_path / "nowhere") as index:
        for _ in range(2):
            assert fingerprint_of(index, [path]) == fingerprint.fingerprint([path])
        digest(index, path)
        assert remembered(index, path) is None


@pytest.mark.parametrize("make", [lambda p: None, Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_one_line(index, tmp_path, make):
    path = tmp_path / "absent"
    make(path)
    assert remembered(index, path) is None
    for ask in (identity, full_digest, lambda p: fingerprint_of(index, [p])):
        with pytest.raises(CheckpointError, match=r"absent: (no such|not a) file$"):
            ask(path)


# Full digests


def test_a_digest_is_that_of_hashlib_and_tells_how_far_it_is(path, monkeypatch):
    monkeypatch.setattr(digests, "SLICE_BYTES", 30_000)
    size, seen = path.stat().st_size, []
    found = full_digest(path, on_progress=lambda done, total: seen.append((done, total)))
    assert found == sha256(path)
    assert seen == [(30_000, size), (60_000, size), (size, size)]
    path.write_bytes(b"")
    assert full_digest(path) == hashlib.sha256().hexdigest()


def test_a_digest_stops_where_it_is_asked_to(path, monkeypatch):
    monkeypatch.setattr(digests, "SLICE_BYTES", 1000)
    seen = []
    stopped = full_digest(
        path,
        on_progress=lambda done, total: seen.append(done),
        should_stop=lambda: len(seen) == 3,
    )
    assert stopped is None
    assert seen == [1000, 2000, 3000]


@pytest.mark.parametrize("change", [rewritten, replaced, lambda path: os.truncate(path, 50_000)])
def test_a_file_that_changes_while_it_is_read_has_no_digest(path, monkeypatch, change):
    monkeypatch.setattr(digests, "SLICE_BYTES", 40_000)
    changes = iter([change])
    assert (
        full_digest(path, on_progress=lambda done, total: next(changes, lambda _: None)(path))
        is None
    )


def test_a_digest_of_what_the_file_was_before_is_not_remembered(index, path):
    before = identity(path)
    found = full_digest(path)
    rewritten(path)
    remember_digest(index, path, found, of=before)
    assert remembered(index, path) is None


# The fingerprint of files whose digests are known


def test_a_fingerprint_stays_when_the_digest_arrives(index, path):
    before = fingerprint_of(index, [path])
    digest(index, path)
    assert remembered(index, path).sha256 == sha256(path)
    assert fingerprint_of(index, [path]) == before


def lose_index(root: Path) -> None:
    shutil.rmtree(root / "index")


@pytest.mark.parametrize("asked_first", [0, 1])
@pytest.mark.parametrize("digested", ["nobody", "in order", "the other first"])
def test_names_stay_when_the_index_is_lost(root, path, asked_first, digested):
    """Results are kept by these names, in the store's database."""
    files = [path, flipped(path, "other")]
    with open_index(root) as index:
        for file in files:
            digest(index, file)
        names = [fingerprint_of(index, [file]) for file in files]
    assert names[1] == f"{names[0]}+{sha256(files[1])[:16]}"
    lose_index(root)
    with open_index(root) as index:
        again = {"nobody": [], "in order": files, "the other first": files[::-1]}[digested]
        for file in again:
            digest(index, file)
        for i in (asked_first, 1 - asked_first):
            assert fingerprint_of(index, [files[i]]) == names[i]
    # and so does the name of a copy that was never seen
    copy = Path(shutil.copy(files[1], path.with_name("copy")))
    with open_index(root) as index:
        assert fingerprint_of(index, [copy]) == names[1]


def test_a_file_is_not_read_in_full_for_its_name_unless_another_has_its_sample(
    root, index, path, monkeypatch
):
    digest(index, path)
    name = fingerprint_of(index, [path])
    lose_index(root)
    monkeypatch.setattr(digests, "full_digest", None)
    with open_index(root) as again:
        assert fingerprint_of(again, [path]) == name


def test_a_file_that_changes_while_it_is_read_for_its_name_is_told(root, index, path, monkeypatch):
    for file in (path, flipped(path, "other")):
        digest(index, file)
    lose_index(root)
    monkeypatch.setattr(digests, "full_digest", lambda path: None)
    with open_index(root) as again, pytest.raises(CheckpointError, match="while it was read"):
        fingerprint_of(again, [path])


def test_files_that_differ_between_the_samples_are_told_apart_once_known(root, index, path):
    other = flipped(path, "other")
    sampled = fingerprint_of(index, [path])
    assert fingerprint_of(index, [other]) == sampled
    digest(index, path)
    assert fingerprint_of(index, [other]) == sampled
    digest(index, other)
    with open_index(root) as again:
        assert fingerprint_of(again, [path]) == sampled
        assert fingerprint_of(again, [other]) == f"{sampled}+{sha256(other)[:16]}"


def test_who_is_digested_first_keeps_the_plain_fingerprint(index, path):
    other, third = flipped(path, "other"), path.with_name("third")
    for file in (other, path):
        digest(index, file)
    sampled = fingerprint.fingerprint([path])
    assert fingerprint_of(index, [other]) == sampled
    assert fingerprint_of(index, [path]) == f"{sampled}+{sha256(path)[:16]}"
    for source, expected in ((other, sampled), (path, fingerprint_of(index, [path]))):
        shutil.copy(source, third)
        digest(index, third)
        assert fingerprint_of(index, [third]) == expected


def test_every_other_file_of_a_component_is_marked(index, path):
    other = flipped(path, "other")
    for file in (path, other):
        digest(index, file)
    expected = f"{fingerprint.fingerprint([path, path, path])}" + 2 * f"+{sha256(other)[:16]}"
    assert fingerprint_of(index, [other, path, other]) == expected


def test_a_file_that_rots_gets_another_fingerprint(index, path):
    before = fingerprint_of(index, [path])
    digest(index, path)
    flipped(path, "other").rename(path)
    assert fingerprint_of(index, [path]) == before
    digest(index, path)
    assert fingerprint_of(index, [path]) == f"{before}+{sha256(path)[:16]}"


# The Hugging Face cache


def test_what_the_cache_claims(tmp_path, path):
    folder = tmp_path / "models--Wan-AI--Wan2.1-T2V-1.3B"
    snapshot, blobs = folder / "snapshots" / "abc" / "sub", folder / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    name = sha256(path)
    path.rename(blobs / name)
    (blobs / name[:40]).touch()
    (snapshot / "a").symlink_to(f"../../../blobs/{name}")
    (snapshot / "b").symlink_to(f"../../../blobs/{name[:40]}")
    (tmp_path / name).touch()
    (snapshot / "c").symlink_to(tmp_path / name)
    (snapshot / "d").symlink_to("nowhere")
    assert claimed_digest(snapshot / "a") == name
    assert [claimed_digest(snapshot / other) for other in "bcde"] == [None] * 4
    assert claimed_digest(blobs / name) is None


# While the engine is idle


def run_of(path: Path) -> bytes:
    return encode_spec(load_preset("micro", [f"components.vae.checkpoint={path}"]))


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    return Path(shutil.copy(locate("vae", BUILTIN_MICRO), tmp_path / "vae.safetensors"))


def uses(monkeypatch, *files: Path) -> None:
    """Every component is read from these files, whatever is in them."""

    class Provider:
        def describe(self, spec, index):
            return Description(identity={}, facts={}, resident="", files=files)

    monkeypatch.setattr("engine.components.registry.provider", lambda kind, name: Provider())


@pytest.fixture
def digester(root):
    with Digester(root) as opened:
        yield opened


def drained(digester: Digester) -> None:
    digester.resume()
    digester._thread.join(30)
    assert not digester._thread.is_alive()


def test_what_a_run_used_is_digested(digester, index, vae, caplog):
    caplog.set_level("INFO")
    digester.add(run_of(vae))
    assert remembered(index, vae).sha256 is None
    drained(digester)
    assert remembered(index, vae).sha256 == sha256(vae)
    lines = [record.message for record in caplog.records if str(vae) in record.message]
    assert len(lines) == 1
    assert sha256(vae) in lines[0]
    caplog.clear()
    digester.add(run_of(vae))
    drained(digester)
    assert caplog.records == []


@pytest.fixture
def endless(path):
    """A file that takes minutes to read: 500 GB, all of them zero."""
    file = path.with_name("endless.safetensors")
    with file.open("wb") as opened:
        opened.truncate(500 << 30)
    return file


def test_a_run_does_not_wait_for_a_digest(digester, endless, monkeypatch):
    """`pause` is back while a slice is at work, and no slice follows that one."""
    reading, go_on = threading.Event(), threading.Event()
    slices = []
    read = digests.full_digest

    def full_digest(path, *, should_stop):
        def between_slices(done, total):
            slices.append(done)
            reading.set()
            assert go_on.wait(60)

        return read(path, on_progress=between_slices, should_stop=should_stop)

    monkeypatch.setattr("engine.process.digesting.full_digest", full_digest)
    monkeypatch.setattr("engine.process.digesting.JOIN_SECONDS", 60.0)
    uses(monkeypatch, endless)
    digester.add(run_of(endless))
    for _ in range(2):  # it begins again with the file that was interrupted
        reading.clear()
        go_on.clear()
        digester.resume()
        assert reading.wait(60)
        thread = digester._thread
        digester.resume()
        assert digester._thread is thread
        digester.pause()
        assert thread.is_alive()
        assert slices == [digests.SLICE_BYTES]
        go_on.set()
        thread.join(60)
        assert not thread.is_alive()
        assert slices == [digests.SLICE_BYTES]
        slices.clear()
    digester.resume()
    digester.__exit__()
    assert not digester._thread.is_alive()


@pytest.mark.parametrize("content", [b"<html>", b""])
def test_what_cannot_be_digested_is_one_line_and_the_rest_goes_on(
    digester, index, path, tmp_path, monkeypatch, caplog, content
):
    bad = tmp_path / "bad"
    bad.write_bytes(content)
    uses(monkeypatch, bad, path)
    digester.add(run_of(path))
    drained(digester)
    assert remembered(index, path).sha256 == sha256(path)
    [warning] = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("no digest: ")
    assert "bad" in warning
    digester.add(b"not a run")
    assert "no digests of what the run used" in caplog.text


def test_a_component_that_is_gone_costs_the_digests_of_no_other(digester, index, path, caplog):
    path.unlink()
    spec = load_preset("micro", [f"components.text_encoder.checkpoint={path}"])
    digester.add(encode_spec(spec))
    drained(digester)
    [warning] = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("no digests of the text_encoder: ")
    weights = locate("vae", BUILTIN_MICRO)
    assert remembered(index, weights).sha256 == sha256(weights)


def test_without_an_index_a_file_is_read_once(tmp_path, vae, caplog):
    caplog.set_level("INFO", "engine.process.digesting")
    with Digester(tmp_path / "nowhere") as digester:
        for _ in range(2):
            digester.add(run_of(vae))
            drained(digester)
    assert caplog.text.count(sha256(vae)) == 1


def test_a_file_that_is_not_what_the_cache_names_it_is_told(digester, vae, monkeypatch, caplog):
    monkeypatch.setattr("engine.process.digesting.claimed_digest", lambda path: "0" * 64)
    digester.add(run_of(vae))
    drained(digester)
    assert f"{vae}: is not what the cache names it" in caplog.text


def test_identity_is_plain_data(path):
    status = path.stat()
    assert identity(path) == Identity(
        str(path),
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
