"""`verify`: a run that is computed again is identical, or the first link that differs is named and how far it is."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import client
from engine.checkpoints.locate import locate
from engine.components.descriptions import Descriptions
from engine.components.memory.residents import Residents
from engine.process.version import installed_version
from engine.reports import Control
from engine.runner import Runner
from engine.runs.verify import verify
from presets.library.loading import load_preset
from store.errors import StoreError
from store.index.index import open_index
from store.lineage.events import Event, StepFinished, Verified
from store.store import Store, open_store
from tests.executing import ENGINE, SMALL, execute

SEEDS = itertools.count(9000)
STEPS = 3


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


def made(runner: Runner, folder: Path, *overrides: str, stop_at: int | None = None) -> str:
    """A finished run of three steps that no other test has made."""
    own = [f"scheduler.steps={STEPS}", f"seed={next(SEEDS)}", "output.kinds=['latents']", *SMALL]
    spec = load_preset("micro", [*own, *overrides])
    run_id = client.submit(
        runner.store, spec, output=str(folder / "{run}.safetensors"), stop_at=stop_at
    )
    execute(runner, run_id)
    return run_id


def branched(runner: Runner, folder: Path, run_id: str, at: int, *overrides: str) -> str:
    output = str(folder / "{run}.safetensors")
    child = client.branch(runner.store, run_id, at=at, overrides=overrides, output=output)
    execute(runner, child)
    return child


def verified(store: Store, run_id: str) -> Verified:
    events: list[Event] = []
    control = Control(events.append, lambda: None)
    with open_index(store.root) as index:
        return verify(store, store.run(run_id), Descriptions(index), Residents, control)


def own_weights(kind: str, folder: Path) -> Path:
    """A copy of a micro component, to be changed."""
    source = locate(kind, "builtin:micro")
    copy = folder / f"{kind}.safetensors"
    shutil.copyfile(source, copy)
    shutil.copyfile(source.with_name("config.json"), folder / "config.json")
    return copy


def perturb(path: Path, factor: float) -> None:
    """Scales every matrix of a weight file a little, in place."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = {
        name: tensor * factor if tensor.dim() > 1 else tensor
        for name, tensor in load_file(path).items()
    }
    path.unlink()
    save_file(tensors, path, metadata)


def test_what_was_computed_here_is_identical(store: Store, runner: Runner, tmp_path: Path) -> None:
    run_id = made(runner, tmp_path)
    events = execute(runner, client.verify(store, run_id))
    (verdict,) = [event for event in events if isinstance(event, Verified)]
    assert verdict == Verified(True, "", None, {}, 2 + STEPS)  # both prompts and the steps
    told = [(e.step, e.total, e.source) for e in events if isinstance(e, StepFinished)]
    assert told == [(number, STEPS, "computed") for number in (1, 2, 3)]


def test_verifying_leaves_the_record_as_it_was(
    store: Store, runner: Runner, tmp_path: Path
) -> None:
    run_id = made(runner, tmp_path)
    keys = [link.key for link in store.links_of(run_id)]
    before = store.find_links(keys)
    check_id = client.verify(store, run_id)
    execute(runner, check_id)
    assert store.find_links(keys) == before
    assert store.links_of(check_id) == []


@pytest.mark.parametrize("name", ["dpm++", "euler"])
def test_every_solver_and_every_policy(
    store: Store, runner: Runner, tmp_path: Path, name: str
) -> None:
    run_id = made(runner, tmp_path, f"scheduler.name={name}", "keep.every=0", "guidance.scale=1")
    assert verified(store, run_id) == Verified(True, "", None, {}, 1 + STEPS)


def test_a_run_that_stopped_early_is_verified_as_far_as_it_went(
    store: Store, runner: Runner, tmp_path: Path
) -> None:
    run_id = made(runner, tmp_path, stop_at=2)
    assert verified(store, run_id) == Verified(True, "", None, {}, 2 + 2)


def test_a_branch_whose_prompts_clean_to_one_text(
    store: Store, runner: Runner, tmp_path: Path
) -> None:
    run_id = made(runner, tmp_path, "prompt=a red circle", "negative_prompt= a  red circle")
    child = branched(runner, tmp_path, run_id, 1, "prompt=a blue star")
    assert verified(store, run_id).identical
    assert verified(store, child).identical


def test_other_weights_differ_from_the_first_step_on(
    store: Store, runner: Runner, tmp_path: Path
) -> None:
    weights = own_weights("denoiser", tmp_path)
    run_id = made(runner, tmp_path, f"components.denoiser.checkpoint={weights}")
    assert verified(store, run_id).identical
    perturb(weights, 1.01)
    slightly = verified(store, run_id)
    perturb(weights, 1.2)
    much = verified(store, run_id)
    for verdict in (slightly, much):
        assert (verdict.identical, verdict.first, verdict.checked) == (False, "step 1", 3)
        assert verdict.environment == {}  # the same machine: it must be the weights
    assert slightly.relative_l2 is not None
    assert much.relative_l2 is not None
    assert 0 < 3 * slightly.relative_l2 < much.relative_l2


def test_a_branch_differs_from_where_its_own_weights_come_in(
    store: Store, runner: Runner, tmp_path: Path
) -> None:
    weights = own_weights("denoiser", tmp_path)
    parent = made(runner, tmp_path)
    child = branched(runner, tmp_path, parent, 2, f"components.denoiser.checkpoint={weights}")
    perturb(weights, 1.01)
    verdict = verified(store, child)
    assert (verdict.identical, verdict.first) == (False, "step 3")
    assert verdict.relative_l2 is not None
    assert 0 < verdict.relative_l2 < 0.5


def test_another_encoder_differs_at_the_prompt(
    store: Store, runner: Runner, tmp_path: Path
) -> None:
    weights = own_weights("text_encoder", tmp_path)
    overrides = [
        f"components.text_encoder.checkpoint={weights}",
        "components.text_encoder.tokenizer=builtin:micro",
    ]
    run_id = made(runner, tmp_path, *overrides)
    perturb(weights, 1.01)
    assert verified(store, run_id) == Verified(False, "text 1", None, {}, 1)


def test_a_distance_that_nobody_can_tell_any_more(
    store: Store, runner: Runner, tmp_path: Path
) -> None:
    weights = own_weights("denoiser", tmp_path)
    thinned = made(runner, tmp_path, "keep.every=0", f"components.denoiser.checkpoint={weights}")
    perturb(weights, 1.01)
    assert verified(store, thinned) == Verified(False, "step 1", None, {}, 3)


def test_what_differs_in_the_environment_is_named(
    store: Store, runner: Runner, tmp_path: Path
) -> None:
    run_id = made(runner, tmp_path)
    then = json.loads(store.run(run_id).environment)
    assert then["torch"] == str(torch.__version__)
    assert then["device"] == "cpu"
    store.set_environment(run_id, json.dumps({**then, "torch": "1.0", "gpu": "a large one"}))
    verdict = verified(store, run_id)
    assert verdict.identical
    assert verdict.environment == {
        "torch": ["1.0", str(torch.__version__)],
        "gpu": ["a large one", None],
    }


def test_a_run_that_computed_nothing_has_the_environment_of_what_it_took(
    store: Store, runner: Runner, tmp_path: Path
) -> None:
    run_id = made(runner, tmp_path)
    copy = branched(runner, tmp_path, run_id, 2)
    assert store.run(copy).environment == ""
    assert verified(store, copy).environment == {}
    links = [link for link in store.links_of(run_id) if link.stage == "step"]
    assert "torch" in store.find_links([links[0].key])[links[0].key].environment


def test_a_run_without_steps_has_nothing_to_compare(store: Store) -> None:
    run_id = client.submit(store, load_preset("micro"))
    store.request_cancel(run_id)
    with pytest.raises(StoreError, match="no steps on record"):
        verified(store, run_id)
