"""A store that an older version left, as it was: all of its results are found, and none is computed again."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine import client
from engine.components.residents import Residents
from engine.plan import Plan
from engine.process.version import installed_version
from engine.runner import Runner
from presets.encoding import decode_spec
from store.blobs import blobs
from store.lineage.records import REUSED, RunRecord
from store.store import Store, open_store
from tests.executing import ENGINE, execute, plan_in

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


def test_every_run_is_wholly_stored(store: Store) -> None:
    runs = store.runs(limit=50)
    assert len(runs) == NUM_RUNS
    for run in runs:
        plan = plan_for(store, run)
        assert not plan.job(), run.id
        assert not plan.needs
        assert plan.num_stored_steps == len(plan.chain) > 0


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("a component was loaded")


def test_what_is_run_again_is_not_computed_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Residents, "use", refuse)
    old = next(
        run
        for run in store.runs(limit=50)
        if run.stop_at is None and decode_spec(run.spec_json).output.kinds == ("video",)
    )
    plan = plan_for(store, old)
    (video,) = plan.nodes("decode")
    assert not store.find_links([plan.keys[video]])  # it is there under its old key alone
    output = tmp_path / "again.mp4"
    run_id = store.enqueue(old.spec_json, preset="", output=str(output), segments=old.segments)
    with store.register_engine(ENGINE, pid=0, version=installed_version()):
        events = execute(Runner(store), run_id)
    told = plan_in(events)
    assert told.reused_steps == told.total_steps
    assert "compute" not in told.stages.values()
    digest = plan.links[video].digest
    assert output.read_bytes() == blobs.get(store.root, digest)
    recorded = store.links_of(run_id)
    assert {link.source for link in recorded} == {REUSED}
    # and from now on under their new keys
    reused = [*plan.chain, video]
    found = store.find_links([plan.keys[node] for node in reused])
    for node in reused:
        same = {"key": "", "created_ns": 0, "used_ns": 0}
        assert replace(found[plan.keys[node]], **same) == replace(plan.links[node], **same)
