"""A whole run's noise levels and solver weights as plain numbers: what a plan and its keys are made of. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.schedulers.euler import euler_updates
from engine.schedulers.flow_dpm import dpm_updates, sde_dpm_updates
from engine.schedulers.flow_unipc import unipc_updates
from engine.schedulers.schedule import (
    TRAIN_TIMESTEPS,
    custom_sigmas,
    diffusers_dpm_sigmas,
    diffusers_unipc_sigmas,
    grid_sigmas,
    to_float32,
    wan_linear_sigmas,
    wan_unipc_sigmas,
)
from engine.schedulers.update import Update

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True)
class Solver:
    """updates: sigmas (num_steps + 1, the last 0) -> the weights of each step. grids: whose spacing of
    sigmas there is, by name; (num_steps, shift) -> num_steps sigmas.
    """

    updates: Callable[[Sequence[float]], tuple[Update, ...]]
    grids: Mapping[str, Callable[[int, float], list[float]]]


# A name is also one of the Literal in presets/spec/sampling.py, which cannot import this; a test holds the two
# together.
SOLVERS: dict[str, Solver] = {
    "unipc": Solver(unipc_updates, {"wan": wan_unipc_sigmas, "diffusers": diffusers_unipc_sigmas}),
    "dpm++": Solver(dpm_updates, {"wan": wan_linear_sigmas, "diffusers": diffusers_dpm_sigmas}),
    "sde-dpm++": Solver(
        sde_dpm_updates, {"wan": wan_linear_sigmas, "diffusers": diffusers_dpm_sigmas}
    ),
    "euler": Solver(euler_updates, {"wan": wan_linear_sigmas}),
}
SCHEDULERS = tuple(SOLVERS)
GRID_NAMES = ("wan", "diffusers")


@dataclass(frozen=True)
class Course:
    """The way from noise to latents.

    name: the solver, of the last part where it changed on the way. sigmas: num_steps + 1 noise levels,
    each a float32, strictly descending, the last 0. timesteps: num_steps, what the model is fed: whole
    numbers, `1000 * sigma` truncated, or float32 ones where the course was made so. They may repeat where
    many steps crowd near sigma 1; steps are counted, never looked up by them. updates: the weights of each
    step. begun: the step at which that solver began, without history.
    """

    name: str
    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    updates: tuple[Update, ...]
    begun: int = 0

    @property
    def num_steps(self) -> int:
        return len(self.updates)


def make_course(
    name: str,
    *,
    num_steps: int | None = None,
    shift: float = 5.0,
    grid: str = "wan",
    sigmas: Sequence[float] | None = None,
    fractional: bool = False,
) -> Course:
    """The course of a solver; arguments and errors as of `create_scheduler`."""
    if name not in SOLVERS:
        raise ValueError(f"scheduler {name!r} is not known: use one of {', '.join(SCHEDULERS)}")
    if sigmas is not None:
        values = custom_sigmas(sigmas)
        if num_steps is not None and num_steps != len(values):
            raise ValueError(
                f"num_steps is {num_steps!r} but {len(values)} sigmas are given: "
                "leave num_steps out or make them equal"
            )
    elif num_steps is None:
        raise ValueError("neither num_steps nor sigmas is given: expected one of them")
    else:
        values = grid_sigmas(_grid_of(name, grid), num_steps, shift)
    # A timestep is made of the sigma before it is rounded: one unit in the last place decides between 600 and 599.
    timesteps = tuple(_timestep(value, fractional=fractional) for value in values)
    # The weights are made of the rounded ones, which are what the latents meet.
    rounded = tuple(to_float32(value) for value in (*values, 0.0))
    return Course(name, rounded, timesteps, SOLVERS[name].updates(rounded))


def _grid_of(name: str, grid: str) -> Callable[[int, float], list[float]]:
    if grid not in GRID_NAMES:
        raise ValueError(f"grid {grid!r} is not known: use one of {', '.join(GRID_NAMES)}")
    if grid not in SOLVERS[name].grids:
        raise ValueError(
            f"grid {grid!r} is not offered for {name!r}: there diffusers shifts twice and feeds "
            "fractional timesteps; use grid 'wan' or give sigmas"
        )
    return SOLVERS[name].grids[grid]


def _timestep(sigma: float, *, fractional: bool) -> float:
    timestep = sigma * TRAIN_TIMESTEPS
    # an int, not a float that is whole: keys tell 599 from 599.0
    return to_float32(timestep) if fractional else int(timestep)


def redirected(course: Course, at: int, other: Course) -> Course:
    """`course` for its first `at` steps, then on as `other` would.

    The noise level that was reached takes the place of the level of `other` nearest to it, and the run goes
    on with those below: a step of a hair's breadth, over which the next one would extrapolate, never comes
    up. The same solver goes on with its history of earlier predictions; another one starts anew, as it does
    at the first step of a run. With at = 0 nothing was done, and `other` is the whole.

    Raises ValueError where `at` is not a step of the course, or lies before a step at which it changed.
    """
    if not 0 <= at < course.num_steps:
        raise ValueError(f"step {at} of {course.num_steps}: expected 0 to {course.num_steps - 1}")
    if at < course.begun:
        raise ValueError(f"step {at}: the course changed at step {course.begun} already")
    if at == 0:
        return other
    reached = course.sigmas[at]
    following = _following(reached, other.sigmas)
    sigmas = (*course.sigmas[: at + 1], *other.sigmas[following:])
    timesteps = (*course.timesteps[: at + 1], *other.timesteps[following:])
    # the weights of a multistep solver depend on all levels since it began
    begun = course.begun if other.name == course.name else at
    remaining = SOLVERS[other.name].updates(sigmas[begun:])[at - begun :]
    return Course(other.name, sigmas, timesteps, (*course.updates[:at], *remaining), begun)


def course_from(course: Course, at: int) -> Course:
    """The steps of a course from `at` on as a course of its own: partial denoising, video to video.

    Its first sigma is the noise level that the latents must have then. The solver begins anew there, without
    history, as at the first step of a run; with at = 0 it is the course itself.

    Raises ValueError where `at` is not a step of the course, or lies before a step at which it changed.
    """
    if not 0 <= at < course.num_steps:
        raise ValueError(f"step {at} of {course.num_steps}: expected 0 to {course.num_steps - 1}")
    if at < course.begun:
        raise ValueError(f"step {at}: the course changed at step {course.begun} already")
    sigmas = course.sigmas[at:]
    return Course(course.name, sigmas, course.timesteps[at:], SOLVERS[course.name].updates(sigmas))


def _following(reached: float, sigmas: Sequence[float]) -> int:
    """Index of the level to go to next: the first below `reached`, or, where `reached` is nearer to that one
    than to the level above it, the one after."""
    first = next(index for index, sigma in enumerate(sigmas) if sigma < reached)
    if first == len(sigmas) - 1:
        return first
    # above the first level, as if they went on with the same spacing
    above = sigmas[first - 1] if first else 2 * sigmas[0] - sigmas[1]
    return first + 1 if reached - sigmas[first] < above - reached else first
