"""The noise of stochastic solvers: a function of the seed and the step, so that no generator has a state to keep."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


def step_noise(
    seed: int,
    step: int,
    shape: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Standard normal noise of one step.

    Drawn on the CPU in float32 and then moved, the same for every device. Any step can be drawn alone, and runs
    of one seed have the same noise at the same step.

    Args:
        seed: of the run, 0 to 2**64 - 1.
        step: from 0, below 2**63.
        shape: of the latents.
    """
    generator = torch.Generator("cpu").manual_seed(mixed_seed(seed, step))
    drawn = torch.randn(tuple(shape), generator=generator, device="cpu", dtype=torch.float32)
    return drawn.to(device=device, dtype=dtype)


def mixed_seed(seed: int, step: int) -> int:
    """The generator's seed for a step, 0 to 2**63 - 1.

    The first 8 bytes, little-endian and without their top bit, of the SHA-256 of `modiff step noise` and both
    numbers as 8 bytes, little-endian. A sum of the two would give step 1 of seed 7 the noise of step 0 of
    seed 8, and step 0 the initial noise.
    """
    told = b"modiff step noise" + seed.to_bytes(8, "little") + step.to_bytes(8, "little")
    return int.from_bytes(hashlib.sha256(told).digest()[:8], "little") % 2**63
