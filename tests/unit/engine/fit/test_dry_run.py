"""What a run takes is told without numbers, and is what the same code takes with them, to the byte."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from engine import client
from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.components.descriptions import Descriptions
from engine.components.unseen import Published
from engine.errors import CheckpointError, EngineError
from engine.fit import dry_run
from engine.fit.dry_run import remembered, work_bytes, works_of
from engine.fit.stages import uses_of
from engine.fit.work import Memory, Use, Work
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from presets.spec.sampling import ExtensionSpec
from store.index.index import open_index
from store.store import Store, open_store
from tests.pairwise import Choice, every_pair

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
        ("width=48", "frames=17"),
        ("guidance.scale=[1.0, 1.0, 1.0, 6.0]", "components.vae.chunk_frames=1"),
        ("components.denoiser.attention=plain", "components.vae.chunk_frames=0"),
        ("width=80", "height=16", "frames=5", *TILES, *BF16),
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


def test_two_blocks_stand_for_all_and_torch_finds_the_same(store: Store) -> None:
    """Against every block of a published model, by torch's own mode without numbers."""
    spec = load_preset("wan2.1-t2v-1.3b", ("frames=17", "components.denoiser.device=cuda"))
    with open_index(store.root) as index:
        plan, _ = client.plan_unseen(store, spec)
        works, _ = works_of(plan, Published(Descriptions(index)), index)
    steps = [work for work in works if work.stage == "denoise"]
    assert uses_of(steps) == uses_of(steps, fake=FakeTensorMode())


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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_slots_are_of_the_weights_and_not_of_the_work(store: Store, device: str) -> None:
    """By which `resident_blocks = "auto"` knows what is left for blocks."""
    work_bytes = set()
    for resident in ("all", "0", "2"):
        settings = (f"device={device}", f"resident_blocks={resident}")
        works, _ = works_in(store, spec_of(*(f"components.denoiser.{each}" for each in settings)))
        steps = [work for work in works if work.stage == "denoise"]
        use = max(uses_of(steps), key=lambda use: use.weights_bytes)
        assert use.weights_bytes == steps[0].about.on(device).num_bytes
        work_bytes.add(use.peak_bytes - use.weights_bytes)
    assert len(work_bytes) == 1


def test_it_is_remembered(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def uses(works: Sequence[Work]) -> list[Use]:
        asked.append(len(works))
        return [Use(work.stage, "cpu", 3, 2, 1, "mul", "blocks.0") for work in works]

    monkeypatch.setattr("engine.fit.stages.uses_of", uses)

    def told(*settings: str) -> Memory:
        return dry_run.memory_of(store, client.plan(store, spec_of(*settings)))

    first = told()
    assert first.peak_bytes == {stage: {"cpu": 3} for stage in ("text_encode", "denoise", "decode")}
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


def test_two_devices_of_one_denoiser(store: Store) -> None:
    """Each holds a copy and what one half takes."""

    def told(*settings: str) -> dict[str, Use]:
        works, _ = works_in(store, spec_of("components.denoiser.device=cuda:0", *settings))
        steps = [work for work in works if work.stage == "denoise"]
        return {use.device: use for use in uses_of(steps)}

    def peaks(*settings: str) -> dict[str, int]:
        return {device: use.peak_bytes for device, use in told(*settings).items()}

    halves = told("components.denoiser.guidance_device=cuda:1")
    first, other = halves["cuda:0"], halves["cuda:1"]
    assert first.weights_bytes == other.weights_bytes > 0
    one_call, both = peaks("guidance.scale=1"), peaks()
    # the solver is on the first; on one device both halves are in one call
    assert other.peak_bytes <= one_call["cuda:0"] <= first.peak_bytes < both["cuda:0"]
    assert peaks("components.denoiser.guidance_device=cuda") == both
    off = peaks("components.denoiser.guidance_device=cuda:1", "guidance.scale=1")
    assert off == one_call


def test_both_copies_stay_beside_the_decoder(store: Store) -> None:
    on = [f"components.denoiser.{name}" for name in ("device=cuda:0", "guidance_device=cuda:1")]
    works, _ = works_in(store, spec_of("components.vae.device=cuda:1", "frames=5", *on))
    later = [work for work in works if work.stage != "text_encode"]
    decode = {use.device: use for use in uses_of(later) if use.stage == "decode"}
    kept = decode["cuda:0"].kept_bytes
    assert kept == decode["cuda:1"].kept_bytes > 0
    assert decode["cuda:0"].weights_bytes == 0 < decode["cuda:1"].weights_bytes


# of two devices: one, the same one, a card beside another, and two kinds
DENOISER = {
    "device": ("cpu", "cuda:1", "mps"),
    "guidance_device": ("", "cpu", "cuda:0", "mps"),
    "dtype": ("fp32", "bf16", "fp16"),
    "attention": ("plain", "sdpa", "sdpa-flash", "sdpa-cudnn"),
    "quantise": ("", "fp8", "int8"),
    "unpack": ("auto", "load", "call"),
    "resident_blocks": ("all", "auto", "1"),
}


@pytest.mark.parametrize(
    "choice",
    every_pair(
        {
            **DENOISER,
            "scheduler": ("unipc", "sde-dpm++"),
            "extensions": ("", "teacache", "skip-layer-guidance"),
        },
        # a kernel of CUDA
        lambda choice: (
            choice.get("attention") == "sdpa-cudnn"
            and "cpu" in (choice.get("device"), choice.get("guidance_device"))
        ),
    ),
)
def test_every_pair_of_settings_is_told(store: Store, choice: Choice) -> None:
    extension = choice["extensions"]
    settings = [f"components.denoiser.{name}={choice[name]}" for name in DENOISER]
    settings += [f"scheduler.name={choice['scheduler']}", "frames=5"]
    options = {"teacache": {"threshold": 0.1}, "skip-layer-guidance": {"blocks": "1", "start": 0}}
    extensions = [ExtensionSpec(name=extension, options=options[extension])] if extension else []
    works, uncounted = works_in(store, spec_of(*settings, extensions=extensions))
    assert uncounted == ()
    steps = [work for work in works if work.stage == "denoise"]
    uses = uses_of(steps)
    assert {use.device for use in uses if use.weights_bytes} == {
        choice["device"],
        choice["guidance_device"] or choice["device"],
    }


def test_what_was_told_of_a_stage_is_known_beside_a_run(store: Store) -> None:
    """Also where the plan is another by now, because some of it is stored."""
    plan = client.plan(store, spec_of())
    with open_index(store.root) as index:
        describe = Descriptions(index)
        assert remembered(plan, describe, index) == Memory(())
        told = dry_run.memory_of(store, plan)
        assert remembered(plan, describe, index).peak_bytes == told.peak_bytes
        rest = {
            node: "stored" if node.stage.told == "text_encode" else state
            for node, state in plan.states.items()
        }
        later = remembered(replace(plan, states=rest), describe, index)
        assert later.peak_bytes.keys() == {"denoise", "decode"}
        other = client.plan(store, spec_of("frames=17"))
        assert remembered(other, describe, index).peak_bytes.keys() == {"text_encode"}
        for stage, num_bytes in work_bytes(told).items():
            use = next(each for each in told.uses if (each.stage, each.device) == (stage, "cpu"))
            assert 0 < num_bytes == use.peak_bytes - use.weights_bytes - use.kept_bytes


def test_a_file_that_goes_away_while_memory_is_told_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "vae.safetensors"
    shutil.copy(locate("vae", BUILTIN_MICRO), file)
    plan = client.plan(store, spec_of(f"components.vae.checkpoint={file}"))

    def counted(*given: object) -> tuple[Use, ...]:
        file.unlink()
        return (Use("decode", "cpu", 3, 2, 0, "", ""),)

    monkeypatch.setattr(dry_run, "uses_in", counted)
    monkeypatch.setattr(dry_run, "device_of", lambda stage, uses: "cpu")
    with pytest.raises(CheckpointError, match=f"{file}: no such file"):
        dry_run.memory_of(store, plan)


def test_models_that_leave_no_room_for_the_work_are_not_beside_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    works, _ = works_in(store, spec_of("components.vae.chunk_frames=0"))
    roomy = {use.stage: use for use in uses_of(works)}
    budget = roomy["denoise"].peak_bytes
    monkeypatch.setattr("engine.fit.stages._budget", lambda device: budget)
    tight = {use.stage: use for use in uses_of(works)}
    assert tight["denoise"] == roomy["denoise"]
    before, after = roomy["decode"], tight["decode"]
    assert before.peak_bytes > budget
    assert after.kept_bytes < before.kept_bytes
    gone = before.kept_bytes - after.kept_bytes
    assert after.peak_bytes == before.peak_bytes - gone <= budget
