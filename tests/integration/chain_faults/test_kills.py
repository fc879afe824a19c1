"""An engine that is killed at any write loses nothing that is on record."""

from __future__ import annotations

import signal

import pytest

from engine import client
from tests.benchmark.storm import check_store
from tests.integration.chain_runs import (
    NUM_TEXTS,
    STEPS,
    VIDEO,
    assert_same,
    enqueue,
    last_plan,
    spec_of,
    steps,
    warnings,
)

# Blobs in order: the prompts, the steps, the latents, the video; each followed by its row.
KILLS: list[tuple[str, int, str]] = [
    ("store.blobs.blobs:write_durably", 1, "before"),
    ("store.blobs.blobs:put", 1, "after"),
    *(
        (point, NUM_TEXTS + 5, "after")
        for point in ("store.blobs.blobs:put", "store.lineage.links:record")
    ),
    ("store.blobs.files:_write_draft", NUM_TEXTS + 4, "after"),
    ("store.blobs.files:sync_folder", NUM_TEXTS + 6, "before"),
    ("store.blobs.blobs:put", NUM_TEXTS + STEPS + 1, "after"),
    ("store.lineage.queue:set_latents", 1, "after"),
    ("engine.output.media:encode_video", 1, "after"),
    ("store.blobs.blobs:put", NUM_TEXTS + STEPS + 2, "after"),
    ("store.lineage.links:record", NUM_TEXTS + STEPS + 1, "after"),
    ("engine.output.media:write_bytes", 1, "after"),
    ("engine.output.media:write_bytes", 2, "after"),
    ("store.lineage.queue:finish", 1, "before"),
]


@pytest.mark.parametrize(("target", "call", "when"), KILLS)
def test_a_kill_at_any_write_loses_nothing_that_is_on_record(
    store, engines, calm, target, call, when
):
    spec = spec_of(kinds=VIDEO)
    run_id = enqueue(store, spec)
    fault = {"fault": "kill", "target": target, "call": call, "when": when}
    assert engines.serve(store.root, fault) == -signal.SIGKILL
    assert store.recover() == [run_id]
    on_record = steps(store, run_id)
    assert [index for index, _, _ in on_record] == list(range(len(on_record)))
    client.resume(store, run_id)
    assert engines.serve(store.root) == 0
    assert last_plan(store, run_id).reused_steps == len(on_record)
    assert steps(store, run_id)[: len(on_record)] == on_record
    assert_same(store, run_id, calm, spec)
    assert store.run(run_id).output == str(store.root.parent / f"{run_id}.mp4")
    assert warnings(store, run_id) == []
    check_store(store)
