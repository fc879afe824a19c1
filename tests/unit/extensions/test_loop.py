"""Extensions in a loop of the micro model: resumed from every step bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from engine.components.providers import wan_dit
from engine.extensions import registry
from engine.extensions.caching.teacache import TeaCache
from engine.extensions.extension import Extension, needs_own_calls
from engine.models.diffusion.wandit import WanDiT
from engine.schedulers.scheduler import create_scheduler
from presets.spec.components import DenoiserSpec
from presets.spec.sampling import ExtensionSpec
from tests.sampling_loop import Loop

NUM_BLOCKS = 3
FACTS = {"num_blocks": NUM_BLOCKS, "dim": 128, "model": "micro"}
STEPS = 12
THRESHOLDS = (0.1, 0.2, 0.4)


@pytest.fixture(scope="module")
def dit() -> WanDiT:
    """Not all of its blocks: what extensions do with one of them they do with each."""
    spec = DenoiserSpec(checkpoint="builtin:micro", device="cpu", dtype="fp32")
    model = wan_dit.load(spec)
    model.blocks = model.blocks[:NUM_BLOCKS]
    return model


def make(name: str, **options: Any) -> Extension:
    return registry.make(ExtensionSpec(name=name, options=options), FACTS)


def loop(
    dit: WanDiT, extensions: Sequence[Extension] = (), *, solver: str = "unipc", steps: int = STEPS
) -> Loop:
    """Two prompts' worth of random states: what matters is that the model answers, not what it shows."""
    generator = torch.Generator().manual_seed(9)
    positive, negative = (torch.randn(1, n, 128, generator=generator) for n in (11, 2))
    noise = torch.randn(1, 16, 2, 4, 4, generator=generator)
    scheduler = create_scheduler(solver, num_steps=steps, shift=3.0)
    return Loop(dit, positive, negative, scheduler, noise, extensions=extensions)


def combinations(threshold: float) -> dict[str, list[list[Extension]]]:
    """name -> the extensions of the first run, and of the run that resumes it."""

    def tea() -> Extension:
        return make("teacache", threshold=threshold)

    def skip() -> Extension:
        return make("skip-layer-guidance", blocks="0,2")

    return {
        "alone": [[tea()], [tea()]],
        "late": [[make("teacache", threshold=threshold, start=0.3, end=0.8)] for _ in range(2)],
        "composed": [[tea(), skip()], [tea(), skip()]],
    }


@pytest.mark.parametrize(
    ("name", "solver", "threshold", "steps"),
    [
        ("alone", "unipc", 0.1, STEPS),  # so low a one leaves nothing out of few steps
        ("alone", "unipc", 0.4, 8),
        ("alone", "euler", 0.2, 8),
        ("late", "unipc", 0.2, 8),
        ("late", "unipc", 0.4, 8),
        ("composed", "unipc", 0.2, 8),
        ("composed", "unipc", 0.4, 8),
    ],
)
def test_resumed_from_every_step(
    dit: WanDiT, name: str, solver: str, threshold: float, steps: int
) -> None:
    first, second = combinations(threshold)[name]
    whole = loop(dit, first, solver=solver, steps=steps)
    expected = whole.run().latents
    (tea,) = [extension for extension in first if isinstance(extension, TeaCache)]
    assert tea.skipped
    for done in range(steps):
        again = loop(dit, second, solver=solver, steps=steps)
        state = again.resume(whole.journal, done)
        assert state.step == done
        assert torch.equal(again.go_on(state).latents, expected), done


def test_higher_thresholds_leave_out_more(dit: WanDiT) -> None:
    left_out, distances = [], []
    exact = loop(dit, [make("teacache", threshold=0)])
    expected = exact.run().latents
    for threshold in THRESHOLDS:
        cached = loop(dit, [tea := make("teacache", threshold=threshold)])
        distances.append(float((cached.run().latents - expected).norm() / expected.norm()))
        left_out.append(len(tea.skipped))
    assert 0 < left_out[0] < left_out[1] < left_out[2]
    assert min(distances) > 0


def test_a_threshold_of_zero_leaves_nothing_out(dit: WanDiT) -> None:
    class Untouched:
        """Forces calls of their own, and nothing else."""

        exact: ClassVar[bool] = False

        def is_active(self, step: int, total: int) -> bool:
            return True

        def model(self, next, x, timestep, at):
            return next(x, timestep, at)

    tea = make("teacache", threshold=0)
    cached = loop(dit, [tea, Untouched()]).run().latents
    assert torch.equal(cached, loop(dit, [Untouched()]).run().latents)
    assert not tea.skipped


def test_the_first_and_the_last_step_are_always_computed(dit: WanDiT) -> None:
    tea = make("teacache", threshold=10)
    loop(dit, [tea]).run()
    assert tea.skipped == set(range(1, STEPS - 1))
    assert not tea.is_active(STEPS - 1, STEPS)
    assert make("teacache", start=0.3).is_active(4, STEPS)
    assert not make("teacache", start=0.3).is_active(3, STEPS)


def test_a_branch_that_was_left_out_begins_anew(dit: WanDiT) -> None:
    """As with guidance at some steps only: what is left of the negative branch is of another time."""

    class Interval:
        exact: ClassVar[bool] = False

        def is_active(self, step: int, total: int) -> bool:
            return True

        def guide(self, next, predict, x, scale, at):
            return predict("positive") if at.step in (4, 5) else next(predict, x, scale, at)

    whole = loop(dit, [tea := make("teacache", threshold=0.25), Interval()])
    expected = whole.run().latents
    assert tea.skipped
    positive = loop(dit, [make("teacache", threshold=0.25), Interval()])
    positive.run(7)
    assert positive.extensions[0].seen["negative", None].computed == 6
    assert 6 in tea.skipped  # of the other branch: no residual is made again from here
    assert whole.journal[7].resume_at < 6
    for done in range(STEPS):
        again = loop(dit, [make("teacache", threshold=0.25), Interval()])
        state = again.resume(whole.journal, done)
        assert torch.equal(again.go_on(state).latents, expected), done


def test_windows_are_cached_apart(dit: WanDiT) -> None:
    class Halves:
        exact: ClassVar[bool] = False

        def is_active(self, step: int, total: int) -> bool:
            return True

        def model(self, next, x, timestep, at):
            parts = [
                next(x[:, :, i : i + 1].contiguous(), timestep, replace(at, window=(i,)))
                for i in range(2)
            ]
            return torch.cat(parts, dim=2)

    whole = loop(dit, [tea := make("teacache", threshold=0.2), Halves()])
    expected = whole.run().latents
    assert tea.skipped
    done = STEPS - 2
    keys = {name.rpartition("/")[0] for name in whole.journal[done].state} - {"0"}
    assert keys == {f"0/{b}@{i}" for b, i in itertools.product(("positive", "negative"), (0, 1))}
    again = loop(dit, [make("teacache", threshold=0.2), Halves()])
    assert torch.equal(again.go_on(again.resume(whole.journal, done)).latents, expected)


def test_state_is_small(dit: WanDiT) -> None:
    whole = loop(dit, [make("teacache", threshold=0.2)])
    whole.run()
    assert max(sum(t.nbytes for t in e.state.values()) for e in whole.journal.values()) < 2000


def test_skip_layer_guidance_shares_the_steps_before_it(dit: WanDiT) -> None:
    plain, guided = loop(dit), loop(dit, [make("skip-layer-guidance", blocks="1", start=0.1)])
    plain.run()
    guided.run()
    for step in (1, 2):  # 0 / 12 and 1 / 12 are below 10 %
        assert torch.equal(plain.journal[step].velocity, guided.journal[step].velocity)
    assert not torch.equal(plain.journal[3].velocity, guided.journal[3].velocity)
    assert guided.calls == 2 + 2 * (STEPS - 2)  # batched until it takes part


def test_only_the_negative_branch_skips(dit: WanDiT) -> None:
    class Count:
        exact: ClassVar[bool] = True

        def __init__(self) -> None:
            self.ran: list[tuple[str, int]] = []

        def is_active(self, step: int, total: int) -> bool:
            return True

        def block(self, next, x, i, tokens, at):
            self.ran.append((at.branch, i))
            return next(x, i, tokens, at)

    count = Count()
    loop(dit, [make("skip-layer-guidance", blocks="0,2", start=0), count]).run(1)
    assert [i for branch, i in count.ran if branch == "positive"] == [0, 1, 2]
    assert [i for branch, i in count.ran if branch == "negative"] == [1]


def test_which_extensions_need_calls_of_their_own() -> None:
    class AtTheSolver:
        exact: ClassVar[bool] = False

        def step(self, next, state, velocity, at): ...

    assert not needs_own_calls([AtTheSolver()])
    assert needs_own_calls([AtTheSolver(), make("teacache")])
