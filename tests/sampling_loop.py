"""A denoising loop without a store: the seams as the engine's loop uses them, with its journal in a dict.

Both branches of the guidance go through the model in one batch unless an extension needs calls of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from engine.extensions.extension import (
    Extension,
    Stateful,
    active,
    needs_own_calls,
)
from engine.models.diffusion.wandit import WanDiT
from engine.models.seams import At, around
from engine.schedulers.scheduler import Scheduler, SolverState


@dataclass(frozen=True)
class Entry:
    """What is stored of a step. velocity: after guidance. state, resume_at: of the extensions, after the step."""

    velocity: Tensor
    latents: Tensor
    state: Mapping[str, Tensor]
    resume_at: int


@dataclass
class Loop:
    """positive, negative: prompt states [1,L,d]. calls: model calls so far, batched ones counted once."""

    model: WanDiT
    positive: Tensor
    negative: Tensor
    scheduler: Scheduler
    noise: Tensor
    scale: float = 2.5
    extensions: Sequence[Extension] = ()
    calls: int = 0
    journal: dict[int, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        texts = {"positive": self.positive, "negative": self.negative}
        both = torch.nn.utils.rnn.pad_sequence([t[0] for t in texts.values()], batch_first=True)
        texts[""] = both
        with self.model.at_work():
            made = self.model.prepare_each([{"text": text} for text in texts.values()])
        self.conditions = dict(zip(texts, made, strict=True))

    @torch.no_grad()
    def run(self, stop: int = 10**6) -> SolverState:
        """All steps, or the first `stop` of them."""
        return self.go_on(self.scheduler.start(self.noise), stop)

    @torch.no_grad()
    def go_on(self, state: SolverState, stop: int = 10**6) -> SolverState:
        with self.model.at_work():
            while state.step < min(stop, self.scheduler.num_steps):
                velocity, state = self._step(state)
                self.journal[state.step] = Entry(
                    velocity,
                    state.latents,
                    states(self.extensions),
                    resume_at(self.extensions, state.step),
                )
        return state

    def resume(self, journal: Mapping[int, Entry], done: int) -> SolverState:
        """The state after `done` steps of a journal: solver steps replayed up to where the extensions' state is whole,
        computed from there on; every step is held against the journal."""
        begin = journal[done].resume_at if done else 0
        state = self.scheduler.start(self.noise)
        for step in range(1, begin + 1):
            state = self.scheduler.step(state, journal[step].velocity)
        restore(self.extensions, journal[begin].state if begin else {})
        state = self.go_on(state, done)
        for step in range(begin + 1, done + 1):
            assert torch.equal(self.journal[step].velocity, journal[step].velocity), step
        return state

    def _step(self, state: SolverState) -> tuple[Tensor, SolverState]:
        index, scheduler = state.step, self.scheduler
        at = At(index, scheduler.num_steps, float(scheduler.sigmas[index]))
        now = active(self.extensions, at.step, at.total)
        timestep = scheduler.timesteps[index : index + 1]

        def model(x: Tensor, timestep: Tensor, at: At) -> Tensor:
            self.calls += 1
            return self.model(x, timestep, self.conditions[at.branch], extensions=now, at=at)

        call = around(now, "model", model)

        def predict(branch: str) -> Tensor:
            return call(state.latents, timestep, replace(at, branch=branch))

        def guide(predict, x: Tensor, scale: float, at: At) -> Tensor:
            if needs_own_calls(now):
                cond, uncond = predict("positive"), predict("negative")
            else:
                cond, uncond = call(x.repeat(2, 1, 1, 1, 1), timestep, at).chunk(2)
            return torch.add(uncond, cond - uncond, alpha=scale)

        def solve(state: SolverState, velocity: Tensor, at: At) -> SolverState:
            return scheduler.step(state, velocity)

        velocity = around(now, "guide", guide)(predict, state.latents, self.scale, at)
        return velocity, around(now, "step", solve)(state, velocity, at)


def states(extensions: Sequence[Extension]) -> dict[str, Tensor]:
    """The small state of all of them after a step, for `restore`. The tensors are nobody else's."""
    found: dict[str, Tensor] = {}
    for number, extension in enumerate(_stateful(extensions)):
        found |= {f"{number}/{name}": t.detach().clone() for name, t in extension.state().items()}
    return found


def resume_at(extensions: Sequence[Extension], done: int) -> int:
    """After how many steps, at most `done`, a run must be taken up so that its state after `done` is whole again."""
    wanted = [extension.resume_at() for extension in _stateful(extensions)]
    return min([done, *(steps for steps in wanted if steps is not None)])


def restore(extensions: Sequence[Extension], tensors: Mapping[str, Tensor]) -> None:
    """Gives each of them what `states` stored of it; exact ones may have come or gone since then."""
    for number, extension in enumerate(_stateful(extensions)):
        prefix = f"{number}/"
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        extension.restore(own)


def _stateful(extensions: Sequence[Extension]) -> list[Stateful]:
    return [extension for extension in extensions if isinstance(extension, Stateful)]
