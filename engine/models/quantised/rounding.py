"""Numbers into fewer bits, each row with a scale of its own, and the rotation that some of them had before.

int8: codes from -127 to 127, scale = largest magnitude of the row / 127, ties to even, as ComfyUI's. fp8: e4m3, scale =
largest magnitude / 448, as torch rounds.
"""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
_LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
# of a row of zeros, so that nothing is divided by zero
_LEAST_SCALE = 1e-30


def rounded_rows(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[..., K] in any floating dtype -> (codes [..., K] in `dtype`, int8 or float8_e4m3fn; scale fp32 [..., 1]).

    codes * scale is nearest to the values. Of what is not finite the scale is not finite either.
    """
    most = _LARGEST[dtype]
    values = values.float()
    scale = (values.abs().amax(-1, keepdim=True) / most).clamp(min=_LEAST_SCALE)
    codes = (values / scale).clamp(-most, most)
    return (codes.round() if dtype == torch.int8 else codes).to(dtype), scale


def rotated(values: Tensor, group: int) -> Tensor:
    """Each `group` columns of [..., K] rotated together, in the dtype of the values. group: a power of 4.

    The rotation is the Kronecker power of a Hadamard matrix of order 4, ones but for -1 on the anti-diagonal, over
    sqrt(group): symmetric and orthogonal, it is its own inverse. Source: ComfyUI's `int8_tensorwise` with `convrot`.
    """
    power = (group.bit_length() - 1) // 2
    turned = values.unflatten(-1, (-1, *[4] * power))
    for axis in range(-power, 0):
        a, b, c, d = turned.unbind(axis)
        total = (a + b) + (c + d)
        turned = torch.stack([total - 2 * d, total - 2 * c, total - 2 * b, total - 2 * a], axis)
    return turned.flatten(-power - 1) / 2**power
