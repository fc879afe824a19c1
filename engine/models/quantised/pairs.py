"""Numbers of 4 bits, two in a byte, into numbers in torch, on whatever device they lie."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# e2m1: a sign, two bits of exponent, one of mantissa
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def of_pairs(pairs: Tensor) -> Tensor:
    """uint8 [rows, n], two numbers of 4 bits (e2m1) in each, the first in the upper half -> fp32 [rows, 2 n]."""
    both = torch.stack((pairs >> 4, pairs & 15), -1).flatten(1)
    numbers = torch.tensor((*_E2M1, *(-number for number in _E2M1)), device=pairs.device)
    return F.embedding(both.int(), numbers.unsqueeze(-1)).squeeze(-1)
