"""What is damaged in a store is noticed, set aside and computed again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.models.text_encoders.t5 import UMT5
from presets.encoding import encode_spec
from store.blobs.blobs import blob_path
from store.lineage.records import Segment
from store.store import Store
from tests.benchmark.storm import check_store
from tests.integration.chain_runs import (
    STEPS,
    VIDEO,
    assert_same,
    computed,
    last_plan,
    of_stage,
    spec_of,
    steps,
    warnings,
)

# of each kind that a read tells apart one: tests/unit/store/blobs/test_blobs.py has them all
DAMAGES = {
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a bit in the middle": lambda path: flip(path, path.stat().st_size // 2),
    "deleted": lambda path: path.unlink(),
    "its folder deleted": lambda path: shutil.rmtree(path.parent.parent),
    "a link": lambda path: replace(path, lambda: path.symlink_to(move(path))),
    "a pipe": lambda path: replace(path, lambda: os.mkfifo(path)),
    "a folder": lambda path: replace(path, lambda: (path.mkdir(), (path / "file").write_text("x"))),
}
# What is not a file is no blob to a plan either; what is one turns out to be damaged when it is read.
UNSEEN = ("deleted", "its folder deleted", "a pipe", "a folder")


def write(path: Path, data: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(data)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    write(path, data)


def replace(path: Path, put: Callable[[], object]) -> None:
    kept = path.read_bytes()
    path.unlink()
    (path.parents[3] / "kept").write_bytes(kept)
    put()


def move(path: Path) -> Path:
    return path.parents[3] / "kept"


def check_repaired(store: Store, run_id: str, digest: str, damage: str) -> None:
    """The damage was told, set aside and mended."""
    told = [text for text in warnings(store, run_id) if digest in text]
    assert len(told) == (0 if damage in UNSEEN else 1), told
    if told:
        assert "was damaged" in told[0]
    if "deleted" not in damage:
        [aside] = (store.root / "quarantine").glob(f"{digest.removeprefix('sha256:')}.*")
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink()
    assert blob_path(store.root, digest).is_file()
    check_store(store)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_step_is_computed_again(here, calm, damage):
    """Read by a branch behind it, which then finds it whole."""
    store, spec = here.store, spec_of("scheduler.steps=4")
    parent = here.make(spec)
    digest = of_stage(store, parent, "step", 1).digest
    DAMAGES[damage](blob_path(store.root, digest))
    segments = [Segment(3, encode_spec(spec))]
    branched = spec_of("scheduler.steps=4", "guidance.scale=6")
    branch = here.make(branched, segments)
    assert_same(store, branch, calm, branched, segments)
    assert computed(store, branch) == [2, 3, 4]
    check_repaired(store, branch, digest, damage)
    again = here.make(branched, segments)
    assert computed(store, again) == []
    assert warnings(store, again) == []


# A blob is read in one way, whatever it holds; above every damage of it was tried.
SOME = ("a bit in the middle", "deleted", "a folder")


@pytest.mark.parametrize("damage", SOME)
def test_a_damaged_prompt_is_encoded_again(here, calm, damage):
    store = here.store
    digest = of_stage(store, here.make(spec_of("scheduler.steps=2")), "text").digest
    DAMAGES[damage](blob_path(store.root, digest))
    other = spec_of("scheduler.steps=2", "seed=7")
    run_id = here.make(other)
    assert_same(store, run_id, calm, other)
    check_repaired(store, run_id, digest, damage)
    again = here.make(spec_of("scheduler.steps=2", "seed=8"))
    assert of_stage(store, again, "text").source == "reused"
    assert warnings(store, again) == []


@pytest.mark.parametrize("damage", SOME)
def test_damaged_latents_are_made_of_the_steps_again(here, calm, damage):
    store, spec = here.store, spec_of("scheduler.steps=4")
    digest = store.run(here.make(spec)).latents
    DAMAGES[damage](blob_path(store.root, digest))
    run_id = here.make(spec)
    assert computed(store, run_id) == []
    assert_same(store, run_id, calm, spec)
    check_repaired(store, run_id, digest, damage)
    again = here.make(spec)
    assert last_plan(store, again).stages["denoise"] == "stored"
    assert warnings(store, again) == []


@pytest.mark.parametrize("damage", ["a bit in the middle", "deleted", "a pipe"])
def test_a_damaged_video_is_decoded_again(here, calm, damage):
    store, spec = here.store, spec_of(kinds=VIDEO)
    digest = of_stage(store, here.make(spec), "video").digest
    DAMAGES[damage](blob_path(store.root, digest))
    run_id = here.make(spec)
    assert computed(store, run_id) == []
    assert_same(store, run_id, calm, spec)
    assert len(warnings(store, run_id)) == (damage not in UNSEEN)
    check_store(store)
    again = here.make(spec)
    assert last_plan(store, again).stages["decode"] == "stored"
    assert warnings(store, again) == []


@pytest.mark.parametrize("damage", SOME)
def test_behind_a_damaged_keyframe_there_is_an_earlier_one(here, calm, damage):
    store, spec = here.store, spec_of("keep.every=3")
    parent = here.make(spec)
    key = of_stage(store, parent, "step", 5).key
    digest = store.find_links([key])[key].state
    DAMAGES[damage](blob_path(store.root, digest))
    segments = [Segment(7, encode_spec(spec))]
    branched = spec_of("keep.every=3", "guidance.scale=6")
    run_id = here.make(branched, segments)
    assert computed(store, run_id) == [4, 5, 6, 7, 8]
    assert_same(store, run_id, calm, branched, segments)
    check_repaired(store, run_id, digest, damage)
    again = here.make(branched, segments)
    assert warnings(store, again) == []


def test_everything_damaged_at_once_is_everything_made_again(here, calm):
    """The latents as they are needed, then the steps under them, then the prompts of those."""
    store, spec = here.store, spec_of(kinds=VIDEO)
    here.make(spec)
    for path in (store.root / "blobs").rglob("*"):
        if path.is_file():
            flip(path, -1)
    run_id = here.make(spec)
    assert computed(store, run_id) == list(range(1, STEPS + 1))
    assert_same(store, run_id, calm, spec)
    assert all("\n" not in text for text in warnings(store, run_id))
    check_store(store)
    again = here.make(spec)
    assert computed(store, again) == []
    assert warnings(store, again) == []


@pytest.mark.parametrize("damage", ["a bit in the middle", "deleted"])
def test_a_prompt_that_is_encoded_otherwise_now_is_another_chain(here, calm, damage, monkeypatch):
    """A machine or a library that rounds otherwise: what was made from the first bytes is not what comes of these."""
    store, spec = here.store, spec_of()
    parent = here.make(spec)
    DAMAGES[damage](blob_path(store.root, of_stage(store, parent, "text").digest))
    encode = UMT5.encode
    monkeypatch.setattr(UMT5, "encode", lambda *given: encode(*given) * 1.01)
    run_id = here.make(spec_of("seed=9"))
    text = of_stage(store, run_id, "text")
    for step in steps(store, run_id):
        facts = json.loads(store.find_links([step[1]])[step[1]].facts)
        assert facts["inputs"]["positive.text"] == text.digest
    again = here.make(spec_of("seed=9"))
    assert store.run(again).latents == store.run(run_id).latents
