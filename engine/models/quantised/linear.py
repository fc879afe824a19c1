"""A linear layer whose weight stays as it is stored and becomes numbers at each call.

Its parameters are plain tensors, so that whatever moves, counts or compares those of a module sees nothing special: the
codes under `weight`, what they are multiplied by under `weight_scale` (and where that is multiplied itself, by
`weight_scale_2`), and `bias`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.quantised.gguf_blocks import unpacked
from engine.models.quantised.pairs import of_pairs
from engine.models.quantised.products import (
    fp8_linear,
    int8_linear,
    multiplies_fp8,
    rounded_and_back,
)
from engine.models.quantised.rounding import rotated
from engine.models.quantised.scheme import Scheme

# how many weights become fp32 at a time on their way to the dtype of the model
SLICE_WEIGHTS = 1 << 24


class QuantLinear(nn.Module):
    """x [..., in] -> [..., out], with the numbers of an `nn.Linear` that has `numbers()` as its weight.

    With `rounds_activations` (weights of int8 or fp8 with a scale for the tensor or for each row) they are those of
    `engine.models.quantised.products` instead.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        like: nn.Linear,
        scheme: Scheme,
        dtype: torch.dtype,
        held: Mapping[str, Tensor],
    ) -> None:
        """like: whose place it takes. dtype: of the weights once they are numbers. held: the tensors by their names."""
        super().__init__()
        self.scheme, self.dtype = scheme, dtype
        self.in_features, self.out_features = like.in_features, like.out_features
        for name, tensor in held.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        self.register_parameter("bias", like.bias)

    @property
    def scale(self) -> Tensor | None:
        """fp32 [1, 1], [out, 1] or [blocks downwards, blocks across]; None where the codes are the numbers."""
        scale, second = (self._parameters.get(name) for name in ("weight_scale", "weight_scale_2"))
        if scale is None:
            return None
        return scale.float() if second is None else scale.float() * second

    def forward(self, x: Tensor) -> Tensor:
        if not self.scheme.rounds_activations:
            return F.linear(x, self.numbers(), self.bias)
        scale = self.scale
        if scale is None:
            scale = torch.ones(1, device=x.device)
        if self.weight.dtype == torch.int8:
            turned = x if not self.scheme.rotation else rotated(x.float(), self.scheme.rotation)
            return int8_linear(turned, self.weight, scale, self.bias).to(x.dtype)
        if multiplies_fp8(x, self.weight):
            return fp8_linear(x, self.weight, scale, self.bias)
        return F.linear(rounded_and_back(x, torch.float8_e4m3fn), self.numbers(), self.bias)

    def numbers(self) -> Tensor:
        """The weight [out, in] in the dtype of the model: the codes times their scale in fp32, rounded once."""
        rows = max(1, SLICE_WEIGHTS // self.in_features)
        together = max(1, self.scheme.block[0])
        rows = -(-rows // together) * together
        if rows >= self.out_features:
            return self._rows(0, self.out_features).to(self.dtype)
        found = torch.empty(
            self.out_features, self.in_features, dtype=self.dtype, device=self.weight.device
        )
        for first in range(0, self.out_features, rows):
            last = min(first + rows, self.out_features)
            found.narrow(0, first, last - first).copy_(self._rows(first, last))
        return found

    def _rows(self, first: int, last: int) -> Tensor:
        codes = self.weight.narrow(0, first, last - first)
        if self.scheme.blocks:
            return unpacked(self.scheme.blocks, codes.flatten(0, 1)).view(len(codes), -1)
        rows, scale = self.scheme.block[0], self.scale
        if scale is not None and rows:
            scale = scale.narrow(0, first // rows, -(-last // rows) - first // rows)
        return weights_of(codes, scale, self.scheme)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.weight.dtype}, {self.scheme}"


def weights_of(codes: Tensor, scale: Tensor | None, scheme: Scheme) -> Tensor:
    """codes [R, K] (pairs: [R, K / 2]) and their scale, fp32 as of `QuantLinear.scale` -> weights fp32 [R, K]."""
    values = of_pairs(codes) if scheme.pairs else codes.float()
    if scale is not None:
        values = values * spread(scale, scheme.block, values.shape)
    # in fp64 its sums are exact, so that the order in which a machine adds changes no bit
    return rotated(values.double(), scheme.rotation).float() if scheme.rotation else values


def spread(scale: Tensor, block: tuple[int, int], shape: torch.Size) -> Tensor:
    """A number for each block of a matrix -> what multiplies the matrix, [1|R, 1|K]."""
    rows, columns = block
    if rows > 1:
        scale = scale.repeat_interleave(rows, 0).narrow(0, 0, shape[0])
    if columns > 1:
        scale = scale.repeat_interleave(columns, 1).narrow(1, 0, shape[1])
    return scale
