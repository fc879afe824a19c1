"""Clocks that go back, newer stores, two engines at once, and weights that change."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal

from engine import client
from engine.checkpoints.locate import locate
from engine.process.worker import main
from store.database.database import immediate
from store.lineage.events import (
    RunStarted,
    StepFinished,
)
from store.store import open_store
from tests.benchmark.storm import check_store
from tests.integration.chain_runs import (
    STEPS,
    VIDEO,
    Here,
    assert_same,
    computed,
    enqueue,
    spec_of,
    steps,
    told,
)

# Clocks, versions, company


def test_a_clock_that_goes_backwards_changes_no_order(store, engines, calm):
    spec = spec_of(kinds=VIDEO)
    first, second = enqueue(store, spec), enqueue(store, spec_of("seed=1"))
    back = {"fault": "backward_clock", "seconds": 60}
    assert engines.serve(store.root, back) == 0
    assert_same(store, first, calm, spec)
    assert [event.step for event in told(store, second, StepFinished)] == list(range(1, STEPS + 1))
    assert store.run(first).seconds == 0
    third = enqueue(store, spec_of("seed=2"))
    kill = {"fault": "kill", "target": "store.blobs.blobs:put", "call": 4, "when": "before"}
    assert engines.serve(store.root, back, kill) == -signal.SIGKILL
    client.resume(store, *store.recover())
    assert engines.serve(store.root) == 0
    assert_same(store, third, calm, spec_of("seed=2"))
    check_store(store)


def test_a_store_of_a_newer_version_is_left_alone(store, engines, capsys):
    run_id = enqueue(store, spec_of())
    with immediate(store.lineage, durable=True) as connection:
        connection.execute("PRAGMA user_version=99")
    store.lineage.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = (store.root / "lineage.db").read_bytes()
    assert main(["--store", str(store.root), "--idle-seconds", "0"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "schema 99" in error
    assert "upgrade modiff" in error
    assert engines.serve(store.root) == 1
    assert (store.root / "lineage.db").read_bytes() == before
    assert store.run(run_id).status == "queued"


def test_of_two_engines_started_at_once_one_serves(store, engines, calm):
    runs = {enqueue(store, spec_of(f"seed={seed}")): seed for seed in range(3)}
    started = [engines.start(store.root, idle_seconds=0.5) for _ in range(2)]
    assert [engines.wait(engine) for engine in started] == [0, 0]
    owners = {store.run(run_id).engine for run_id in runs}
    assert len(owners) == 1
    for run_id, seed in runs.items():
        assert len(told(store, run_id, RunStarted)) == 1
        assert_same(store, run_id, calm, spec_of(f"seed={seed}"))
    check_store(store)


def test_engines_of_two_stores_do_not_meet(tmp_path, engines, calm):
    spec = spec_of()
    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(open_store(tmp_path / name / "store")) for name in "ab"]
        runs = [enqueue(store, spec) for store in stores]
        started = [engines.start(store.root) for store in stores]
        assert [engines.wait(engine) for engine in started] == [0, 0]
        for store, run_id in zip(stores, runs, strict=True):
            assert_same(store, run_id, calm, spec)
            assert computed(store, run_id) == list(range(1, STEPS + 1))
            check_store(store)


# Weights that change


def test_weights_changed_in_place_are_other_weights(here, tmp_path):
    """Same path, same size, same time of change as far as that can be set: other bytes are another chain."""
    store = here.store
    source = locate("denoiser", "builtin:micro")
    weights = tmp_path / "denoiser.safetensors"
    shutil.copyfile(source, weights)
    shutil.copyfile(source.with_name("config.json"), tmp_path / "config.json")
    original = weights.read_bytes()
    spec = spec_of(f"components.denoiser.checkpoint={weights}")
    first = here.make(spec)
    times = weights.stat()
    changed = bytearray(original)
    for at in range(len(changed) // 2, len(changed), 2048):
        changed[at] ^= 2

    def rewrite(data: bytes) -> None:
        with weights.open("r+b") as file:
            file.write(data)
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))

    rewrite(changed)
    second = here.make(spec)
    assert {key for _, key, _ in steps(store, first)}.isdisjoint(
        key for _, key, _ in steps(store, second)
    )
    assert store.run(second).latents != store.run(first).latents
    with open_store(tmp_path / "other" / "store") as other:  # whose engine has loaded nothing yet
        assert steps(other, Here(other).make(spec)) == steps(store, second)
    rewrite(original)
    third = here.make(spec)
    assert computed(store, third) == []
    assert store.run(third).latents == store.run(first).latents
    check_store(store)
