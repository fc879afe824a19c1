"""Extensions in whole runs of the micro model: gone on with after every step, they come to the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from engine.components.choice import settle
from engine.runner import Runner
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.lineage.events import Message
from store.lineage.records import REUSED
from store.store import Store, open_store
from tests.executing import ENGINE, SMALL, execute

STEPS = 6
SLG = '{name="skip-layer-guidance", options={blocks="2", start=0.25}}'
TEACACHE = '{name="teacache", options={threshold=%s}}'


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with open_store(tmp_path_factory.mktemp("models")) as store:
        yield Runner(store)


@pytest.fixture
def run(runner: Runner, tmp_path: Path) -> Iterator[Runner]:
    """The runner with its models, on a store of this test's own."""
    with open_store(tmp_path / "store") as store, store.register_engine(ENGINE, pid=1):
        move(runner, store)
        yield runner


def move(runner: Runner, store: Store) -> None:
    """The models stay, all that is of the store goes."""
    runner.store, runner._index = store, None


def queued(store: Store, folder: Path, *extensions: str, settings: Sequence[str] = ()) -> str:
    overrides = [
        f"scheduler.steps={STEPS}",
        'output.kinds=["latents"]',
        *SMALL,
        f"extensions=[{', '.join(extensions)}]",
        *settings,
    ]
    spec = settle(load_preset("micro", overrides))
    return store.enqueue(
        encode_spec(spec), preset="micro", output=str(folder / "{run}.safetensors")
    )


def latents(store: Store, run_id: str) -> list[str]:
    return [link.latents for link in store.links_of(run_id) if link.stage == "step"]


@pytest.mark.parametrize(
    "extensions",
    [
        pytest.param([TEACACHE % 0.2], id="teacache 0.2"),
        pytest.param([TEACACHE % 0.4], id="teacache 0.4"),
        pytest.param([TEACACHE % 2.0], id="teacache 2"),
        pytest.param([SLG, TEACACHE % 0.4], id="both"),
    ],
)
def test_a_run_goes_on_from_every_step_with_the_same_bits(run, tmp_path, extensions):
    whole = queued(run.store, tmp_path, *extensions)
    execute(run, whole)
    expected = latents(run.store, whole)
    assert len(expected) == STEPS
    for done in range(1, STEPS):
        with open_store(tmp_path / f"store {done}") as store, store.register_engine(ENGINE, pid=1):
            move(run, store)
            run_id = queued(store, tmp_path, *extensions)
            execute(run, run_id, pause_after=done)
            store.resume(run_id)
            execute(run, run_id)
            assert latents(store, run_id) == expected, done
            reused = [link for link in store.links_of(run_id) if link.source == REUSED]
            assert sum(link.stage == "step" for link in reused) == done


def test_teacache_changes_the_result_and_is_in_the_keys(run, tmp_path):
    plain, cached = queued(run.store, tmp_path), queued(run.store, tmp_path, TEACACHE % 2.0)
    execute(run, plain)
    execute(run, cached)
    assert latents(run.store, plain)[-1] != latents(run.store, cached)[-1]


def test_block_swap_changes_nothing_and_shares_every_step(run, tmp_path):
    swap = ("components.denoiser.resident_blocks=1",)
    plain, swapped = queued(run.store, tmp_path), queued(run.store, tmp_path, settings=swap)
    execute(run, plain)
    execute(run, swapped)
    assert latents(run.store, plain) == latents(run.store, swapped)
    assert all(link.source == REUSED for link in run.store.links_of(swapped))


def test_block_swap_computed_alone_gives_the_same_bits_and_is_told(run, tmp_path):
    plain = queued(run.store, tmp_path)
    execute(run, plain)
    expected = latents(run.store, plain)
    with open_store(tmp_path / "other") as store, store.register_engine(ENGINE, pid=1):
        move(run, store)
        setting = "components.denoiser.resident_blocks=1"
        swapped = queued(store, tmp_path, settings=[setting])
        execute(run, swapped)
        assert latents(store, swapped) == expected
        told = [event.text for _, event in store.events(swapped) if isinstance(event, Message)]
        assert "block swap: 1 of 6 blocks stay on cpu, 5 come for each call (from the file)" in told


def test_an_extension_shares_the_steps_before_it_is_active(run, tmp_path):
    plain, guided = queued(run.store, tmp_path), queued(run.store, tmp_path, SLG)
    execute(run, plain)
    execute(run, guided)
    sources = [link.source for link in run.store.links_of(guided) if link.stage == "step"]
    assert sources == [REUSED] * 2 + ["computed"] * (STEPS - 2)
