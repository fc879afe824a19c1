"""Euler's method on the probability-flow equation dx/dsigma = v: first order, no history."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from engine.schedulers.update import Update

if TYPE_CHECKING:
    from collections.abc import Sequence


def euler_updates(sigmas: Sequence[float]) -> tuple[Update, ...]:
    """The updates `x + (sigma_next - sigma) * v`.

    Args:
        sigmas: num_steps + 1 noise levels, strictly descending in (0, 1], then 0.

    Returns:
        num_steps updates. In terms of x0 this is the first-order DPM-Solver++ (and DDIM).
    """
    return tuple(
        Update(sigma=sigma, latents=1.0, velocity=following - sigma)
        for sigma, following in pairwise(sigmas)
    )
