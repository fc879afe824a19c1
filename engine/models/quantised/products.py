"""Products of rounded activations with rounded weights.

Each token is rounded with a scale of its own, at each call. In int8 the sums are integers, and so the same on every
device and by every kernel; they are multiplied by both scales in fp32. In fp8 the sums are the device's own where it
multiplies fp8 (CUDA from compute capability 9.0, in bf16); elsewhere the rounded activations are multiplied in the
model's dtype with the unpacked weights: the same rounding of activations and weights, another order of sums.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.quantised.rounding import rounded_rows

# So many products of two int8 are whole numbers in fp32, whatever their order: 1024 * 127 * 128 < 2**24
_EXACT_COLUMNS = 1024
_CUDA_ROWS = 17  # `torch._int_mm` there takes no fewer


def int8_linear(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., K] in a floating dtype, codes int8 [N, K], scale fp32 with 1 or N numbers, bias [N] -> [..., N] in the
    dtype of x."""
    rounded, of_tokens = rounded_rows(x, torch.int8)
    sums = integer_products(rounded.flatten(0, -2), codes).unflatten(0, x.shape[:-1])
    found = sums.float() * of_tokens * scale.flatten()
    return (found if bias is None else found + bias.float()).to(x.dtype)


def integer_products(a: Tensor, b: Tensor) -> Tensor:
    """int8 [M, K] and [N, K] -> their products of rows, int32 [M, N], exact."""
    rows, columns = a.shape
    if a.device.type == "cuda" and columns % 8 == 0 and len(b) % 8 == 0:
        a = F.pad(a, (0, 0, 0, max(0, _CUDA_ROWS - rows)))
        return torch._int_mm(a, b.t()).narrow(0, 0, rows)
    if a.device.type == "cpu" and _has_vnni():
        return torch._int_mm(a, b.t())
    # without such instructions torch's own is a loop, 20 times slower than this
    sums = torch.zeros(rows, len(b), dtype=torch.int32, device=a.device)
    for some, others in zip(a.split(_EXACT_COLUMNS, 1), b.split(_EXACT_COLUMNS, 1), strict=True):
        sums += F.linear(some.float(), others.float()).int()
    return sums


@cache
def _has_vnni() -> bool:
    """Whether this CPU multiplies int8."""
    return bool(getattr(torch.cpu, "_is_vnni_supported", lambda: False)())


def multiplies_fp8(x: Tensor, codes: Tensor) -> bool:
    """Whether the device of x has products of fp8 with a scale for each row, for these sizes."""
    return (
        x.dtype == torch.bfloat16
        and codes.dtype == torch.float8_e4m3fn
        and x.device.type == "cuda"
        and torch.cuda.is_available()
        and torch.version.hip is None  # AMD's e4m3 is another one
        and torch.cuda.get_device_capability(x.device) >= (9, 0)
        and all(size % 16 == 0 for size in codes.shape)
    )


def fp8_linear(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """As `int8_linear`, codes float8_e4m3fn, where `multiplies_fp8`."""
    rounded, of_tokens = rounded_rows(x, torch.float8_e4m3fn)
    of_rows = scale.flatten().expand(len(codes)).unsqueeze(0).clone()
    found = fp8_products(
        rounded.flatten(0, -2), codes, of_tokens.flatten(0, -2), of_rows, dtype=x.dtype
    )
    found = found.unflatten(0, x.shape[:-1])
    return found if bias is None else found + bias


def fp8_products(a: Tensor, b: Tensor, of_a: Tensor, of_b: Tensor, *, dtype: torch.dtype) -> Tensor:
    """float8_e4m3fn [M, K] and [N, K] with their scales fp32 [M, 1] and [1, N] -> [M, N] in `dtype`."""
    public = getattr(F, "scaled_mm", None)
    if public is None:  # before torch 2.10
        return torch._scaled_mm(a, b.t(), scale_a=of_a, scale_b=of_b, out_dtype=dtype)
    by_row = F.ScalingType.RowWise  # type: ignore[attr-defined]
    found: Tensor = public(a, b.t(), of_a, by_row, of_b, by_row, output_dtype=dtype)
    return found


def rounded_and_back(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Activations as they are after rounding each token, in their own dtype."""
    codes, scale = rounded_rows(x, dtype)
    return (codes.float() * scale).to(x.dtype)
