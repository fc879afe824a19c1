"""Which settings of two runs differ, and for which steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.compare.settings import (
    Difference,
    environment_differences,
    flatten,
    spec_differences,
)
from presets.encoding import encode_spec
from store.lineage.records import RunRecord, Segment
from store.store import Store, open_store
from tests.stores.recorded_runs import micro


@pytest.fixture
def store(tmp_path: Path):
    with open_store(tmp_path / "store") as opened:
        yield opened


def run(
    store: Store, *overrides: str, after: dict[int, tuple[str, ...]] | None = None, **facts: object
) -> RunRecord:
    """after: the overrides that hold before a step, by that step."""
    segments = [
        Segment(stop, encode_spec(micro(*before))) for stop, before in (after or {}).items()
    ]
    spec = encode_spec(micro(*overrides))
    return store.run(store.enqueue(spec, preset="micro", output="", segments=segments, **facts))


def test_equal_settings(store):
    assert spec_differences(run(store), run(store)) == []


def test_every_key_that_differs_in_the_order_of_the_spec(store):
    found = spec_differences(
        run(store, "seed=1", "guidance.scale=3", "prompt=a star"),
        run(store, "seed=2", "guidance.scale=4", "prompt=a disc", "components.vae.tile_size=128"),
    )
    vae = [each for each in found if each.key.startswith("components.vae.")]
    assert vae == [Difference("components.vae.tile_size", 0, 128)]
    assert [each for each in found if each not in vae] == [
        Difference("prompt", "a star", "a disc"),
        Difference("seed", 1, 2),
        Difference("guidance.scale", 3.0, 4.0),
    ]


def test_lists_of_tables_by_position_and_other_lists_as_values():
    assert flatten({"a": [{"n": 1}, {"n": 2, "o": {"p": 3}}], "s": [0.9, 0.5], "e": []}) == {
        "a[0].n": 1,
        "a[1].n": 2,
        "a[1].o.p": 3,
        "s": [0.9, 0.5],
        "e": [],
    }


def test_true_is_not_one(store):
    a, b = run(store), run(store)
    spec = json.loads(a.spec_json)
    old, new = ({**spec, "format": 99, "later": value} for value in (True, 1))
    a, b = (_with_spec(run, data) for run, data in ((a, old), (b, new)))
    assert spec_differences(a, b) == [Difference("later", True, 1)]


def test_a_key_of_one_run_alone(store):
    a, b = run(store), run(store)
    newer = {**json.loads(b.spec_json), "format": 99, "later": "x"}
    found = spec_differences(a, _with_spec(b, newer))
    assert Difference("later", None, "x") in found
    assert Difference("format", 1, 99) in found


def test_a_branch_differs_from_where_it_left(store):
    parent = run(store, "guidance.scale=3")
    child = run(store, "guidance.scale=6", after={2: ("guidance.scale=3",)})
    assert spec_differences(parent, child) == [Difference("guidance.scale", 3.0, 6.0, start=2)]


def test_two_branches_step_by_step(store):
    a = run(store, "guidance.scale=6", after={1: ("guidance.scale=3",), 4: ("guidance.scale=5",)})
    b = run(store, "guidance.scale=6", "seed=9", after={2: ("guidance.scale=3", "seed=9")})
    a_seed = json.loads(a.spec_json)["seed"]
    assert spec_differences(a, b) == [
        Difference("seed", a_seed, 9),
        Difference("guidance.scale", 5.0, 3.0, start=1, stop=2),
        Difference("guidance.scale", 5.0, 6.0, start=2, stop=4),
    ]


def test_what_only_the_end_reads_is_taken_from_the_end(store):
    before = ("fps=30", "keep.every=7", "components.vae.tile_size=128", "output.path=/v/a.mp4")
    assert spec_differences(run(store), run(store, after={2: before})) == []
    found = spec_differences(run(store), run(store, "fps=24", after={2: ()}))
    assert found == [Difference("fps", 8, 24)]


def test_where_a_run_was_to_stop(store):
    assert spec_differences(run(store), run(store, stop_at=3)) == [Difference("stop_at", None, 3)]


def test_environments(store):
    a, b, none = run(store), run(store), run(store)
    store.set_environment(a.id, '{"device":"cpu","torch":"2.6"}')
    store.set_environment(b.id, '{"device":"cpu","torch":"2.7"}')
    a, b = store.run(a.id), store.run(b.id)
    assert environment_differences(a, b) == [Difference("torch", "2.6", "2.7")]
    assert environment_differences(a, a) == environment_differences(a, none) == []


def _with_spec(run: RunRecord, data: dict) -> RunRecord:
    from dataclasses import replace

    return replace(run, spec_json=json.dumps(data).encode())
