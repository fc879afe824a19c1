"""UniPC of order 2 (bh2, x0 prediction) on flow-matching sigmas, predictor and corrector merged.

Zhao et al. 2023, arXiv:2302.04867, algorithms 5 to 8, with the settings of the published Wan 2.1
solver `fm_solvers_unipc.py`: order 1 on the first and the last step, the corrector always on.

The published code keeps the state before the predictor, so that the corrector can redo the step.
That is not needed: predictor and corrector start from the same state and share every term but
two, so the corrected latents are the predicted ones plus a combination of x0 predictions. With
the next predictor applied to that, a whole step is one linear combination of the latents and
three predictions, two of them history.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.schedulers.update import Update, combined, final_update, log_snr

if TYPE_CHECKING:
    from collections.abc import Sequence


def unipc_updates(sigmas: Sequence[float]) -> tuple[Update, ...]:
    """The updates of UniPC-2.

    With `a = sigma_next / sigma`, `m_k` the x0 prediction at step k and lambda the half log-SNR,
    step i first corrects and then predicts:

        x_c  = x + (1 - a_{i-1}) * ((rho_0 - 1/2) * D + rho_1 * (m_i - m_{i-1}))
        next = a_i * x_c + (1 - a_i) * (m_i + (m_{i-1} - m_i) / (2 * r_i))

    with `D = (m_{i-2} - m_{i-1}) / r_{i-1}`, r from `step_ratio` and rho, the solution of the
    corrector's order conditions, from `corrector_weights`.

    Args:
        sigmas: num_steps + 1 noise levels, strictly descending in (0, 1], then 0.

    Returns:
        num_steps updates. The latents after each are the predictor's, as in the published code.
    """
    last = len(sigmas) - 2
    return tuple(
        final_update(sigmas[index]) if index == last else _update(sigmas, index)
        for index in range(last + 1)
    )


def _update(sigmas: Sequence[float], index: int) -> Update:
    sigma = sigmas[index]
    decay = sigmas[index + 1] / sigma
    gain = 1.0 - decay
    if index == 0:
        return combined(sigma, decay, (gain,))
    half = 0.5 / step_ratio(sigmas, index)
    now, before, earlier = _correction(sigmas, index)
    return combined(
        sigma,
        decay,
        (
            decay * now + gain * (1.0 - half),
            decay * before + gain * half,
            decay * earlier,
        ),
    )


def _correction(sigmas: Sequence[float], index: int) -> tuple[float, float, float]:
    """Weights of m_i, m_{i-1}, m_{i-2} in what the corrector adds to the predicted latents.

    The corrector repeats the step from `index - 1` to `index` at the order its predictor had.
    """
    gain = 1.0 - sigmas[index] / sigmas[index - 1]
    if index == 1:
        return 0.5 * gain, -0.5 * gain, 0.0
    ratio = step_ratio(sigmas, index - 1)
    h = log_snr(sigmas[index]) - log_snr(sigmas[index - 1])
    rho_history, rho_now = corrector_weights(ratio, h)
    now = gain * rho_now
    earlier = gain * (rho_history - 0.5) / ratio
    return now, -now - earlier, earlier


def step_ratio(sigmas: Sequence[float], index: int) -> float:
    """r = (lambda_{index-1} - lambda_index) / (lambda_{index+1} - lambda_index), below 0.

    -inf when sigma_{index-1} is 1: a step from infinitely far away tells nothing about the slope,
    and everything divided by it drops out.
    """
    here = log_snr(sigmas[index])
    return (log_snr(sigmas[index - 1]) - here) / (log_snr(sigmas[index + 1]) - here)


def corrector_weights(ratio: float, h: float) -> tuple[float, float]:
    """rho_0 (of the older difference) and rho_1 (of the new one) of the order-2 corrector.

    They solve `rho_0 + rho_1 = b_1` and `ratio * rho_0 + rho_1 = b_2` with
    `b_k = k! * phi_{k+1}(-h) / phi_1(-h)` (bh2). Both b tend to 1 for large h, to 1/2 and 1/3 for
    small h.

    Args:
        ratio: r of the step, below 0, may be -inf.
        h: length of the step in half log-SNR, finite, above 0.
    """
    phi_1, phi_2, phi_3 = phi_functions(-h)
    b_1, b_2 = phi_2 / phi_1, 2.0 * phi_3 / phi_1
    rho_history = (b_1 - b_2) / (1.0 - ratio)
    return rho_history, b_1 - rho_history


def phi_functions(z: float) -> tuple[float, float, float]:
    """phi_1, phi_2, phi_3 of exponential integrators: `phi_k(z) = sum over n of z^n / (n + k)!`.

    The recurrence `phi_{k+1} = (phi_k - 1 / k!) / z` loses all digits near 0, so the series is
    summed there. Accurate to about 1e-14 for every finite z <= 0.
    """
    if abs(z) < 1.0:
        phi_3 = sum(z**n / math.factorial(n + 3) for n in range(20))
        phi_2 = 0.5 + z * phi_3
        return 1.0 + z * phi_2, phi_2, phi_3
    phi_1 = math.expm1(z) / z
    phi_2 = (phi_1 - 1.0) / z
    return phi_1, phi_2, (phi_2 - 0.5) / z
