"""The scheduler and its state.

A scheduler never changes; a state is all that changes, is never changed in place, and can be
stored after any step. Going on from a stored state gives the same bits as never having stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from engine.schedulers.course import Course, make_course
from engine.schedulers.update import Update, history_lengths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STATE_DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class SolverState:
    """Where a run stands after `step` steps.

    latents: [...] float32 (float64 if the run was started so), contiguous; any shape.
    step: steps done, 0 to num_steps.
    history: earlier predictions of the clean latents, newest first, shaped as `latents`; only
        those that a later step still needs, so none before the first and after the last step.
    """

    latents: torch.Tensor
    step: int
    history: tuple[torch.Tensor, ...] = ()

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """The state as named tensors for `Scheduler.from_tensors`: shared with it, not copied.

        `latents`, `step` (int64 scalar) and `history.0`, `history.1` as far as there are any.
        """
        history = {f"history.{age}": tensor for age, tensor in enumerate(self.history)}
        return {"latents": self.latents, "step": torch.tensor(self.step), **history}


@dataclass(frozen=True, eq=False)
class Scheduler:
    """A solver on a schedule; make one with `create_scheduler`.

    name: `unipc`, `dpm++`, `sde-dpm++` or `euler`.
    sigmas: float32 [num_steps + 1], strictly descending, ends in 0.
    timesteps: int64 [num_steps], what the model is fed: `1000 * sigma` truncated; float32 where any is
        fractional.
    updates: the weights of each step, computed once in float64 from the float32 sigmas.
    history_lengths: [num_steps + 1] how many earlier predictions the state after n steps holds.
    """

    name: str
    sigmas: torch.Tensor
    timesteps: torch.Tensor
    updates: tuple[Update, ...] = field(repr=False)
    history_lengths: tuple[int, ...] = field(repr=False)

    @property
    def num_steps(self) -> int:
        """Number of steps, at least 1: one call of the model (or one guided pair) each."""
        return len(self.updates)

    def start(self, latents: torch.Tensor) -> SolverState:
        """The state before the first step.

        Args:
            latents: noise of any shape and floating dtype, standard normal; copied. Computation is
                in float32 from here on, or in float64 if that is what `latents` is.
        """
        if not latents.is_floating_point():
            raise ValueError(f"latents are {latents.dtype}: expected a floating-point tensor")
        dtype = latents.dtype if latents.dtype in STATE_DTYPES else torch.float32
        copied = latents.detach().to(dtype=dtype, copy=True, memory_format=torch.contiguous_format)
        return SolverState(latents=copied, step=0)

    def step(
        self, state: SolverState, velocity: torch.Tensor, noise: torch.Tensor | None = None
    ) -> SolverState:
        """The state one step on; neither argument is changed.

        Args:
            state: from `start`, `step` or `from_tensors`, with fewer than `num_steps` steps done.
            velocity: the model's output (noise minus data) for `state.latents` at
                `timesteps[state.step]`; same shape and device, any floating dtype.
            noise: standard normal, shaped as the velocity (`noise.step_noise`); needed where
                `updates[state.step].noise` is not 0, elsewhere not looked at.

        Raises:
            ValueError: past the last step, without noise where it is needed, or for a velocity, noise
                or state that does not fit.
        """
        self._check(state)
        if state.step == self.num_steps:
            raise ValueError(f"all {self.num_steps} steps are done: there is no step left to take")
        latents, update = state.latents, self.updates[state.step]
        _check_like(latents, velocity, "velocity")
        if update.noise:
            if noise is None:
                raise ValueError(f"step {state.step} of {self.name} adds noise: none is given")
            _check_like(latents, noise, "noise")
        kept = self.history_lengths[state.step + 1]
        with torch.no_grad():
            velocity = velocity.to(latents.dtype).contiguous()
            predictions = state.history
            if update.x0 or kept:
                x0 = torch.add(latents, velocity, alpha=-update.sigma)
                predictions = (x0, *state.history)
            advanced = _linear_combination(update, latents, velocity, predictions)
            if update.noise and noise is not None:
                advanced.add_(noise.to(latents.dtype), alpha=update.noise)
        return SolverState(latents=advanced, step=state.step + 1, history=predictions[:kept])

    def from_tensors(self, tensors: Mapping[str, torch.Tensor]) -> SolverState:
        """The state that `SolverState.to_tensors` wrote, exactly; for a scheduler made alike.

        Raises:
            ValueError: when tensors are missing, unexpected, or do not fit this scheduler.
        """
        missing = sorted({"latents", "step"} - set(tensors))
        if missing:
            raise ValueError(f"solver state has no tensor {missing[0]!r}")
        expected = [f"history.{age}" for age in range(len(tensors) - 2)]
        unexpected = sorted(set(tensors) - {"latents", "step", *expected})
        if unexpected:
            raise ValueError(f"solver state has an unexpected tensor {unexpected[0]!r}")
        step = tensors["step"]
        if step.dtype != torch.int64 or step.numel() != 1:
            raise ValueError(f"step is {step.dtype} {tuple(step.shape)}: expected one int64 number")
        state = SolverState(
            latents=tensors["latents"].contiguous(),
            step=int(step),
            history=tuple(tensors[name].contiguous() for name in expected),
        )
        self._check(state)
        return state

    def _check(self, state: SolverState) -> None:
        if not 0 <= state.step <= self.num_steps:
            raise ValueError(f"solver state is at step {state.step} of {self.num_steps}")
        latents, needed = state.latents, self.history_lengths[state.step]
        if latents.dtype not in STATE_DTYPES:
            raise ValueError(f"solver state is {latents.dtype}: expected float32 or float64")
        if len(state.history) != needed:
            raise ValueError(
                f"solver state holds {len(state.history)} earlier predictions at step {state.step}:"
                f" {self.name} with {self.num_steps} steps expects {needed}"
            )
        for age, tensor in enumerate(state.history):
            if tensor.shape != latents.shape or tensor.dtype != latents.dtype:
                raise ValueError(
                    f"history.{age} is {tensor.dtype} {tuple(tensor.shape)}: "
                    f"expected {latents.dtype} {tuple(latents.shape)} as the latents"
                )


def _check_like(latents: torch.Tensor, given: torch.Tensor, name: str) -> None:
    if given.shape != latents.shape:
        raise ValueError(
            f"{name} has shape {tuple(given.shape)}: expected {tuple(latents.shape)} as the latents"
        )
    if not given.is_floating_point():
        raise ValueError(f"{name} is {given.dtype}: expected a floating-point tensor")
    if given.device != latents.device:
        raise ValueError(f"{name} is on {given.device}: the latents are on {latents.device}")


def _linear_combination(
    update: Update,
    latents: torch.Tensor,
    velocity: torch.Tensor,
    predictions: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    # One new tensor, filled in place: torch has no n-ary sum, and stacking the operands for a
    # matrix product costs as much as the sum.
    if update.latents == 1.0 and not update.x0:
        return torch.add(latents, velocity, alpha=update.velocity)
    total = torch.mul(latents, update.latents)
    if update.velocity:
        total.add_(velocity, alpha=update.velocity)
    for weight, prediction in zip(update.x0, predictions, strict=False):
        if weight:
            total.add_(prediction, alpha=weight)
    return total


def create_scheduler(
    name: str,
    *,
    num_steps: int | None = None,
    shift: float = 5.0,
    grid: str = "wan",
    sigmas: Sequence[float] | None = None,
    fractional: bool = False,
) -> Scheduler:
    """Make a scheduler.

    Args:
        name: `unipc` (the published default), `dpm++`, `sde-dpm++` (stochastic) or `euler`.
        num_steps: at least 1; may be left out when `sigmas` is given.
        shift: finite, above 0; how far the steps are moved towards the noise (published: 3 to 16).
        grid: `wan` (the published schedule) or `diffusers` (that library's schedule, for all but
            `euler`).
        sigmas: noise levels to use instead, strictly descending in (0, 1] without the final 0;
            taken as they are, `shift` and `grid` then have no effect.
        fractional: feed the model `1000 * sigma` as it is (distilled models) and not truncated.

    Raises:
        ValueError: one line that names what was given and what is expected.
    """
    return follow_course(
        make_course(
            name,
            num_steps=num_steps,
            shift=shift,
            grid=grid,
            sigmas=sigmas,
            fractional=fractional,
        )
    )


def follow_course(course: Course) -> Scheduler:
    """The scheduler that takes the steps of a course."""
    is_whole = all(isinstance(timestep, int) for timestep in course.timesteps)
    timestep_dtype = torch.int64 if is_whole else torch.float32
    return Scheduler(
        name=course.name,
        sigmas=torch.tensor(course.sigmas, dtype=torch.float32),
        timesteps=torch.tensor(course.timesteps, dtype=timestep_dtype),
        updates=course.updates,
        history_lengths=history_lengths(course.updates),
    )
