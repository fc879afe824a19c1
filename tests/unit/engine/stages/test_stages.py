"""The stages on components of a few lines, by the engine's own executor: what they call, what they make, how they
fail."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from engine.components import registry
from engine.components.descriptions import Descriptions
from engine.components.memory.residents import Residents
from engine.components.protocols import Description
from engine.errors import RunFailed
from engine.execution.jobs import Execution
from engine.execution.kept import Keeping
from engine.graph import Node, Targets
from engine.models.seams import At
from engine.reports import Control
from engine.results import MemoryResults, Results, StoreResults
from engine.stages import latents
from engine.tasks.route import route_of
from engine.tasks.wan import NOISE, graph_of
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from store.blobs.blobs import blob_path
from store.database.database import immediate
from store.index.index import Index, open_index
from store.lineage.events import Event, Message, StepFinished
from store.lineage.records import Segment
from store.store import Store, open_store
from tests.executing import ENGINE

# What the fake encoder reads out of a prompt.
VALUES = {"half": 0.5, "quarter": 0.25, "": 0.0}


class Encoder:
    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.poison = 0.0

    def encode(self, prompt: str) -> Tensor:
        self.prompts.append(prompt)
        return torch.full((3, 8), VALUES[prompt]) + self.poison


class Gaussian:
    """The exact velocity towards a point: data = the mean of the prompt's states."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.begun: list[list[str]] = []
        self.poison_at = math.inf
        self.buffer: Tensor | None = None

    @contextmanager
    def begin(
        self, branches: Mapping[str, Mapping[str, Tensor]], extensions: Sequence[Any] = ()
    ) -> Iterator[Callable[..., list[Tensor]]]:
        self.begun.append(sorted(branches))

        def predict(x: Tensor, timestep: Tensor, ats: Sequence[At]) -> list[Tensor]:
            self.calls.append(len(ats))
            if len(self.calls) > self.poison_at:
                return [torch.full_like(x, torch.inf) for _ in ats]
            targets = [branches[at.branch]["text"].mean() for at in ats]
            found = [(x - target) / (timestep.float() / 1000) for target in targets]
            if self.buffer is not None:
                return [self.buffer.copy_(found[0])]
            return found

        yield predict


class Painter:
    """A VAE of one grey."""

    def __init__(self) -> None:
        self.level = 0.0

    def decode(
        self, latents: Tensor, *, on_chunk: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[Tensor]:
        for number in range(latents.shape[2]):
            on_chunk(number + 1, latents.shape[2])
            yield torch.full((1, 3, 4 if number else 1, 64, 64), self.level)


@dataclass
class Provider:
    """One kind of component, which `make` makes at each load."""

    kind: str
    make: Callable[[], Any]
    facts: dict[str, Any]
    num_bytes: int = 0
    loads: list[str] = field(default_factory=list)

    def describe(self, part: Any, index: Index) -> Description:
        identity = {"name": self.kind, "weights": self.kind, "dtype": part.dtype}
        return Description(identity, self.facts, f"{self.kind} {part.dtype}", self.num_bytes)

    def load(self, part: Any, about: Description) -> Any:
        self.loads.append(part.dtype)
        return self.make()


class Bench:
    """Runs of components of a few lines."""

    def __init__(self) -> None:
        self.encoder, self.denoiser, self.vae = Encoder(), Gaussian(), Painter()
        self.providers = {
            "text_encoder": Provider("text_encoder", lambda: self.encoder, {"text_dim": 8}),
            "denoiser": Provider("denoiser", lambda: self.denoiser, {"latent_channels": 16}),
            "vae": Provider("vae", lambda: self.vae, {"latent_stride": [4, 8, 8]}),
        }
        self.describe = Descriptions(cast("Index", None))
        self.residents = Residents()
        self.events: list[Event] = []

    def targets(self, spec: RunSpec, segments: Sequence[Segment] = ()) -> Targets:
        return graph_of(route_of(spec, segments), self.describe, spec.output.kinds)

    def execution(
        self, spec: RunSpec, results: Results | None = None, segments: Sequence[Segment] = ()
    ) -> Execution:
        self.events = []
        return Execution(
            self.targets(spec, segments),
            results or MemoryResults(),
            self.describe,
            lambda: self.residents,
            Control(self.events.append, lambda: None),
            Keeping(),
        )

    def latents(
        self, spec: RunSpec, results: Results | None = None, segments: Sequence[Segment] = ()
    ) -> Tensor:
        """What a run comes to."""
        execution = self.execution(spec, results, segments)
        execution.run(execution.plan())
        return execution.tensors(execution.plan(), execution.targets["latents"])["latents"]

    def steps(self, source: str = "computed") -> list[int]:
        told = [event for event in self.events if isinstance(event, StepFinished)]
        return [event.step for event in told if event.source == source]

    @property
    def warnings(self) -> list[str]:
        told = [event for event in self.events if isinstance(event, Message)]
        return [event.text for event in told if event.level == "warning"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()
    monkeypatch.setattr(registry, "provider", lambda kind, name: made.providers[kind])
    return made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with (
        open_store(tmp_path / "store") as opened,
        opened.register_engine(ENGINE, pid=os.getpid()),
    ):
        yield opened


def spec(*overrides: str) -> RunSpec:
    own = ["prompt=half", "negative_prompt=quarter", 'output.kinds=["latents"]']
    return load_preset("micro", [*own, *overrides])


def results_of(store: Store, wanted: RunSpec) -> StoreResults:
    run_id = store.enqueue(encode_spec(wanted), preset="micro", output="")
    return StoreResults(store, store.run(run_id), lambda: open_index(store.root))


def change(store: Store, sql: str, *values: object) -> None:
    with immediate(store.lineage) as connection:
        connection.execute(sql, values)


# The loop


def test_walks_the_whole_schedule_to_the_data(bench: Bench) -> None:
    found = bench.latents(spec("scheduler.name=euler", "guidance.scale=1", "scheduler.steps=12"))
    steps = [event for event in bench.events if isinstance(event, StepFinished)]
    assert [step.step for step in steps] == list(range(1, 13))
    assert bench.denoiser.calls == [1] * 12
    assert bench.denoiser.begun == [["positive"]]
    assert [step.sigma for step in steps] == sorted((step.sigma for step in steps), reverse=True)
    assert (found - 0.5).abs().max() < 0.05


def test_guidance_pushes_past_the_prompt(bench: Bench) -> None:
    found = bench.latents(spec("guidance.scale=3", "scheduler.name=euler"))
    assert bench.denoiser.calls == [2] * 20
    assert float(found.mean()) == pytest.approx(0.25 + 3 * 0.25, abs=0.05)


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        ("fp32", "--set components.denoiser.attention=plain"),
        ("fp16", "--set components.denoiser.dtype=bf16 or fp32, or --set"),
    ],
)
def test_numbers_that_are_not_finite_stop_the_run_at_that_step(
    bench: Bench, dtype: str, advice: str
) -> None:
    bench.denoiser.poison_at = 6
    message = (
        f"step 7 of 20 .dtype {dtype}, attention sdpa.; its weights are finite, .*: try {advice}"
    )
    with pytest.raises(RunFailed, match=message):
        bench.latents(spec(f"components.denoiser.dtype={dtype}", "guidance.scale=1"))
    assert bench.steps() == [1, 2, 3, 4, 5, 6]


def test_no_guidance_encodes_one_prompt(bench: Bench) -> None:
    bench.latents(spec("guidance.scale=1"))
    assert bench.encoder.prompts == ["half"]
    bench.latents(spec())
    assert bench.encoder.prompts == ["half", "half", "quarter"]


# Noise


def noise_node(bench: Bench, *overrides: str) -> Node:
    node = bench.targets(spec(*overrides))["latents"].node
    while node.stage is not NOISE:
        node = node.before
    return node


def test_noise_depends_on_the_seed_alone(bench: Bench) -> None:
    def noise(*overrides: str) -> Tensor:
        return latents.noise(noise_node(bench, *overrides), torch.device("cpu"))

    torch.manual_seed(1)
    first = noise("seed=4")
    state = torch.get_rng_state()
    again = noise("seed=4", "prompt=other")
    assert first.shape == (1, 16, 5, 8, 8)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, noise("seed=5"))
    generator = torch.Generator().manual_seed(2**64 - 1)
    largest = noise("seed=18446744073709551615")
    assert torch.equal(largest, torch.randn(largest.shape, generator=generator))


def test_wan_noise_comes_from_the_denoisers_device(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no second device here: what is looked at is which one the generator is asked for."""
    asked: list[str] = []
    make = torch.Generator

    def generator(device: torch.device) -> torch.Generator:
        asked.append(str(device))
        return make("cpu")

    monkeypatch.setattr(torch, "Generator", generator)
    for source in ("cpu", "wan"):
        latents.noise(noise_node(bench, f"noise={source}"), torch.device("cpu", 0))
    assert asked == ["cpu", "cpu:0"]


# What is broken


def test_a_broken_text_encoder_is_named(bench: Bench) -> None:
    bench.encoder.poison = math.nan
    with pytest.raises(RunFailed, match=r"text encoder's output is not finite \(dtype fp32\)"):
        bench.latents(spec())


def test_a_broken_decode_is_not_a_black_video(bench: Bench) -> None:
    bench.vae.level = math.nan
    execution = bench.execution(spec('output.kinds=["video"]'))
    with pytest.raises(RunFailed, match="the decoded video is not finite"):
        execution.run(execution.plan())


# Components in memory


class Weights(Gaussian):
    """A denoiser whose life can be watched."""


def test_the_first_denoiser_is_gone_when_the_second_is_loaded(bench: Bench) -> None:
    made: list[weakref.ref[Weights]] = []
    alive: list[int] = []

    def make() -> Weights:
        alive.append(sum(each() is not None for each in made))
        denoiser = Weights()
        made.append(weakref.ref(denoiser))
        return denoiser

    bench.providers["denoiser"].make = make
    first = spec("scheduler.steps=6")
    second = spec("scheduler.steps=6", "components.denoiser.dtype=bf16")
    bench.latents(second, segments=[Segment(3, encode_spec(first))])
    assert bench.providers["denoiser"].loads == ["fp32", "bf16"]
    assert alive == [0, 0]
    assert bench.steps() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("budget", "reloads"), [(180, True), (300, False)])
def test_what_is_idle_goes_where_the_next_does_not_fit(
    bench: Bench, budget: int, reloads: bool
) -> None:
    for provider in bench.providers.values():
        provider.num_bytes = 60
    bench.residents = Residents({"cpu": budget})
    bench.latents(spec("scheduler.steps=2"))
    bench.latents(spec("scheduler.steps=2"))
    assert len(bench.providers["text_encoder"].loads) == (2 if reloads else 1)
    assert len(bench.providers["denoiser"].loads) == (2 if reloads else 1)


def test_what_is_in_use_is_never_released(bench: Bench) -> None:
    bench.residents = residents = Residents({"cpu": 1})
    part = spec().components
    about = {kind: bench.describe(kind, getattr(part, kind)) for kind in bench.providers}
    with residents.use("denoiser", part.denoiser, about["denoiser"]):
        with residents.use("vae", part.vae, about["vae"]):
            residents.release()
            assert residents.holds(part.denoiser, about["denoiser"])
        residents.release()
        assert not residents.holds(part.vae, about["vae"])
        assert residents.holds(part.denoiser, about["denoiser"])


# The store


def test_a_denoiser_may_use_its_output_buffer_again(bench: Bench, store: Store) -> None:
    """The journal reads velocities later and in another thread; with guidance 1 they come as the denoiser has them."""
    bench.denoiser.buffer = torch.empty(1, 16, 5, 8, 8)
    wanted = spec("guidance.scale=1", "scheduler.steps=6")
    first = bench.latents(wanted, results_of(store, wanted))
    (run,) = store.runs(limit=1)
    blob_path(store.root, run.latents).unlink()
    again = bench.latents(wanted, results_of(store, wanted))
    assert torch.equal(first, again)
    assert (bench.steps(), bench.steps("reused")) == ([], [1, 2, 3, 4, 5, 6])
    assert bench.warnings == []


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_text_that_a_clean_up_takes_between_plan_and_use(
    bench: Bench, store: Store, is_lost: bool
) -> None:
    wanted = spec("scheduler.steps=3")
    bench.latents(wanted, results_of(store, wanted))
    other = spec("scheduler.steps=3", "seed=99")  # steps of its own, with the texts of the first
    execution = bench.execution(other, results_of(store, other))
    plan = execution.plan()
    assert plan.state("text_encode") == "stored"
    texts = {node: plan.links[node] for node in plan.nodes("text_encode")}
    change(store, "DELETE FROM links WHERE kind='text'")
    if is_lost:
        for link in texts.values():
            blob_path(store.root, link.digest).unlink()
    execution.run(plan)
    assert bench.steps() == [1, 2, 3]
    assert len(bench.encoder.prompts) == (4 if is_lost else 2)


# A chain from another machine, whose rounding is not that of this one

FORGED = f"sha256:{'f' * 64}"


def forge(store: Store, first: int, run_id: str, *, what: str) -> None:
    """Changes what is on record for the steps of a run from a number on: the digest of their latents, as of a machine
    that rounds otherwise, or the velocity."""
    steps = [link for link in store.links_of(run_id) if link.stage == "step"]
    for link in steps[first - 1 :]:
        if what == "latents":
            change(store, "UPDATE links SET latents=? WHERE key=?", FORGED, link.key)
        else:
            change(store, "UPDATE links SET digest=? WHERE key=?", steps[0].digest, link.key)


@pytest.mark.parametrize("what", ["latents", "velocity"])
@pytest.mark.parametrize("first", [1, 3])
def test_a_chain_that_does_not_replay_here_is_computed_once(
    bench: Bench, store: Store, what: str, first: int
) -> None:
    if (what, first) == ("velocity", 1):
        first = 2  # the first is the one that the others get
    wanted = spec("scheduler.steps=6")
    bench.latents(wanted, results_of(store, wanted))
    (run,) = store.runs(limit=1)
    shared = [link for link in store.links_of(run.id) if link.stage == "step"][:4]
    forge(store, first, run.id, what=what)

    def branch(scale: float) -> Tensor:
        other = spec("scheduler.steps=6", f"guidance.scale={scale}")
        segments = [Segment(4, encode_spec(wanted))]
        return bench.latents(other, results_of(store, other), segments)

    branch(2.0)
    again = list(range(first, 7))
    assert bench.steps() == again
    assert bench.steps("reused") == list(range(1, first))  # each is told once
    assert f"the run goes on from step {first - 1}" in " ".join(bench.warnings)
    kept = store.find_links([each.key for each in shared])
    for each in shared:
        now = kept[each.key]
        assert (now.digest, now.latents) == (each.digest, each.latents)
    branch(3.0)
    assert bench.steps() == [5, 6]
    assert bench.steps("reused") == [1, 2, 3, 4]
    assert bench.warnings == []


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_video_is_stored_under_the_latents_that_it_was_made_of(
    bench: Bench, store: Store, is_lost: bool
) -> None:
    """Whether or not the record of the steps has come to say what they are here."""
    wanted = spec("scheduler.steps=4", 'output.kinds=["video", "latents"]')
    bench.latents(wanted, results_of(store, wanted))
    (run,) = store.runs(limit=1)
    change(store, "DELETE FROM links WHERE kind='video'")
    blob_path(store.root, run.latents).unlink()
    forge(store, 1, run.id, what="latents")
    if is_lost:  # nobody has noticed: the rows still speak of them
        for link in store.links_of(run.id):
            if link.stage == "step":
                blob_path(store.root, link.digest).unlink()
    results = results_of(store, wanted)
    execution = bench.execution(wanted, results)
    execution.run(execution.plan())
    assert bench.steps() == [1, 2, 3, 4]
    plan = execution.plan()
    video, last = plan.targets["video"].node, plan.targets["latents"].node
    assert plan.facts[video]["inputs"] == {"latents": run.latents}
    assert plan.links[last].latents == run.latents
    with immediate(store.lineage) as connection:
        keys = connection.execute("SELECT key FROM links WHERE kind='video'").fetchall()
    assert keys == [(plan.keys[video],)]
