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
    updates: the weights of each step.
    """

    name: str
    sigmas: tuple[float, ...]
    timesteps: tuple[int, ...]
    updates: tuple[Update, ...]

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

    The noise level that was reached stays; from there on the run visits those levels of `other` that
    lie below it. The same solver goes on with its history of earlier predictions; another one starts
    anew, as it does at the first step of a run. With at = 0 nothing was done, and `other` is the whole.

    Raises ValueError where `at` is not a step of the course, or no level is left.
    """
    if not 0 <= at < course.num_steps:
        raise ValueError(f"step {at} of {course.num_steps}: expected 0 to {course.num_steps - 1}")
    if at == 0 or (other.name, other.sigmas) == (course.name, course.sigmas):
        return other
    reached = course.sigmas[at]
    below = [index for index, sigma in enumerate(other.sigmas) if sigma < reached]
    sigmas = (*course.sigmas[: at + 1], *(other.sigmas[index] for index in below))
    timesteps = (*course.timesteps[: at + 1], *other.timesteps[below[0] :])
    if other.name == course.name:
        remaining = SOLVERS[other.name](sigmas)[at:]
    else:
        remaining = SOLVERS[other.name](sigmas[at:])
    return Course(other.name, sigmas, timesteps, (*course.updates[:at], *remaining))
