"""A full or read-only disk costs the store its part, and no result."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from engine import client
from engine.chain import journal
from presets.encoding import encode_spec
from presets.spec.run import RunSpec
from store.lineage.records import Segment
from store.store import Store, open_store
from tests.benchmark.storm import check_store
from tests.delivered import content
from tests.integration.chain_engine import Fault
from tests.integration.chain_runs import (
    NUM_TEXTS,
    QUICK,
    VIDEO,
    Calm,
    Here,
    assert_same,
    computed,
    done,
    enqueue,
    no_room,
    spec_of,
    steps,
    warnings,
)

# Drafts in order: the prompts, the steps, the latents, the video. See KILLS.
FULL: dict[str, tuple[Fault, ...]] = {
    "all blobs": (no_room("os:write", "ENOSPC", "/store/tmp/"),),
    "from the third step on": (no_room("os:write", "ENOSPC", "/store/tmp/", NUM_TEXTS + 3),),
    "one step": (no_room("os:write", "EDQUOT", "/store/tmp/", NUM_TEXTS + 3, NUM_TEXTS + 3),),
    "the latents": (no_room("os:fsync", "ENOSPC", "/store/tmp/", 11, 11),),
    "the video": (no_room("os:fsync", "EIO", "/store/tmp/", 12),),
    "folders of blobs": (no_room("os:mkdir", "EROFS", "/store/blobs/", 3),),
    "the index": (no_room("os:mkdir", "ENOSPC", "/store/index"),),
    "files of 16 kB": ({"fault": "no_larger_files", "num_bytes": 16_000},),
    "files of 400 kB": ({"fault": "no_larger_files", "num_bytes": 400_000}, QUICK),
    "the database": ({"fault": "full_database", "pages": 0}, QUICK),
    "the database, later": ({"fault": "full_database", "pages": 3}, QUICK),
}


@pytest.mark.parametrize("where", FULL)
def test_a_full_disk_costs_the_store_its_part_and_no_result(store, engines, calm, where):
    size = ("frames=17",) if where.startswith("files") else ()
    spec = spec_of(*size, kinds=VIDEO)
    run_id = enqueue(store, spec)
    code = engines.serve(store.root, *FULL[where])
    assert code in (0, 1)
    store.recover()
    check_degraded(store, run_id, calm, spec)
    again = enqueue(store, spec)
    assert engines.serve(store.root) == 0
    assert_same(store, again, calm, spec)
    assert warnings(store, again) == []
    check_store(store)


def check_degraded(store: Store, run_id: str, calm: Calm, spec: RunSpec) -> None:
    """A run that its store failed ended well with its files as they should be, or with one line that says why; what
    is stored is whole."""
    run = store.run(run_id)
    told = warnings(store, run_id)
    assert len(told) == len(set(told))
    assert all("could not be" in text and "\n" not in text for text in told)
    store.sweep()
    check_store(store)
    if run.status == "done":
        other = calm.make(spec)
        found, expected = Path(run.output), Path(calm.store.run(other).output)
        for suffix in (".mp4", ".safetensors"):
            ours, theirs = (content(path.with_suffix(suffix)) for path in (found, expected))
            assert ours == theirs
    else:
        assert run.status in ("queued", "failed", "interrupted")
        assert "\n" not in run.error
        if run.status != "queued":
            assert run.error


def test_a_replay_needs_no_room_in_the_database(store, engines, calm):
    spec = spec_of(kinds=VIDEO)
    enqueue(store, spec)
    assert engines.serve(store.root) == 0
    run_id = enqueue(store, spec)
    assert engines.serve(store.root, {"fault": "full_database", "pages": 0}, QUICK) == 0
    store.recover()
    check_degraded(store, run_id, calm, spec)
    assert Path(store.run(run_id).output).is_file()


def test_whatever_ends_the_journal_the_run_goes_on(here, calm, monkeypatch):
    """Not only what a store says: one step is lost, and the next one is kept with all that it takes to go on."""
    calls = itertools.count(1)
    digest = journal.latents_digest

    def third(*given):
        if next(calls) == 3:
            raise MemoryError("no memory left")
        return digest(*given)

    monkeypatch.setattr(journal, "latents_digest", third)
    spec = spec_of("scheduler.steps=16")
    run_id = here.make(spec)
    assert warnings(here.store, run_id) == ["step 3 could not be stored: no memory left"]
    assert [index for index, _, _ in steps(here.store, run_id)] == [0, 1, *range(3, 16)]
    assert here.store.run(run_id).latents == calm.store.run(calm.make(spec)).latents
    again = here.make(spec)
    assert computed(here.store, again) == []
    assert here.store.run(again).latents == here.store.run(run_id).latents
    segments = [Segment(12, encode_spec(spec))]
    branched = spec_of("scheduler.steps=16", "guidance.scale=6")
    branch = here.make(branched, segments)
    assert computed(here.store, branch) == [13, 14, 15, 16]
    other = calm.make(branched, segments)
    assert here.store.run(branch).latents == calm.store.run(other).latents


@pytest.fixture
def mounts() -> None:
    """Only where this system lets a user see other file systems than others do."""
    probe = ["unshare", "-Urm", "true"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs user namespaces")


@pytest.mark.usefixtures("mounts")
def test_a_disk_that_is_really_full(tmp_path, engines, calm):
    """4 MB, nearly all of it taken by something else."""
    disk, spec = tmp_path / "disk", spec_of(kinds=VIDEO)
    disk.mkdir()
    with open_store(tmp_path / "before" / "store") as store:
        run_id = enqueue(store, spec)
    fill = f"cp -r {store.root} {disk}/store; cat /dev/zero > {disk}/rest; truncate -s -500K {disk}/rest"
    mount = f"mount -t tmpfs -o size=4m tmpfs {disk} && {{ {fill}; }} 2>/dev/null"
    after = f"mkdir {tmp_path}/after && cp -r {disk}/store {tmp_path}/after/"
    assert engines.serve(disk / "store", QUICK, mount=(mount, after)) in (0, 1)
    with open_store(tmp_path / "after" / "store") as store:
        store.recover()
        logs = [path.read_text() for path in (store.root / "logs").iterdir()]
        assert any("no space left" in log for log in logs)
        check_degraded(store, run_id, calm, spec)
        here = Here(store, like=calm)
        assert_same(store, here.make(spec), calm, spec)
        client.resume(store, run_id)
        here.work()
        assert_same(store, run_id, calm, spec)
        check_store(store)


@pytest.mark.usefixtures("mounts")
def test_a_store_that_cannot_be_written_is_told_in_one_line(store, engines, calm):
    spec = spec_of()
    run_id = enqueue(store, spec)
    root = store.root
    mount = f"mount --bind {root} {root} && mount -o remount,bind,ro {root}"
    assert engines.serve(root, mount=(mount,)) == 1
    assert store.run(run_id).status == "queued"
    assert_same(store, Here(store, like=calm).make(spec), calm, spec)
    assert done(store, run_id)
    check_store(store)
