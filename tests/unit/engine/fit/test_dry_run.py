"""What a run takes is told without numbers, and is what the same code takes with them, to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from engine import client
from engine.components.descriptions import Descriptions
from engine.errors import EngineError
from engine.fit import dry_run
from engine.fit.dry_run import works_of
from engine.fit.stages import uses_of
from engine.fit.work import Memory, Use, Work
from presets.library import load_preset
from presets.spec import ExtensionSpec, RunSpec
from store.index.index import open_index
from store.store import Store, open_store

SMALL = ("width=32", "height=32", "frames=13", "scheduler.steps=4")
TILES = ("components.vae.tile_size=64", "components.vae.tile_overlap=16")
BF16 = tuple(f"components.{kind}.dtype=bf16" for kind in ("text_encoder", "denoiser", "vae"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with open_store(tmp_path / "store") as opened:
        yield opened


def spec_of(*settings: str, extensions: Sequence[ExtensionSpec] = ()) -> RunSpec:
    values = {"extensions": list(extensions)} if extensions else {}
    return load_preset("micro", (*SMALL, *settings), values=values)


def works_in(store: Store, spec: RunSpec) -> tuple[tuple[Work, ...], tuple[str, ...]]:
    with open_index(store.root) as index:
        return works_of(client.plan(store, spec), Descriptions(index), index)


@pytest.mark.parametrize(
    "settings",
    [
        ("width=48", "height=64", "frames=33"),
        ("guidance.scale=[1.0, 1.0, 1.0, 6.0]", "components.vae.chunk_frames=1"),
        ("components.denoiser.attention=plain", "components.vae.chunk_frames=0"),
        ("width=96", "frames=9", *TILES, *BF16),
    ],
    ids=" ".join,
)
def test_numbers_take_the_same_bytes(store: Store, settings: tuple[str, ...]) -> None:
    works, _ = works_in(store, spec_of(*settings))
    assert uses_of(works) == uses_of(works, fake=nullcontext())


def test_history_and_what_extensions_keep_count(store: Store) -> None:
    cached = ExtensionSpec(name="teacache", options={"threshold": 0.1})
    works, uncounted = works_in(store, spec_of("scheduler.steps=8", extensions=[cached]))
    assert uncounted == ()
    steps = max(
        (work for work in works if work.stage == "denoise"), key=lambda work: len(work.nodes)
    )
    assert len(steps.nodes) == 2
    assert steps.nodes[0].before.hints["history"] == 2
    assert uses_of([steps]) == uses_of([steps], fake=nullcontext())


def test_a_device_that_is_not_here(store: Store) -> None:
    """Weights that stay loaded are told apart, and host memory from the device's."""
    devices = [f"components.{kind}.device=cuda" for kind in ("text_encoder", "denoiser", "vae")]
    works, _ = works_in(store, spec_of(*devices))
    found = {(use.stage, use.device): use for use in uses_of(works)}
    assert {device for _, device in found} == {"cpu", "cuda:0"}
    encoder, steps, decoder = (
        found[stage, "cuda:0"] for stage in ("text_encode", "denoise", "decode")
    )
    assert (encoder.kept_bytes, steps.kept_bytes) == (0, encoder.weights_bytes)
    assert decoder.kept_bytes == encoder.weights_bytes + steps.weights_bytes
    for use in (encoder, steps, decoder):
        assert use.peak_bytes > use.weights_bytes + use.kept_bytes
        assert use.operation
    assert found["decode", "cpu"].weights_bytes == 0


def test_nothing_counts_scores_that_fused_attention_does_not_hold(store: Store) -> None:
    """What is held beside the weights grows with the tokens, not with their square."""
    peaks = []
    for frames in (33, 65):
        size = ("width=256", "height=256", f"frames={frames}", "components.denoiser.device=cuda")
        works, _ = works_in(store, spec_of(*size))
        steps = [work for work in works if work.stage == "denoise"]
        (use,) = (use for use in uses_of(steps) if use.device == "cuda:0")
        peaks.append(use.peak_bytes - use.weights_bytes)
    assert peaks[1] / peaks[0] < 17 / 9


def test_it_is_remembered(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def uses(works: Sequence[Work]) -> list[Use]:
        asked.append(len(works))
        return [Use("denoise", "cpu", 3, 2, 1, "mul", "blocks.0")]

    monkeypatch.setattr("engine.fit.stages.uses_of", uses)

    def told(*settings: str) -> Memory:
        return dry_run.memory_of(store, client.plan(store, spec_of(*settings)))

    first = told()
    assert first.peak_bytes == {"denoise": {"cpu": 3}}
    for same in ("seed=7", "prompt=another", "guidance.scale=3.0", "scheduler.steps=9"):
        assert told(same) == first
    assert asked == [3]
    told("width=64")
    told("components.denoiser.dtype=bf16")
    told("guidance.scale=1")
    told("scheduler.name=euler")
    assert len(asked) == 5


def test_what_does_not_run_there_is_refused_in_a_line(store: Store) -> None:
    works, _ = works_in(store, spec_of("components.denoiser.attention=sdpa-cudnn"))
    with pytest.raises(
        EngineError, match=r"what denoise takes cannot be told.*does not run on cpu"
    ):
        uses_of([work for work in works if work.stage == "denoise"])
