"""Plans: what is stored, computed or skipped, for every state that a store can be in. No model is loaded for it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.graph import Given
from engine.plan import Plan
from engine.runner import Runner
from presets.encoding import encode_spec
from presets.library.loading import load_preset, override
from presets.spec.run import RunSpec
from store.blobs import blobs
from store.lineage.records import LinkRecord, RunRecord, Segment
from store.store import Store, open_store
from tests.delivered import content
from tests.executing import SMALL
from tests.stores.chains import (
    SPEC,
    any_run,
    make_steps,
    plan_of,
    planned,
    put_latents,
    record,
)

ROOT = Path(__file__).resolve().parents[3]
STEPS = SPEC.scheduler.steps


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


def wanting(*kinds: str) -> RunSpec:
    return override(SPEC, [f"output.kinds={list(kinds)}"])


def put_texts(store: Store, plan: Plan) -> None:
    """The token states of a plan's prompts, with the digests that its keys are made of."""
    for text in plan.nodes("text_encode"):
        path = blobs.blob_path(store.root, plan.links[text].digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(plan.keys[text].encode())


def put_video(store: Store, key: str) -> str:
    digest = blobs.put(store.root, f"video {key}".encode())
    record(store, any_run(store), LinkRecord(key, "video", digest), "video", 0)
    return digest


def states(plan: Plan) -> tuple[str, str, str]:
    return plan.state("text_encode"), plan.state("denoise"), plan.state("decode")


def needs(plan: Plan) -> tuple[str, ...]:
    return tuple(plan.needs)


def is_whole(plan: Plan) -> bool:
    return not plan.job()


def video(plan: Plan) -> str:
    """The key of the video, "" where it is not known."""
    (node,) = plan.nodes("decode")
    return plan.keys.get(node, "")


def prompts(plan: Plan) -> list[str]:
    found = []
    for node in plan.nodes("text_encode"):
        prompt = node.inputs["prompt"]
        assert isinstance(prompt, Given)
        found.append(prompt.data.decode())
    return found


def step_keys(plan: Plan) -> list[str]:
    return [plan.keys.get(node, "") for node in plan.chain]


def test_nothing_is_stored(store: Store) -> None:
    plan = plan_of(store, SPEC)
    assert needs(plan) == ("text_encoder", "denoiser", "vae")
    assert states(plan) == ("compute", "compute", "compute")
    assert (plan.num_stored_steps, len(plan.chain), video(plan)) == (0, STEPS, "")
    # the digests of the prompts are part of the steps' keys, and nobody knows them yet
    assert not plan.links
    assert set(step_keys(plan)) == {""}
    assert plan.keys[plan.chain[0].before].startswith("k1:")
    assert [node.name for node in plan.job()] == ["positive"]


def test_only_the_prompts_are_stored(store: Store) -> None:
    put_texts(store, planned(store, SPEC))
    plan = plan_of(store, SPEC)
    assert needs(plan) == ("denoiser", "vae")
    assert states(plan) == ("stored", "compute", "compute")
    assert len(set(step_keys(plan)) - {""}) == STEPS
    assert plan.num_stored_steps == 0
    assert plan.job() == plan.chain


def test_one_prompt_of_two_is_stored(store: Store) -> None:
    put_texts(store, planned(store, override(SPEC, ["guidance.scale=1"])))
    plan = plan_of(store, SPEC)
    assert [plan.states[text] for text in plan.nodes("text_encode")] == ["stored", "compute"]
    assert plan.state("text_encode") == "compute"
    assert set(step_keys(plan)) == {""}


@pytest.mark.parametrize("done", range(1, STEPS + 1))
def test_some_steps_are_stored(store: Store, done: int) -> None:
    put_texts(store, planned(store, SPEC))
    make_steps(store, planned(store, SPEC), total=done)
    plan = plan_of(store, SPEC)
    assert plan.num_stored_steps == done
    assert states(plan) == (
        ("stored", "compute", "compute") if done < STEPS else ("skip", "stored", "compute")
    )
    assert needs(plan) == (("denoiser", "vae") if done < STEPS else ("vae",))
    # the video's key needs the digest of the last latents, which is known before they are stored
    assert bool(video(plan)) == (done == STEPS)


def test_the_text_is_gone_but_its_digest_is_known(store: Store) -> None:
    """The chain is known to its end all the same, and the encoder is needed only where steps are."""
    make_steps(store, planned(store, SPEC), total=4)
    plan = plan_of(store, SPEC)
    assert not {plan.states[text] for text in plan.nodes("text_encode")} & {"stored"}
    assert plan.num_stored_steps == 4
    assert needs(plan) == ("text_encoder", "denoiser", "vae")
    make_steps(store, plan, total=STEPS)
    assert needs(plan_of(store, SPEC)) == ("vae",)


THINNED = [
    # journal, keyframes -> the deepest state that can be rebuilt
    ((), (), 0),
    ((), (3,), 3),
    ((), (3, 5), 5),
    ((1, 2), (), 2),
    ((1, 2, 4), (), 2),  # 4 without the state after 3 leads nowhere
    ((1, 2, 4), (3,), 4),
    ((4, 5), (3,), 5),
    ((1, 2, 3, 4, 5), (2,), 5),
    ((2,), (1, 4), 4),
]


@pytest.mark.parametrize(("journal", "keyframes", "start"), THINNED)
def test_thinned_steps(store: Store, journal, keyframes, start: int) -> None:
    make_steps(store, planned(store, SPEC), total=5, journal=journal, keyframes=keyframes)
    assert plan_of(store, SPEC).num_stored_steps == start


SEEDS = itertools.count(1000)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    done=st.integers(0, STEPS),
    journal=st.sets(st.integers(1, STEPS)),
    keyframes=st.sets(st.integers(1, STEPS)),
)
def test_the_start_is_the_deepest_state_that_what_is_stored_leads_to(
    store: Store, done: int, journal: set[int], keyframes: set[int]
) -> None:
    spec = override(SPEC, [f"seed={next(SEEDS)}"])  # a chain of which nothing is stored
    make_steps(store, planned(store, spec), total=done, journal=journal, keyframes=keyframes)
    reachable = {0}
    for number in range(1, done + 1):
        if number in keyframes or (number in journal and number - 1 in reachable):
            reachable.add(number)
    assert plan_of(store, spec).num_stored_steps == max(reachable)


def test_a_lost_velocity_ends_the_way(store: Store) -> None:
    plan = planned(store, SPEC)
    make_steps(store, plan, total=STEPS)
    stored = plan_of(store, SPEC)
    velocity = stored.links[stored.chain[2]].digest
    os.unlink(blobs.blob_path(store.root, velocity))
    assert plan_of(store, SPEC).num_stored_steps == 2


def test_only_the_final_latents_are_stored(store: Store) -> None:
    plan = planned(store, SPEC)
    make_steps(store, plan, total=STEPS, journal=())
    put_latents(store, step_keys(plan)[-1])
    plan = plan_of(store, SPEC)
    assert plan.states[plan.chain[-1]] == "stored"
    assert needs(plan) == ("vae",)
    assert states(plan) == ("skip", "stored", "compute")
    assert not is_whole(plan)
    assert is_whole(plan_of(store, wanting("latents")))


def test_only_the_video_is_stored(store: Store) -> None:
    """What it was made of may be gone: for who wants the video, nothing is computed."""
    plan = planned(store, SPEC)
    make_steps(store, plan, total=STEPS, journal=())
    digest = put_video(store, video(plan_of(store, SPEC)))
    plan = plan_of(store, SPEC)
    assert plan.links[plan.nodes("decode")[0]].digest == digest
    assert needs(plan) == ()
    assert states(plan) == ("skip", "stored", "stored")
    assert is_whole(plan)
    # the latents are another matter
    both = plan_of(store, wanting("video", "latents"))
    assert needs(both) == ("text_encoder", "denoiser")
    assert not is_whole(both)


def test_frames_are_decoded_again_whatever_is_stored(store: Store) -> None:
    plan = planned(store, SPEC)
    make_steps(store, plan, total=STEPS)
    put_latents(store, step_keys(plan)[-1])
    put_video(store, video(plan_of(store, SPEC)))
    assert is_whole(plan_of(store, SPEC))
    for kinds in (("frames",), ("video", "frames"), ("frames", "latents")):
        plan = plan_of(store, wanting(*kinds))
        assert needs(plan) == ("vae",)
        assert not is_whole(plan)


def test_who_wants_the_latents_needs_no_vae(store: Store) -> None:
    plan = plan_of(store, wanting("latents"))
    assert needs(plan) == ("text_encoder", "denoiser")
    assert states(plan) == ("compute", "compute", "skip")


def test_another_decoding_has_a_video_of_its_own(store: Store) -> None:
    plan = planned(store, SPEC)
    make_steps(store, plan, total=STEPS)
    put_latents(store, step_keys(plan)[-1])
    put_video(store, video(plan_of(store, SPEC)))
    tiled = plan_of(
        store, override(SPEC, ["components.vae.tile_size=64", "components.vae.tile_overlap=32"])
    )
    assert needs(tiled) == ("vae",)
    assert tiled.num_stored_steps == STEPS
    assert video(tiled) != video(plan_of(store, SPEC))


# Runs that stop early


def test_stopping_early_has_the_steps_of_the_whole_run_and_a_video_of_its_own(store: Store) -> None:
    whole = planned(store, SPEC)
    make_steps(store, whole, total=4)
    plan = plan_of(store, SPEC, stop_at=4)
    assert (len(plan.chain), plan.num_stored_steps) == (4, 4)
    assert step_keys(plan) == step_keys(whole)[:4]
    assert needs(plan) == ("vae",)
    put_video(store, video(plan))
    assert is_whole(plan_of(store, SPEC, stop_at=4))
    # nor is it that of a run of four steps that shows its latents
    assert video(plan) not in ("", video(plan_of(store, SPEC)))
    assert needs(plan_of(store, SPEC)) == ("text_encoder", "denoiser", "vae")


def test_stopping_early_at_a_keyframe_goes_one_step_back(store: Store) -> None:
    """A state does not tell where its last velocity pointed to, and that is what the video shows."""
    plan = planned(store, SPEC)
    make_steps(store, plan, total=5, journal=(), keyframes=(2, 4))
    assert plan_of(store, SPEC, stop_at=4).num_stored_steps == 2
    assert plan_of(store, SPEC, stop_at=5).num_stored_steps == 4
    assert plan_of(store, SPEC).num_stored_steps == 4
    make_steps(store, plan, total=5, journal=(4,), keyframes=(3,))
    assert plan_of(store, SPEC, stop_at=4).num_stored_steps == 4


def test_stopping_early_shows_a_prediction_and_not_the_latents(store: Store) -> None:
    """That the latents at that step are stored does not make the video."""
    plan = planned(store, SPEC)
    make_steps(store, plan, total=4, journal=())
    put_latents(store, step_keys(plan)[3])
    assert needs(plan_of(store, SPEC, stop_at=4)) == ("text_encoder", "denoiser", "vae")


@pytest.mark.parametrize("stop_at", [STEPS, STEPS + 1, 1000])
def test_stopping_at_the_end_is_not_early(store: Store, stop_at: int) -> None:
    make_steps(store, planned(store, SPEC), total=STEPS)
    plan = planned(store, SPEC, stop_at=stop_at)
    assert len(plan.chain) == STEPS
    assert video(plan) == video(plan_of(store, SPEC)) != ""


# Branches


def test_a_branch_starts_from_what_it_shares(store: Store) -> None:
    make_steps(store, planned(store, SPEC), total=STEPS)
    changed = override(SPEC, ["prompt=a blue square"])
    plan = planned(store, changed, [Segment(4, encode_spec(SPEC))])
    assert plan.num_stored_steps == 4
    assert prompts(plan) == ["a red circle", "blurred", "a blue square"]


def test_a_branch_whose_ancestor_was_thinned_starts_before(store: Store) -> None:
    make_steps(store, planned(store, SPEC), total=STEPS, journal=(), keyframes=(2, 5))
    changed = override(SPEC, ["guidance.scale=2"])
    assert planned(store, changed, [Segment(4, encode_spec(SPEC))]).num_stored_steps == 2
    assert planned(store, changed, [Segment(5, encode_spec(SPEC))]).num_stored_steps == 5


def test_prompts_that_clean_to_one_text_are_encoded_once(store: Store) -> None:
    spec = override(SPEC, ["negative_prompt= a  red circle"])
    moved = override(spec, ["components.text_encoder.device=cpu", "guidance.scale=2"])
    plan = planned(store, moved, [Segment(2, encode_spec(spec))])
    assert len({plan.keys[text] for text in plan.nodes("text_encode")}) == 1
    assert all(step_keys(plan))
    named = plan.facts[plan.chain[0]]["inputs"]
    assert named["positive.text"] == named["negative.text"]
    # and as soon as one of them is there, none is left to encode
    assert plan.state("text_encode") == "compute"
    put_texts(store, plan)
    assert plan_of(store, moved, [Segment(2, encode_spec(spec))]).state("text_encode") == "stored"


def test_a_part_that_is_never_reached_needs_no_prompt(store: Store) -> None:
    segments = [
        Segment(2, encode_spec(SPEC)),
        Segment(4, encode_spec(override(SPEC, ["prompt=b"]))),
    ]
    plan = plan_of(store, override(SPEC, ["prompt=a red circle"]), segments, stop_at=2)
    assert prompts(plan) == ["a red circle", "blurred"]


def test_what_a_step_takes(store: Store) -> None:
    plan = plan_of(store, override(SPEC, ["width=832", "height=480", "frames=81"]))
    # 8.4 MB, as store.blobs.tensors writes it without its header
    assert plan.latent_bytes == 4 * 16 * 21 * 60 * 104


# Without torch

EXECUTE = """
import os, sys
from engine.runner import Runner
from presets.encoding import decode_spec
from store.store import open_store

with open_store(sys.argv[1]) as store:
    run = store.run(sys.argv[2])
    Runner(store).execute(run, decode_spec(run.spec_json), emit=lambda event: None, cancelled=lambda: False)
    print(sorted({"torch", "transformers", "numpy"} & set(sys.modules)))
"""


def test_a_run_that_is_stored_whole_is_executed_without_torch(store: Store, tmp_path: Path) -> None:
    spec = load_preset("micro", ["scheduler.steps=2", 'output.kinds=["video", "latents"]', *SMALL])

    def queued(name: str) -> RunRecord:
        output = str(tmp_path / name)
        return store.run(store.enqueue(encode_spec(spec), preset="micro", output=output))

    first = queued("a.mp4")
    Runner(store).execute(first, spec, emit=lambda event: None, cancelled=lambda: False)
    again = queued("b.mp4")
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(store.root), again.id],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    for suffix in (".mp4", ".safetensors"):
        first_file, second_file = (tmp_path / f"{name}{suffix}" for name in "ab")
        assert content(first_file) == content(second_file)
    links = [link for link in store.links_of(again.id) if link.stage in ("step", "video")]
    assert [(link.stage, link.source) for link in links] == [
        ("step", "reused"),
        ("step", "reused"),
        ("video", "reused"),
    ]
    assert store.run(again.id).latents == links[1].latents
