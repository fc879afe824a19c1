"""A store that an older version left, as it was: all of its results are found but the videos, whose colours it wrote
otherwise; nothing else is computed again."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine import client
from engine.compare.frames import read_frames
from engine.compare.similarity import similarity
from engine.components.memory.residents import Residents
from engine.plan import Plan
from engine.process.version import installed_version
from engine.runner import Runner
from presets.encoding import decode_spec
from store.blobs import blobs
from store.lineage.records import REUSED, RunRecord
from store.store import Store, open_store
from tests.executing import ENGINE, execute, plan_in
from tui.cli.main import main

# made by commit f696604: runs of the built-in micro model, whole, thinned, branched, and one that stops early
ARCHIVE = Path(__file__).parents[3] / "data" / "store_f696604.tar.gz"
NUM_RUNS = 8


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    with open_store(tmp_path / "store") as opened:
        yield opened


def plan_for(store: Store, run: RunRecord) -> Plan:
    return client.plan(
        store, decode_spec(run.spec_json), segments=run.segments, stop_at=run.stop_at
    )


def test_of_every_run_all_but_the_video_is_stored(store: Store) -> None:
    runs = store.runs(limit=50)
    assert len(runs) == NUM_RUNS
    for run in runs:
        plan = plan_for(store, run)
        assert {node.stage.name for node in plan.job()} <= {"video"}, run.id
        assert set(plan.needs) <= {"vae"}
        assert plan.num_stored_steps == len(plan.chain) > 0


def refuse_but_the_vae(use: Callable[..., Any]) -> Callable[..., Any]:
    def used(self: Residents, kind: str, *arguments: Any) -> Any:
        assert kind == "vae", f"a {kind} was loaded"
        return use(self, kind, *arguments)

    return used


def test_what_is_run_again_is_decoded_again_and_no_more(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Residents, "use", refuse_but_the_vae(Residents.use))
    old = old_video(store)
    plan = plan_for(store, old)
    assert not store.find_links([plan.keys[plan.chain[-1]]])  # it is there under its old key alone
    output = tmp_path / "again.mp4"
    run_id = store.enqueue(old.spec_json, preset="", output=str(output), segments=old.segments)
    with store.register_engine(ENGINE, pid=0, version=installed_version()):
        events = execute(Runner(store), run_id)
    told = plan_in(events)
    assert told.reused_steps == told.total_steps
    assert [title for title, state in told.stages.items() if state == "compute"] == ["decode"]
    recorded = store.links_of(run_id)
    assert {link.stage for link in recorded if link.source != REUSED} == {"video"}
    # and from now on under their new keys
    found = store.find_links([plan.keys[node] for node in plan.chain])
    for node in plan.chain:
        same = {"key": "", "created_ns": 0, "used_ns": 0}
        assert replace(found[plan.keys[node]], **same) == replace(plan.links[node], **same)
    # the old video is the old run's still, and of the same pictures
    (before,) = [link.digest for link in store.links_of(old.id) if link.stage == "video"]
    assert output.read_bytes() != blobs.get(store.root, before)
    told_apart = similarity(read_frames(output), read_frames(blobs.blob_path(store.root, before)))
    assert told_apart.psnr_overall > 30


def test_a_replay_decodes_again_and_says_so(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`modiff replay` up to where an engine would take over."""
    monkeypatch.setenv("MODIFF_STORE", str(store.root))
    monkeypatch.setattr(
        "tui.cli.following.follow.follow_queued", lambda invocation, _, queue, manner: queue() and 0
    )
    monkeypatch.setattr("engine.runs.following.ensure_engine", lambda _: None)
    old = old_video(store)
    assert main(["replay", old.id, "--output", str(tmp_path / "again.mp4")]) == 0
    assert (
        "was encoded by an older version of modiff; it is decoded again" in capsys.readouterr().err
    )
    (again,) = store.children(old.id)[-1:]
    assert (again.status, again.output) == ("queued", str(tmp_path / "again.mp4"))
    assert main(["show", old.id, "--json"]) == 0


def old_video(store: Store) -> RunRecord:
    return next(
        run
        for run in store.runs(limit=50)
        if run.stop_at is None and decode_spec(run.spec_json).output.kinds == ("video",)
    )
