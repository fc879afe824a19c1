"""A whole run's noise levels and solver weights as plain numbers: what a plan and its keys are made of. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.schedulers.euler import euler_updates
from engine.schedulers.flow_dpm import dpm_updates
from engine.schedulers.flow_unipc import unipc_updates
from engine.schedulers.schedule import custom_schedule, grid_schedule
from engine.schedulers.update import Update

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SOLVERS: dict[str, Callable[[Sequence[float]], tuple[Update, ...]]] = {
    "unipc": unipc_updates,
    "dpm++": dpm_updates,
    "euler": euler_updates,
}
SCHEDULERS = tuple(SOLVERS)


@dataclass(frozen=True)
class Course:
    """The way from noise to latents.

    name: the solver, of the last part where it changed on the way. sigmas: num_steps + 1 noise levels,
    each a float32, strictly descending, the last 0. timesteps: num_steps, what the model is fed.
    updates: the weights of each step. begun: the step at which that solver began, without history.
    """

    name: str
    sigmas: tuple[float, ...]
    timesteps: tuple[int, ...]
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
) -> Course:
    """The course of a solver; arguments and errors as of `create_scheduler`."""
    if name not in SOLVERS:
        raise ValueError(f"scheduler {name!r} is not known: use one of {', '.join(SCHEDULERS)}")
    if sigmas is not None:
        schedule = custom_schedule(sigmas)
        if num_steps is not None and num_steps != len(schedule.timesteps):
            raise ValueError(
                f"num_steps is {num_steps!r} but {len(schedule.timesteps)} sigmas are given: "
                "leave num_steps out or make them equal"
            )
    elif num_steps is None:
        raise ValueError("neither num_steps nor sigmas is given: expected one of them")
    else:
        schedule = grid_schedule(name, grid, num_steps, shift)
    # From the rounded sigmas: they are the schedule, the unrounded ones exist nowhere else.
    updates = SOLVERS[name](schedule.sigmas)
    return Course(name, schedule.sigmas, schedule.timesteps, updates)


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
    remaining = SOLVERS[other.name](sigmas[begun:])[at - begun :]
    return Course(other.name, sigmas, timesteps, (*course.updates[:at], *remaining), begun)


def _following(reached: float, sigmas: Sequence[float]) -> int:
    """Index of the level to go to next: the first below `reached`, or, where `reached` is nearer to that one
    than to the level above it, the one after."""
    first = next(index for index, sigma in enumerate(sigmas) if sigma < reached)
    if first == len(sigmas) - 1:
        return first
    # above the first level, as if they went on with the same spacing
    above = sigmas[first - 1] if first else 2 * sigmas[0] - sigmas[1]
    return first + 1 if reached - sigmas[first] < above - reached else first
