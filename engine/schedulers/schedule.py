"""Sigma grids: which noise levels a run visits.

The arithmetic is that of the published code, in float64 and in its order of operations, because a
timestep is a truncation: one unit in the last place decides between 600 and 599. Torch-free.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TRAIN_TIMESTEPS = 1000


def to_float32(value: float) -> float:
    """The nearest number that float32 has."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


# The published UniPC takes its largest sigma from a table that it has rounded to float32.
UNIPC_SIGMA_MAX = to_float32(1.0 - 1.0 / TRAIN_TIMESTEPS)


def shift_sigma(sigma: float, shift: float) -> float:
    """Move a noise level in [0, 1] towards 1 (shift > 1) or 0 (shift < 1); 0 and 1 stay.

    `shift * sigma / (1 + (shift - 1) * sigma)`, the timestep shift of Stable Diffusion 3
    (Esser et al. 2024, arXiv:2403.03206, section 5.3.2) as Wan 2.1 applies it.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def linear_grid(start: float, stop: float, num_steps: int) -> list[float]:
    """The first `num_steps` of `num_steps + 1` evenly spaced values from `start` to `stop`."""
    stride = (stop - start) / num_steps
    return [index * stride + start for index in range(num_steps)]


def wan_unipc_sigmas(num_steps: int, shift: float) -> list[float]:
    """Grid of the published `fm_solvers_unipc.py`: shifted, evenly spaced from 0.999 towards 0."""
    return [shift_sigma(s, shift) for s in linear_grid(UNIPC_SIGMA_MAX, 0.0, num_steps)]


def wan_linear_sigmas(num_steps: int, shift: float) -> list[float]:
    """Grid that the published pipeline hands to `fm_solvers.py`: shifted, from exactly 1 towards 0.

    Wan 2.1 publishes no Euler sampler; ours runs on this grid.
    """
    return [shift_sigma(s, shift) for s in linear_grid(1.0, 0.0, num_steps)]


def diffusers_unipc_sigmas(num_steps: int, shift: float) -> list[float]:
    """Grid of diffusers' `UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=shift)`.

    Evenly spaced from 1 towards 0.001, shifted; a first value within 1e-6 of 1 is lowered by 1e-6.
    """
    sigmas = [shift_sigma(s, shift) for s in linear_grid(1.0, 1.0 / TRAIN_TIMESTEPS, num_steps)]
    if abs(sigmas[0] - 1.0) < 1e-6:
        sigmas[0] -= 1e-6
    return sigmas


def diffusers_dpm_sigmas(num_steps: int, shift: float) -> list[float]:
    """Grid of diffusers' `DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=shift)`.

    One minus an even spacing from 1 to 0.001, reversed and shifted: from 0.999 towards 0.
    """
    stride = (1.0 / TRAIN_TIMESTEPS - 1.0) / num_steps
    alphas = [index * stride + 1.0 for index in range(num_steps)] + [1.0 / TRAIN_TIMESTEPS]
    return [shift_sigma(1.0 - alpha, shift) for alpha in reversed(alphas[1:])]


def grid_sigmas(
    grid: Callable[[int, float], list[float]], num_steps: int, shift: float
) -> list[float]:
    """The noise levels of a grid, without the final 0 and not yet rounded to float32.

    Args:
        grid: one of the functions above.
        num_steps: at least 1.
        shift: finite, above 0; 1 leaves the spacing even.

    Raises:
        ValueError: for values out of range, or a shift so far from 1 that float32 cannot tell
            neighbouring sigmas apart.
    """
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"num_steps is {num_steps!r}: expected a whole number of at least 1")
    if not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"shift is {shift!r}: expected a finite number above 0")
    values = grid(num_steps, float(shift))
    if _first_flaw(values) is not None:
        raise ValueError(
            f"shift {shift!r} with {num_steps} steps puts sigmas closer together than float32 "
            "can tell: use a shift nearer to 1 or fewer steps"
        )
    return values


def custom_sigmas(sigmas: Sequence[float]) -> list[float]:
    """Given noise levels, taken as they are: nothing is shifted.

    Args:
        sigmas: at least one value, strictly descending in (0, 1] (also once rounded to float32),
            without the final 0, which is added.

    Raises:
        ValueError: naming the first value that breaks this.
    """
    values = [float(sigma) for sigma in sigmas]
    if not values:
        raise ValueError("sigmas is empty: expected at least one noise level in (0, 1]")
    flaw = _first_flaw(values)
    if flaw is not None:
        before = f" after {values[flaw - 1]!r}" if flaw else ""
        raise ValueError(
            f"sigmas[{flaw}] is {values[flaw]!r}{before}: expected strictly descending noise "
            "levels in (0, 1] without the final 0"
        )
    return values


def _first_flaw(values: list[float]) -> int | None:
    """Index of the first value that, in float32, is not in (0, 1] or not below the one before."""
    above = math.nextafter(1.0, 2.0)
    for index, sigma in enumerate(_rounded(values)):
        if not 0.0 < sigma < above:
            return index
        above = sigma
    return None


def _rounded(values: list[float]) -> list[float]:
    """Each value as float32 has it; NaN where it is too large for that."""
    return [to_float32(value) if abs(value) < 1e30 else math.nan for value in values]
