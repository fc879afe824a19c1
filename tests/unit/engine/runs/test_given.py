"""Runs from a picture or a clip on go on without its file: verified, branched, and in another store."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from engine import client
from engine.components.descriptions import Descriptions
from engine.components.memory.residents import Residents
from engine.output.encoders import encode
from engine.output.reading import comment_of
from engine.process.version import installed_version
from engine.reports import Control
from engine.runner import Runner
from engine.runs.verify import verify
from presets.library.loading import load_preset
from store.bundle.exporting import export_bundle
from store.bundle.importing import import_bundle
from store.index.index import open_index
from store.lineage.events import Event, PlanMade, Verified
from store.store import Store, open_store
from tests.executing import ENGINE, SMALL, execute, plan_in

SETTINGS = ("scheduler.steps=4", "video.strength=0.75", *SMALL)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Runner]:
    with (
        open_store(folder) as store,
        store.register_engine(ENGINE, pid=os.getpid(), version=installed_version()),
    ):
        yield Runner(store)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("private")


@pytest.fixture(scope="module")
def runner(tmp_path_factory) -> Iterator[Runner]:
    with opened(tmp_path_factory.mktemp("store")) as runner:
        yield runner


@pytest.fixture(scope="module")
def first(runner: Runner, folder: Path) -> str:
    """A run on a clip whose file is gone by now."""
    clip = folder / "clip.mp4"
    frames = (memoryview(bytes([40 * number]) * (32 * 32 * 3)) for number in range(5))
    encode(clip, frames, format="h264", size=(32, 32), fps=8, comment="")
    run_id, plan = made(runner, folder, f"video.path={clip}")
    assert (plan.stages["encode"], plan.total_steps) == ("compute", 3)
    clip.unlink()
    return run_id


def from_picture(runner: Runner, folder: Path, *overrides: str) -> tuple[str, PlanMade]:
    """A run on the picture of the folder, whose file is not there afterwards."""
    picture = folder / "red.png"
    Image.new("RGB", (48, 40), "red").save(picture)
    settings = ["scheduler.steps=3", *SMALL, f"image.path={picture}", *overrides]
    spec = load_preset("micro-i2v", settings)
    run_id = client.submit(runner.store, spec, output=str(folder / "{run}.mp4"))
    plan = plan_in(execute(runner, run_id))
    picture.unlink()
    return run_id, plan


def made(runner: Runner, folder: Path, *overrides: str) -> tuple[str, PlanMade]:
    spec = load_preset("micro", [*SETTINGS, *overrides])
    run_id = client.submit(runner.store, spec, output=str(folder / "{run}.mp4"))
    return run_id, plan_in(execute(runner, run_id))


def branched(
    runner: Runner, folder: Path, run_id: str, at: int, overrides: Sequence[str]
) -> PlanMade:
    output = str(folder / "{run}.mp4")
    child = client.branch(runner.store, run_id, at=at, overrides=overrides, output=output)
    return plan_in(execute(runner, child))


def verified(store: Store, run_id: str) -> Verified:
    events: list[Event] = []
    with open_index(store.root) as index:
        control = Control(events.append, lambda: None)
        return verify(store, store.run(run_id), Descriptions(index), Residents, control)


def test_another_prompt_and_another_seed_encode_nothing_again(runner, folder, first):
    plan = branched(runner, folder, first, 0, ["prompt=a small green star"])
    assert (plan.stages["encode"], plan.stages["text_encode"]) == ("stored", "compute")
    links = runner.store.links_of(first)
    clips = {link.digest for link in links if link.stage == "clip"}
    branched(runner, folder, first, 0, ["seed=7"])
    newest = runner.store.runs(limit=1)[0]
    (again,) = [link for link in runner.store.links_of(newest.id) if link.stage == "clip"]
    assert (again.source, {again.digest}) == ("reused", clips)


def test_without_its_file_a_run_is_verified_and_branched(runner, folder, first):
    verdict = verified(runner.store, first)
    assert (verdict.identical, verdict.checked > 3) == (True, True)
    plan = branched(runner, folder, first, 2, ["prompt=a small blue star"])
    assert (plan.reused_steps, plan.total_steps) == (2, 3)


def test_a_bundle_brings_what_was_encoded_and_says_nothing_of_the_folder(
    runner, folder, first, tmp_path
):
    bundle = tmp_path / "runs.modiff"
    export_bundle(runner.store.lineage, [first], bundle)
    with zipfile.ZipFile(bundle) as archive:
        manifest = archive.read("manifest.json").decode()
    assert "clip.mp4" in manifest
    assert folder.name not in manifest
    assert folder.name not in comment_of(folder / f"{first}.mp4")
    with opened(tmp_path / "store") as elsewhere:
        store = elsewhere.store
        import_bundle(
            store.lineage, bundle, check_spec=lambda spec: None, is_trusted=True, max_bytes=1 << 30
        )
        assert verified(store, first).identical
        plan = branched(elsewhere, tmp_path, first, 2, ["prompt=a small blue star"])
        assert (plan.reused_steps, plan.total_steps) == (2, 3)
        plan = branched(elsewhere, tmp_path, first, 0, ["seed=7"])
        assert (plan.reused_steps, plan.total_steps) == (0, 3)


def test_a_picture_is_encoded_once(runner, folder):
    _, plan = from_picture(runner, folder, "seed=1")
    assert (plan.stages["image_encode"], plan.stages["encode"]) == ("compute", "compute")
    _, plan = from_picture(runner, folder, "seed=2", "prompt=a small blue star moves up")
    assert (plan.stages["image_encode"], plan.stages["encode"]) == ("stored", "stored")
    assert plan.stages["text_encode"] == "compute"


def test_a_run_goes_on_without_its_picture(runner, folder, tmp_path):
    run_id, _ = from_picture(runner, folder, "seed=3")
    verdict = verified(runner.store, run_id)
    assert (verdict.identical, verdict.checked > 3) == (True, True)
    plan = branched(runner, folder, run_id, 2, ["prompt=a small green star moves up"])
    assert (plan.reused_steps, plan.stages["image_encode"]) == (2, "stored")
    bundle = tmp_path / "runs.modiff"
    export_bundle(runner.store.lineage, [run_id], bundle)
    assert folder.name.encode() not in bundle.read_bytes()
    with opened(tmp_path / "store") as elsewhere:
        store = elsewhere.store
        import_bundle(store.lineage, bundle, check_spec=lambda spec: None, max_bytes=1 << 30)
        # its pixels need no trust, all else is made of them again
        plan = branched(elsewhere, tmp_path, run_id, 0, ["seed=4"])
        assert (plan.stages["read"], plan.stages["image_encode"]) == ("stored", "compute")
