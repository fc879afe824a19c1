"""One solver step as data: the weights of a linear combination.

Every solver here is linear in the latents, the velocity, the model's earlier predictions of the
clean latents (x0) and, where it is stochastic, fresh noise, with weights that depend on the sigmas
alone. So a solver is a function from sigmas to updates, and stepping is the same few lines for all
of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Update:
    """Weights of the step that leaves noise level `sigma`.

    The next latents are `latents * x + velocity * v + sum(x0[k] * prediction[k]) + noise * n`,
    where `prediction[0] = x - sigma * v` is this step's estimate of the clean latents,
    `prediction[k]` that of the k-th step before and `n` standard normal (`noise.step_noise`).
    Float64 values; `x0` may be empty, and `noise` is 0 for a solver that is not stochastic.
    """

    sigma: float
    latents: float
    velocity: float = 0.0
    x0: tuple[float, ...] = ()
    noise: float = 0.0


def log_snr(sigma: float) -> float:
    """Half the log signal-to-noise ratio `ln((1 - sigma) / sigma)` of a sigma in [0, 1].

    The solvers' time axis, called lambda in the papers; +inf at sigma 0 and -inf at sigma 1.
    """
    if sigma == 0.0:
        return math.inf
    if sigma == 1.0:
        return -math.inf
    return math.log1p(-sigma) - math.log(sigma)


def final_update(sigma: float) -> Update:
    """The step from `sigma` to 0: it returns the clean prediction `x - sigma * v` exactly."""
    return Update(sigma=sigma, latents=1.0, velocity=-sigma)


def combined(sigma: float, latents: float, x0: tuple[float, ...], *, noise: float = 0.0) -> Update:
    """An update in the latents and the predictions, without weights that are zero at the end."""
    while x0 and x0[-1] == 0.0:
        x0 = x0[:-1]
    return Update(sigma=sigma, latents=latents, x0=x0, noise=noise)


def history_lengths(updates: tuple[Update, ...]) -> tuple[int, ...]:
    """How many earlier predictions the state needs before each step, and after the last (0).

    A prediction is kept only while a later step still weighs it, so that a stored state is as
    small as it can be.
    """
    needed = [0]
    for update in reversed(updates):
        needed.append(max(len(update.x0) - 1, needed[-1] - 1, 0))
    return tuple(reversed(needed))
