"""What the two training loops share: the budget, reproducible randomness, averaged weights, resuming.

Randomness depends only on (seed, rank, step), so a run that is resumed from a checkpoint draws what the unbroken
run would have drawn, without any generator state in the file.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from examples.micro.training.parallel import Rank, agree


@dataclass(frozen=True, slots=True)
class Budget:
    """Ends a training after so many seconds or so many steps, whichever comes first; 0 is no limit."""

    seconds: float = 0.0
    steps: int = 0

    def __post_init__(self) -> None:
        if self.seconds <= 0 and self.steps <= 0:
            raise ValueError("a training needs a limit: give seconds or steps above 0")

    def spent(self, seconds: float, steps: int) -> float:
        """Share of the budget that is used up; 1 and more is the end."""
        by_time = seconds / self.seconds if self.seconds > 0 else 0.0
        by_steps = steps / self.steps if self.steps > 0 else 0.0
        return max(by_time, by_steps)

    def scaled(self, factor: float) -> Budget:
        """The budget times `factor`; a limit on steps stays at least 1."""
        return Budget(self.seconds * factor, math.ceil(self.steps * factor))


@dataclass(slots=True)
class Progress:
    """How far a training is, over all its sessions. `seconds` is wall time of the steps."""

    rank: Rank
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    _mark: float = field(default_factory=time.monotonic)

    def start_clock(self) -> None:
        """Leaves out the time since the last tick: compilation, evaluation, saving."""
        self._mark = time.monotonic()

    def tick(self, samples: int) -> None:
        """Counts one step; every rank sees the clock of rank 0."""
        now = time.monotonic()
        self.seconds = agree(self.rank, self.seconds + now - self._mark)
        self._mark = time.monotonic()
        self.step += 1
        self.samples += samples * self.rank.count

    def as_dict(self) -> dict[str, float]:
        return {"step": self.step, "samples": self.samples, "seconds": self.seconds}

    def restore(self, saved: Mapping[str, float]) -> None:
        self.step, self.samples = int(saved["step"]), int(saved["samples"])
        self.seconds = float(saved["seconds"])


def step_randomness(seed: int, rank: Rank, step: int) -> tuple[random.Random, torch.Generator]:
    """The generators of one step on one rank; the torch one is on the CPU."""
    mixed = random.Random(f"{seed}/{rank.index}/{step}")
    return mixed, torch.Generator().manual_seed(mixed.getrandbits(63))


class WeightAverage:
    """Exponential moving average of named parameters, with a warm-up so that early weights fade."""

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self.averaged = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.averaged.values()), list(self._parameters.values()), 1 - decay
        )

    @torch.no_grad()
    def restore(self, saved: Mapping[str, Tensor]) -> None:
        copy_weights(saved, self.averaged)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the averaged weights into the model for the length of the block."""
        raw = {name: p.detach().clone() for name, p in self._parameters.items()}
        copy_weights(self.averaged, self._parameters)
        try:
            yield
        finally:
            copy_weights(raw, self._parameters)


@torch.no_grad()
def copy_weights(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Copies weights by name; ValueError unless both hold the same names and shapes."""
    missing, extra = sorted(target.keys() - source.keys()), sorted(source.keys() - target.keys())
    if missing or extra:
        raise ValueError(f"weights do not fit: missing {missing[:3]}, unexpected {extra[:3]}")
    for name, tensor in target.items():
        if tensor.shape != source[name].shape:
            shapes = f"{list(source[name].shape)}, expected {list(tensor.shape)}"
            raise ValueError(f"weights do not fit: {name} is {shapes}")
        tensor.copy_(source[name])


def learning_rate_factor(step: int, spent: float, *, warmup_steps: int, flat: float) -> float:
    """Share of the peak rate: a linear warm-up, constant until `flat` of the budget, then linear to 0."""
    warm = min(1.0, (step + 1) / warmup_steps)
    return warm * (1.0 if spent < flat else (1 - spent) / (1 - flat))


def require_finite(parameters: Mapping[str, Tensor], progress: Progress) -> None:
    """Raises FloatingPointError when a training has diverged, so that its checkpoint stays usable."""
    for name, tensor in parameters.items():
        if not bool(tensor.isfinite().all()):
            raise FloatingPointError(
                f"{name} is not finite after step {progress.step}: the training diverged; go on from "
                "the last checkpoint with lower learning rates"
            )


def earlier_trainings(saved: Mapping[str, Any] | None, *, resume: bool) -> list[dict[str, Any]]:
    """Phase and progress of the trainings before this one, oldest first.

    `saved` is the checkpoint that this training started from; a resumed one is its last entry.
    """
    history = list(saved.get("history", ())) if saved is not None else []
    return history[:-1] if resume else history


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scales every group's learning rate from its `peak_lr`."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak_lr"]


def optimizer_state(optimizers: Sequence[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    return [optimizer.state_dict() for optimizer in optimizers]


def restore_optimizers(
    optimizers: Sequence[torch.optim.Optimizer], saved: Sequence[dict[str, Any]]
) -> None:
    for optimizer, state in zip(optimizers, saved, strict=True):
        optimizer.load_state_dict(state)
