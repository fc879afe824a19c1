"""What a viewer may ask of a run that is there: branch, resume, finish, follow; and that all of it ends in the bits of
a run that was never interrupted or branched."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from engine import client
from engine.checkpoints import opened as opened_files
from engine.checkpoints.formats import weight_file
from engine.process.version import installed_version
from engine.runner import Runner
from engine.runs.following import follow
from presets.encoding import decode_spec, encode_spec
from presets.errors import PresetError
from presets.library.loading import load_preset, override
from presets.spec.run import RunSpec
from store.blobs import blobs
from store.errors import StoreError, UnknownRun
from store.lineage.events import (
    RunFinished,
    RunQueued,
    RunResumed,
    RunStarted,
    StageStarted,
    StepFinished,
)
from store.lineage.records import RunRecord, Segment
from store.store import Store, open_store
from tests.delivered import streams
from tests.executing import ENGINE, SMALL, execute, plan_in

SEEDS = itertools.count(5000)
STEPS = 4


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Store]:
    with (
        open_store(tmp_path_factory.mktemp("store")) as opened,
        opened.register_engine(ENGINE, pid=os.getpid(), version=installed_version()),
    ):
        yield opened


@pytest.fixture(scope="module")
def runner(store: Store) -> Runner:
    return Runner(store)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Iterator[Runner]:
    """Of a store that knows nothing of the first."""
    with (
        open_store(tmp_path_factory.mktemp("other")) as opened,
        opened.register_engine(ENGINE, pid=os.getpid(), version=installed_version()),
    ):
        yield Runner(opened)


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store) -> Iterator[None]:
    """Outputs without a path go to the current folder; the queue is empty before and after each test."""
    monkeypatch.chdir(tmp_path)
    yield
    for run in store.queued():
        store.request_cancel(run.id)


def micro(*overrides: str) -> RunSpec:
    """A run of four steps that no other test has made."""
    own = [f"scheduler.steps={STEPS}", f"seed={next(SEEDS)}", *SMALL]
    return load_preset("micro", [*own, *overrides])


def submitted(store: Store, *overrides: str, stop_at: int | None = None) -> str:
    return client.submit(store, micro(*overrides), preset="micro", stop_at=stop_at)


def latents_of(store: Store, run_id: str) -> str:
    digest = store.run(run_id).latents
    assert digest
    return digest


def undisturbed(other: Runner, run: RunRecord) -> str:
    """The digest of the latents of the same run, computed in another store from nothing and in one go."""
    spec = decode_spec(run.spec_json)
    run_id = client.submit(other.store, spec, output="{run}.safetensors", segments=run.segments)
    assert plan_in(execute(other, run_id)).reused_steps == 0
    return latents_of(other.store, run_id)


# Branches: what is asked for


@pytest.mark.parametrize(
    ("at", "changes", "is_unchanged"),
    [
        (0, (), True),
        (2, (), True),
        ("decode", (), True),
        (2, ("guidance.scale=4",), True),  # which it has already from there on
        (1, (), False),  # its second step was made with another scale
        (2, ("guidance.scale=5",), False),
        ("decode", ("fps=4",), False),
        ("decode", ("output.path=other.mp4",), False),
        (2, ("keep.every=2",), False),
    ],
)
def test_a_branch_that_would_be_its_run_again_is_told_apart(
    store: Store, at: int | Literal["decode"], changes: tuple[str, ...], is_unchanged: bool
) -> None:
    root = submitted(store, "guidance.scale=3")
    parent = client.branch(store, root, at=2, overrides=["guidance.scale=4"]) if at else root
    wanted = client.branched(store, parent, at=at, overrides=changes)
    assert client.is_unchanged(store.run(parent), wanted) is is_unchanged


def test_a_run_that_was_to_stop_early_goes_on_in_a_branch(store: Store) -> None:
    parent = submitted(store, stop_at=2)
    run = store.run(parent)
    assert not client.is_unchanged(run, client.branched(store, parent, at=2))
    assert client.is_unchanged(run, client.branched(store, parent, at="decode"))


def test_a_branch_has_its_parents_settings_up_to_its_step(store: Store) -> None:
    parent = submitted(store)
    before = decode_spec(store.run(parent).spec_json)
    child = client.branch(store, parent, at=3, overrides=["prompt=a blue star", "guidance.scale=4"])
    run = store.run(child)
    assert (run.parent, run.parent_step, run.preset, run.stop_at) == (parent, 3, "micro", None)
    assert run.segments == (Segment(3, encode_spec(before)),)
    spec = decode_spec(run.spec_json)
    assert spec == override(before, ["prompt=a blue star", "guidance.scale=4"])
    assert run.status == "queued"


def test_a_branch_at_the_first_step_shares_nothing_and_may_change_anything(store: Store) -> None:
    parent = submitted(store)
    child = store.run(
        client.branch(store, parent, at=0, overrides=["seed=1", "width=80", "frames=9"])
    )
    assert (child.segments, child.parent_step) == ((), 0)
    assert decode_spec(child.spec_json).width == 80


def test_a_branch_of_a_branch_needs_neither(store: Store) -> None:
    first = submitted(store)
    second = client.branch(store, first, at=2, overrides=["guidance.scale=3"])
    third = store.run(client.branch(store, second, at=3, overrides=["guidance.scale=4"]))
    assert [segment.stop for segment in third.segments] == [2, 3]
    scales = [decode_spec(segment.spec_json).guidance.scale for segment in third.segments]
    assert scales == [2.5, 3]
    # before the second part began there is but the first
    fourth = store.run(client.branch(store, second, at=1, overrides=["guidance.scale=5"]))
    assert [segment.stop for segment in fourth.segments] == [1]
    fifth = store.run(client.branch(store, second, at=2, overrides=["guidance.scale=6"]))
    assert [segment.stop for segment in fifth.segments] == [2]


@pytest.mark.parametrize(
    "change", ["seed=1", "noise=wan", "width=80", "height=80", "frames=9", "seed=1 "]
)
def test_what_the_shared_steps_were_made_with_cannot_change(store: Store, change: str) -> None:
    parent = submitted(store)
    with pytest.raises(PresetError, match="branch at step 0 to change it") as refused:
        client.branch(store, parent, at=1, overrides=[change])
    assert refused.value.key == change.partition("=")[0]


@pytest.mark.parametrize("at", [-1, STEPS, 100])
def test_a_branch_at_a_step_that_is_not_there(store: Store, at: int) -> None:
    parent = submitted(store)
    with pytest.raises(PresetError, match=rf"no step {at} to branch at; expected 0 to 3"):
        client.branch(store, parent, at=at)


@pytest.mark.parametrize(
    "change",
    [
        "prompt=x",
        "seed=1",
        "guidance.scale=3",
        "scheduler.steps=5",
        "components.denoiser.dtype=bf16",
    ],
)
def test_at_decode_only_the_decoding_may_change(store: Store, change: str) -> None:
    parent = submitted(store)
    with pytest.raises(PresetError, match="at decode only"):
        client.branch(store, parent, at="decode", overrides=[change])


def test_a_refused_branch_queues_nothing(store: Store) -> None:
    parent = submitted(store)
    queued = len(store.queued())
    for at, change in ((1, "seed=3"), (2, "nonsense=1"), (2, "guidance.scale=much"), (99, "fps=1")):
        with pytest.raises(PresetError):
            client.branch(store, parent, at=at, overrides=[change])
    with pytest.raises(UnknownRun):
        client.branch(store, "nosuchrun", at=1)
    assert len(store.queued()) == queued


def test_a_branch_does_not_write_over_its_parents_output(store: Store, tmp_path: Path) -> None:
    parent = submitted(store, f"output.path={tmp_path / 'own.mp4'}")
    assert store.run(parent).output == str(tmp_path / "own.mp4")
    child = client.branch(store, parent, at=1)
    assert store.run(child).output == str(tmp_path / f"modiff-{child}.mp4")
    chosen = client.branch(store, parent, at=1, overrides=[f"output.path={tmp_path / 'new.mp4'}"])
    assert store.run(chosen).output == str(tmp_path / "new.mp4")
    named = client.branch(store, parent, at=1, output=str(tmp_path / "named.mp4"))
    assert store.run(named).output == str(tmp_path / "named.mp4")


def test_a_branch_has_the_format_of_its_parent_unless_another_is_named(
    store: Store, tmp_path: Path
) -> None:
    parent = submitted(store, f"output.path={tmp_path / 'own.gif'}")
    child = store.run(client.branch(store, parent, at=1))
    assert child.output == str(tmp_path / f"modiff-{child.id}.gif")
    assert decode_spec(child.spec_json).output.format == "gif"
    other = store.run(client.branch(store, child.id, at=1, output=str(tmp_path / "other.mkv")))
    assert decode_spec(other.spec_json).output.format == "auto"
    with pytest.raises(PresetError, match=r"^output.format: webp needs a name that ends in \.webp"):
        client.branch(store, parent, at=1, overrides=["output.format=webp"], output="other.mkv")


def test_a_run_that_stops_early_is_decoded_where_it_stopped(store: Store) -> None:
    parent = submitted(store, stop_at=2)
    other = store.run(client.branch(store, parent, at="decode", overrides=["fps=4"]))
    assert (other.stop_at, other.parent_step) == (2, 2)
    # while a branch at a step goes to its end
    assert store.run(client.branch(store, parent, at=1)).stop_at is None


@pytest.mark.parametrize("stop_at", [0, STEPS + 1])
def test_a_run_cannot_stop_where_it_has_no_step(store: Store, stop_at: int) -> None:
    with pytest.raises(PresetError, match=rf"cannot stop at step {stop_at}: expected 1 to 4"):
        submitted(store, stop_at=stop_at)


def test_a_plan_writes_nothing(store: Store) -> None:
    runs = len(store.runs(limit=1000))
    plan = client.plan(store, micro(), stop_at=2)
    assert (len(plan.chain), plan.num_stored_steps) == (2, 0)
    assert len(store.runs(limit=1000)) == runs
    with pytest.raises(PresetError, match="cannot branch there: step 9 of 4"):
        client.plan(store, micro(), segments=[Segment(9, encode_spec(micro()))])


# Branches: what becomes of them

CHANGES = {
    "guidance": "guidance.scale=4",
    "prompt": "prompt=a small yellow star moves up over a black background",
    "solver": "scheduler.name=euler",
    "levels": "scheduler.shift=6",
    "more steps": "scheduler.steps=6",
    "dtype": "components.denoiser.dtype=bf16",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_branch_computes_only_what_is_new_and_ends_as_if_it_had_computed_all(
    store: Store, runner: Runner, other: Runner, change: str
) -> None:
    parent = submitted(store, "output.kinds=['latents']")
    execute(runner, parent)
    child = client.branch(store, parent, at=2, overrides=[CHANGES[change]])
    events = execute(runner, child)
    assert plan_in(events).reused_steps == 2
    sources = [event.source for event in events if isinstance(event, StepFinished)]
    assert sources[:2] == ["reused"] * 2
    assert set(sources[2:]) == {"computed"}
    run = store.run(child)
    assert run.latents == undisturbed(other, run)
    assert run.latents != latents_of(store, parent)


def test_at_decode_nothing_is_denoised(store: Store, runner: Runner) -> None:
    parent = submitted(store)
    execute(runner, parent)
    child = client.branch(
        store, parent, at="decode", overrides=["components.vae.dtype=bf16", "fps=4"]
    )
    events = execute(runner, child)
    assert plan_in(events).stages == {
        "text_encode": "skip",
        "denoise": "stored",
        "decode": "compute",
    }
    assert latents_of(store, child) == latents_of(store, parent)
    videos = [Path(store.run(run_id).output).read_bytes() for run_id in (parent, child)]
    assert videos[0] != videos[1]


def video_of(store: Store, run_id: str) -> str:
    """The digest of a run's video as it is stored."""
    (video,) = [link for link in store.links_of(run_id) if link.stage == "video"]
    return video.digest


def test_a_branch_that_changes_nothing_is_a_copy(store: Store, runner: Runner) -> None:
    parent = submitted(store)
    execute(runner, parent)
    child = client.branch(store, parent, at=3)
    assert plan_in(execute(runner, child)).reused_steps == STEPS
    assert latents_of(store, child) == latents_of(store, parent)
    first, second = (Path(store.run(run_id).output) for run_id in (parent, child))
    assert streams(first) == streams(second)
    assert video_of(store, child) == video_of(store, parent)


# Resume and finish


@pytest.mark.parametrize("name", ["unipc", "dpm++", "euler"])
@pytest.mark.parametrize("done", [1, 3])
def test_a_paused_run_goes_on_to_the_same_bits(
    store: Store, runner: Runner, other: Runner, name: str, done: int
) -> None:
    run_id = submitted(store, f"scheduler.name={name}", "output.kinds=['latents']")
    execute(runner, run_id, pause_after=done)
    assert store.run(run_id).status == "paused"
    client.resume(store, run_id)
    assert plan_in(execute(runner, run_id)).reused_steps == done
    run = store.run(run_id)
    assert run.status == "done"
    assert run.latents == undisturbed(other, run)


def test_a_damaged_step_costs_what_follows_it_and_no_more(
    store: Store, runner: Runner, other: Runner
) -> None:
    run_id = submitted(store, "output.kinds=['latents']")
    execute(runner, run_id, pause_after=3)
    links = [link for link in store.links_of(run_id) if link.stage == "step"]
    path = blobs.blob_path(store.root, links[1].digest)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-4] + b"rot.")
    client.resume(store, run_id)
    events = execute(runner, run_id)
    sources = [event.source for event in events if isinstance(event, StepFinished)]
    assert sources == ["reused", "computed", "computed", "computed"]
    run = store.run(run_id)
    assert run.latents == undisturbed(other, run)
    assert store.find_links([links[1].key])[links[1].key].digest == links[1].digest


def test_what_is_done_or_waits_cannot_be_resumed(store: Store, runner: Runner) -> None:
    run_id = submitted(store, "output.kinds=['latents']")
    with pytest.raises(StoreError, match="is queued; there is nothing to take up yet"):
        client.resume(store, run_id)
    execute(runner, run_id)
    with pytest.raises(StoreError, match="is done; `modiff replay"):
        client.resume(store, run_id)
    with pytest.raises(StoreError, match="was not to stop early"):
        client.finish(store, run_id)


@pytest.mark.parametrize("keep", ["keep.every=1", "keep.every=0", "keep.every=2"])
@pytest.mark.parametrize("stop_at", [1, 2])
def test_finishing_goes_on_from_where_it_stopped_whatever_is_kept(
    store: Store, runner: Runner, other: Runner, keep: str, stop_at: int
) -> None:
    run_id = submitted(
        store, keep, "scheduler.name=euler", "output.kinds=['latents']", stop_at=stop_at
    )
    execute(runner, run_id)
    early = latents_of(store, run_id)
    assert client.finish(store, run_id) == run_id
    assert store.run(run_id).stop_at is None
    assert plan_in(execute(runner, run_id)).reused_steps == stop_at
    run = store.run(run_id)
    assert run.latents == undisturbed(other, run)
    assert run.latents != early


@pytest.mark.parametrize("keep", ["keep.every=1", "keep.every=0"])
def test_a_run_that_stops_early_shows_what_its_last_velocity_points_to(
    store: Store, runner: Runner, keep: str
) -> None:
    """Decoded again from what is stored it is the same picture, and not that of the noisy latents."""
    run_id = submitted(store, keep, "scheduler.name=euler", stop_at=3)
    execute(runner, run_id)
    shown = video_of(store, run_id)
    blobs.blob_path(store.root, shown).unlink()
    again = client.branch(store, run_id, at="decode")
    events = execute(runner, again)
    assert plan_in(events).stages == {
        "text_encode": "skip",
        "denoise": "stored",
        "decode": "compute",
    }
    assert video_of(store, again) == shown


# What that costs


def test_the_header_of_each_weight_file_is_read_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To check, plan, load and run, of files whose fingerprints the index knows; a new file's costs it one more."""
    spec = micro()
    client.check(store, spec)
    read: list[str] = []
    reader = weight_file.read_safetensors
    monkeypatch.setattr(
        weight_file, "read_safetensors", lambda path: read.append(path.name) or reader(path)
    )
    monkeypatch.setattr(opened_files, "_remembered", {})  # as in a process that has just begun
    client.plan(store, spec)
    run_id = client.submit(store, spec)
    assert plan_in(execute(Runner(store), run_id)).reused_steps == 0
    assert sorted(read) == ["dit.safetensors", "text_encoder.safetensors", "vae.safetensors"]


# Following


def test_a_resumed_run_is_followed_from_where_it_was_resumed(store: Store) -> None:
    run_id = submitted(store)
    store.lease(ENGINE)
    store.append(run_id, [StageStarted("denoise")])
    store.finish(run_id, "failed", error="no room")
    assert list(follow(store, run_id))[-1] == RunFinished("failed", "no room")
    client.resume(store, run_id)
    store.lease(ENGINE)
    following = follow(store, run_id, poll_seconds=0.001)
    assert [next(following) for _ in range(3)] == [
        RunResumed("failed"),
        RunQueued(),
        RunStarted(ENGINE, os.getpid()),
    ]
    store.append(run_id, [StageStarted("decode")])
    assert next(following) == StageStarted("decode")
    store.finish(run_id, "done")
    assert list(following) == [RunFinished("done")]
    # afterwards the log of the last attempt is read in the same way
    events = list(follow(store, run_id))
    assert (events[0], events[-1]) == (RunResumed("failed"), RunFinished("done"))


def test_a_follower_of_an_attempt_ends_with_it(store: Store) -> None:
    """Somebody resumes the run while it is followed: what comes then is another attempt."""
    run_id = submitted(store)
    store.lease(ENGINE)
    following = follow(store, run_id, poll_seconds=0.001)
    assert [next(following) for _ in range(2)] == [RunQueued(), RunStarted(ENGINE, os.getpid())]
    store.finish(run_id, "cancelled")
    client.resume(store, run_id)
    assert list(following) == [RunFinished("cancelled")]
    assert store.run(run_id).status == "queued"
