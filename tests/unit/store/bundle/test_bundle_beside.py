"""An import while others use the store: clean-ups go on while it copies, and take nothing of what it brings."""

from __future__ import annotations

import os
import shutil

import pytest

from store.blobs import blobs, files
from store.bundle import importing
from store.errors import StoreBusy
from store.store import open_store
from store.upkeep.gc import clean
from store.upkeep.removal import Policy
from store.upkeep.verify import verify
from tests.stores import bundles
from tests.stores.bundles import export, make_run, take
from tests.stores.made_stores import on_disk

ALL = Policy(budget_bytes=0, older_than_ns=0)


@pytest.fixture
def path(store, tmp_path):
    return export(store, tmp_path / "star.modiff", make_run(store, num_steps=2))


@pytest.fixture
def other(tmp_path):
    with open_store(tmp_path / "other") as opened:
        yield opened


def test_a_clean_up_is_made_while_an_import_copies(store, other, path, monkeypatch):
    run = store.runs(limit=1)[0]
    here = blobs.put(other.root, bytes(blobs.get(store.root, run.latents)))
    real, outcomes = importing._copy, []

    def copy(*arguments):
        real(*arguments)
        for digest in on_disk(other):  # nothing is spared for being young
            os.utime(blobs.blob_path(other.root, digest), (0, 0))
        for draft in (other.root / "tmp").rglob("*"):
            os.utime(draft, (0, 0))
        try:
            outcomes.append(clean(other.lineage, ALL).freed_bytes)
        except StoreBusy:
            outcomes.append(None)
        other.sweep()

    monkeypatch.setattr(importing, "_copy", copy)
    monkeypatch.setattr("store.upkeep.gc.COLLECTOR_SECONDS", 0.0)
    take(other, path, is_trusted=True)
    # the first took what the import had found here, so that it was copied, now that no clean-up can be
    assert outcomes[0]
    assert outcomes[1:] == [0] * (len(outcomes) - 2) + [None]
    assert here in on_disk(other)
    assert verify(other.lineage).is_sound
    assert list((other.root / "tmp").iterdir()) == []


def test_what_is_here_already_is_young_once_it_is_imported(store, other, path):
    run = store.runs(limit=1)[0]
    here = blobs.blob_path(
        other.root, blobs.put(other.root, bytes(blobs.get(store.root, run.latents)))
    )
    os.utime(here, (0, 0))
    done = take(other, path, is_trusted=True)
    assert done.num_blobs == len(on_disk(other)) - 1
    assert here.stat().st_mtime > 0


def test_a_folder_of_drafts_is_swept_once_nobody_holds_it(store):
    root = store.root
    with files.draft_folder(root) as folder:
        (folder / "draft").write_bytes(b"x")
        for path in (folder / "draft", folder):
            os.utime(path, (0, 0))
        assert files.sweep_drafts(root) == 0
        assert (folder / "draft").exists()
        left = shutil.copytree(folder, root / "tmp" / "999999-left")
        assert files.sweep_drafts(root) == 1
        assert not left.exists()
    assert not folder.exists()
    (root / "tmp" / "link").symlink_to(root / "blobs", target_is_directory=True)
    files.sweep_drafts(root)
    assert (root / "blobs").is_dir()


def test_a_refused_bundle_leaves_no_folder(other, path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(importing.BundleRefused):
        take(other, path)
    assert list((other.root / "tmp").iterdir()) == []
    assert bundles.contents(other)["runs"] == []
