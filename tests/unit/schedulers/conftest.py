"""A flow whose exact solution is known: data drawn from a normal distribution.

The velocity is what a perfect model would give; it carries noise n to `mean + spread * n`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class GaussianFlow:
    """Flow from standard normal noise (sigma 1) to a normal distribution (sigma 0)."""

    mean: float = 0.7
    spread: float = 0.5

    def velocity(self, latents: torch.Tensor, sigma: float) -> torch.Tensor:
        """The expectation of noise minus data, given latents at a noise level."""
        variance = (1 - sigma) ** 2 * self.spread**2 + sigma**2
        offset = latents - (1 - sigma) * self.mean
        data = self.mean + (1 - sigma) * self.spread**2 * offset / variance
        return sigma * offset / variance - data

    def solution(self, latents: torch.Tensor, start: float, end: float) -> torch.Tensor:
        """Where latents at noise level `start` are at noise level `end`, exactly."""
        stretch = self._deviation(end) / self._deviation(start)
        return (1 - end) * self.mean + stretch * (latents - (1 - start) * self.mean)

    def _deviation(self, sigma: float) -> float:
        return math.sqrt((1 - sigma) ** 2 * self.spread**2 + sigma**2)


@pytest.fixture(scope="session")
def gaussian() -> GaussianFlow:
    return GaussianFlow()
