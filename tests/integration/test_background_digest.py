"""The real engine process: after a run it reads in full, while it is idle, what the run used."""

from __future__ import annotations

import hashlib
import os
import time

import msgspec
import pytest

from engine.checkpoints.digests import remembered
from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.process.launch import ensure_engine, stop_engine
from engine.process.logs import log_path
from engine.runs.following import follow
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.index.index import open_index
from store.lineage.events import RunFinished
from store.store import open_store
from tests.deadline import deadline

TEST_SECONDS = 180
WEIGHTS = [locate(kind, BUILTIN_MICRO) for kind in ("text_encoder", "denoiser", "vae")]


@pytest.fixture(autouse=True)
def _deadline():
    with deadline(TEST_SECONDS):
        yield


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with open_store(tmp_path / "store") as opened:
        yield opened
        stop_engine(opened)


def run(store, tmp_path):
    """The engine that executed a short run of the micro model."""
    spec = msgspec.structs.replace(load_preset("micro", ["scheduler.steps=1", "frames=1"]), seed=1)
    output = str(tmp_path / "{run}.mp4")
    run_id = store.enqueue(encode_spec(spec), preset="micro", output=output)
    engine = ensure_engine(store)
    *_, last = follow(store, run_id, poll_seconds=0.01)
    assert last == RunFinished("done")
    return engine


def test_what_a_run_used_is_digested_once_the_engine_is_idle(store, tmp_path):
    expected = [hashlib.sha256(path.read_bytes()).hexdigest() for path in WEIGHTS]
    engine = run(store, tmp_path)
    with open_index(store.root) as index:
        known = [None]
        while None in known or None in [each.sha256 for each in known]:
            time.sleep(0.05)
            known = [remembered(index, path) for path in WEIGHTS]
    assert [each.sha256 for each in known] == expected
    # a second run of the same engine gives it nothing more to read
    assert run(store, tmp_path).id == engine.id
    time.sleep(2.5)
    log = log_path(store.root, engine.pid).read_text()
    assert [log.count(digest) for digest in expected] == [1] * len(expected)
    assert "no digest" not in log
    os.kill(engine.pid, 0)
