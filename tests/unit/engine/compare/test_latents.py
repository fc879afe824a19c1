"""Latents rebuilt from a journal against the solver's own, and the distances between them in closed form."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from engine.compare.latents import (
    SAME,
    Distance,
    compare_steps,
    distance,
    distances,
    rebuilt_latents,
)
from engine.errors import EngineError
from presets.encoding import encode_spec
from store.blobs import blobs
from store.blobs.tensors import encode_tensors
from store.database.database import immediate
from store.lineage.records import Segment
from store.store import Store, open_store
from tests.stores.recorded_runs import Recorded, micro, record_run, velocity


@pytest.fixture
def store(tmp_path: Path):
    with open_store(tmp_path / "store") as opened:
        yield opened


def steps_of(store: Store, run: Recorded):
    return [link for link in store.links_of(run.id) if link.stage == "step"]


def compared(store: Store, a: Recorded, b: Recorded):
    return compare_steps(
        store, store.run(a.id), store.run(b.id), steps_of(store, a), steps_of(store, b)
    )


def rebuilt(store: Store, run: Recorded) -> dict[int, torch.Tensor]:
    return dict(rebuilt_latents(store, store.run(run.id), steps_of(store, run)))


def lose(store: Store, digest: str) -> None:
    blobs.blob_path(store.root, digest).unlink()


# Distances


def test_distances_in_closed_form():
    a = torch.tensor([[3.0, 4.0]])
    assert distance(a, a.clone()) == SAME
    assert distance(a, 2 * a) == Distance(1.0, 1.0)
    turned = distance(a, torch.tensor([[-4.0, 3.0]]))
    assert (turned.relative_l2, turned.cosine) == (pytest.approx(math.sqrt(2)), 0.0)
    assert distance(a, -a) == Distance(2.0, -1.0)
    assert distance(2 * a, a).relative_l2 == 0.5  # relative to A
    assert distance(0 * a, a).relative_l2 == math.inf
    with pytest.raises(EngineError, match="latents of 1x2 and of 2x1 cannot be compared"):
        distance(a, a.T)


def test_a_small_difference_of_large_tensors_is_not_lost_to_rounding():
    a = torch.full((1000, 1000), 1000.0)
    b = a.clone()
    b[0, 0] += 0.125
    assert distance(a, b).relative_l2 == pytest.approx(0.125 / 1e6, rel=1e-9)


def test_only_steps_that_are_in_both():
    def tensors(*indices: int):
        return ((i, torch.tensor([float(i + 1)])) for i in indices)

    found = [index for index, _ in distances(tensors(0, 1, 3, 6), tensors(1, 2, 3, 4, 5, 6, 7))]
    assert found == [1, 3, 6]
    assert list(distances(tensors(), tensors(1))) == []


# Rebuilding


@pytest.mark.parametrize("solver", ["unipc", "dpm++", "euler"])
def test_the_journal_leads_to_the_solvers_own_latents(store, solver):
    made = record_run(store, micro(f"scheduler.name={solver}", "seed=3"))
    found = rebuilt(store, made)
    assert sorted(found) == [0, 1, 2, 3, 4]
    for index, latents in found.items():
        assert torch.equal(latents, made.states[index + 1].latents)


def test_a_thinned_run_has_what_its_keyframes_lead_to(store):
    kinds = ["velocity", "", "keyframe", "velocity", ""]
    made = record_run(store, micro(), keep=kinds.__getitem__)
    found = rebuilt(store, made)
    assert sorted(found) == [0, 2, 3, 4]  # the last from the final latents, which are always kept
    for index, latents in found.items():
        assert torch.equal(latents, made.states[index + 1].latents)


def test_lost_and_damaged_entries_are_holes(store):
    made = record_run(store, micro())
    steps = steps_of(store, made)
    lose(store, steps[1].digest)
    assert sorted(rebuilt(store, made)) == [0, 4]
    path = blobs.blob_path(store.root, steps[0].digest)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert sorted(rebuilt(store, made)) == [4]


def test_another_runs_keyframe_is_not_its_own(store):
    """One key, two results, as of two machines: the link has the keyframe of the first."""
    first = record_run(store, micro(), keep=lambda index: "keyframe" if index == 1 else "")
    second = record_run(store, micro(), seed=1, keep=lambda index: "")
    assert sorted(rebuilt(store, first)) == [1, 4]
    with immediate(store.lineage) as connection:
        connection.execute(
            "UPDATE run_links SET key=? WHERE run_id=? AND stage='step' AND idx=1",
            (steps_of(store, first)[1].key, second.id),
        )
    assert sorted(rebuilt(store, second)) == [4]


def test_a_branch_follows_each_of_its_specs(store):
    parent = record_run(store, micro())
    child = record_run(
        store,
        micro("guidance.scale=7"),
        seed=1,
        shared=parent,
        stop=3,
        segments=[Segment(3, encode_spec(micro()))],
    )
    found = rebuilt(store, child)
    assert torch.equal(found[4], child.states[5].latents)
    assert not torch.equal(found[4], parent.states[5].latents)


# Comparing


def test_steps_of_two_runs(store):
    a, b = record_run(store, micro()), record_run(store, micro(), seed=1)
    told = compared(store, a, b)
    assert (told.of, told.absent) == ("latents", ())
    for index, found in told.distances:
        old, new = (run.states[index + 1].latents.double() for run in (a, b))
        assert found.relative_l2 == pytest.approx(float((new - old).norm() / old.norm()))
        cosine = torch.nn.functional.cosine_similarity(old.flatten(), new.flatten(), dim=0)
        assert found.cosine == pytest.approx(float(cosine))


def test_equal_steps_are_not_read(store):
    a = record_run(store, micro())
    b = record_run(store, micro())
    for step in steps_of(store, a):
        lose(store, step.digest)
    told = compared(store, a, b)
    assert told.distances == tuple((index, SAME) for index in range(5))


def test_thinned_steps_are_named(store):
    a = record_run(store, micro())
    b = record_run(store, micro(), seed=1, keep=lambda index: "keyframe" if index == 2 else "")
    told = compared(store, a, b)
    assert [index for index, _ in told.distances] == [2, 4]
    assert told.absent == (0, 1, 3)


def test_a_run_that_stopped_earlier(store):
    a, b = record_run(store, micro()), record_run(store, micro(), seed=1)
    told = compare_steps(
        store, store.run(a.id), store.run(b.id), steps_of(store, a), steps_of(store, b)[:2]
    )
    assert [index for index, _ in told.distances] == [0, 1]
    assert told.absent == ()


def test_velocities_where_a_journal_does_not_replay(store):
    """As that of a run whose noise another device has drawn: its seed alone does not give it here."""
    a = record_run(store, micro())
    b = record_run(store, micro(), seed=1)
    with immediate(store.lineage) as connection:
        connection.execute(
            "UPDATE runs SET spec=? WHERE id=?", (encode_spec(micro("seed=77")).decode(), b.id)
        )
    told = compared(store, a, b)
    assert (told.of, told.absent) == ("velocity", ())
    for index, found in told.distances:
        assert found == distance(velocity(index), velocity(index, 1))


def test_latents_of_other_shapes(store):
    a = record_run(store, micro())
    b = record_run(store, micro(), seed=1)
    foreign = blobs.put(store.root, encode_tensors({"velocity": torch.zeros(0, 10**9, 5, 8, 8)}))
    with immediate(store.lineage) as connection:
        connection.execute(
            "UPDATE run_links SET digest=? WHERE run_id=? AND stage='step'", (foreign, b.id)
        )
    with pytest.raises(EngineError, match="1x4x5x8x8 and of 0x1000000000x5x8x8"):
        compared(store, a, b)
