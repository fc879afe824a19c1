"""DPM-Solver++(2M), midpoint form, on flow-matching sigmas: second order, one earlier prediction.

Lu et al. 2022, arXiv:2211.01095, algorithm 2, with the settings of the published Wan 2.1 solver
`fm_solvers.py`: order 1 on the first and the last step. And its stochastic form,
SDE-DPM-Solver++(2M), as diffusers has it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.schedulers.update import Update, combined, final_update, log_snr

if TYPE_CHECKING:
    from collections.abc import Sequence


def dpm_updates(sigmas: Sequence[float]) -> tuple[Update, ...]:
    """The updates of DPM-Solver++(2M).

    With lambda the half log-SNR, `h = lambda_next - lambda` and `a = sigma_next / sigma`, the step
    is `a * x + (1 - a) * (m + (m - m_before) * h / (2 * h_before))`. The papers' factor
    `-alpha_next * (exp(-h) - 1)` is `1 - a` here because alpha = 1 - sigma, which holds at
    sigma 1 too. There lambda is -inf, so the second step's extrapolation vanishes.

    Args:
        sigmas: num_steps + 1 noise levels, strictly descending in (0, 1], then 0.

    Returns:
        num_steps updates.
    """
    last = len(sigmas) - 2
    return tuple(
        final_update(sigmas[index]) if index == last else _update(sigmas, index)
        for index in range(last + 1)
    )


def _update(sigmas: Sequence[float], index: int) -> Update:
    sigma, following = sigmas[index], sigmas[index + 1]
    decay = following / sigma
    gain = 1.0 - decay
    if index == 0:
        return combined(sigma, decay, (gain,))
    h = log_snr(following) - log_snr(sigma)
    h_before = log_snr(sigma) - log_snr(sigmas[index - 1])
    slope = h / (2.0 * h_before)
    return combined(sigma, decay, (gain * (1.0 + slope), -gain * slope))


def sde_dpm_updates(sigmas: Sequence[float]) -> tuple[Update, ...]:
    """The updates of SDE-DPM-Solver++(2M), midpoint form.

    With `h`, `a` as above and `e = exp(-h)` the step is `a * e * x + (1 - sigma_next) * (1 - e^2) *
    (m + (m - m_before) * h / (2 * h_before)) + sigma_next * sqrt(1 - e^2) * noise`, which is what
    diffusers calls `sde-dpmsolver++` and k-diffusion `dpmpp_2m_sde` at eta 1. At sigma 1 `e` is 0:
    the first step keeps nothing of the initial noise.

    Args:
        sigmas: num_steps + 1 noise levels, strictly descending in (0, 1], then 0.

    Returns:
        num_steps updates; the last has no noise.
    """
    last = len(sigmas) - 2
    return tuple(
        final_update(sigmas[index]) if index == last else _sde_update(sigmas, index)
        for index in range(last + 1)
    )


def _sde_update(sigmas: Sequence[float], index: int) -> Update:
    sigma, following = sigmas[index], sigmas[index + 1]
    h = log_snr(following) - log_snr(sigma)
    fresh = -math.expm1(-2.0 * h)
    latents = following / sigma * math.exp(-h)
    gain = (1.0 - following) * fresh
    noise = following * math.sqrt(fresh)
    if index == 0:
        return combined(sigma, latents, (gain,), noise=noise)
    slope = h / (2.0 * (log_snr(sigma) - log_snr(sigmas[index - 1])))
    return combined(sigma, latents, (gain * (1.0 + slope), -gain * slope), noise=noise)
