"""Blocks of GGUF into numbers in torch, on whatever device they lie: bit for bit those of the package `gguf`.

What each block holds is ggml's (`ggml-quants.c`). Weights come in fp32, each operation rounded by itself, so that a
device changes no bit. Nothing here looks at a number, and so it runs on tensors that hold none.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# what the codes of the IQ4 types stand for
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def unpacked(kind: str, blocks: Tensor) -> Tensor:
    """blocks: uint8 [N, bytes of a block of this type] -> fp32 [N, weights of a block].

    kind: one of UNPACKED, by its name in GGUF.
    """
    return UNPACKED[kind](blocks)


def _q4_0(blocks: Tensor) -> Tensor:
    d, codes = blocks.split([2, 16], -1)
    return _half(d) * (_nibbles(codes, 16).to(torch.int8) - 8).float()


def _q4_1(blocks: Tensor) -> Tensor:
    d, m, codes = blocks.split([2, 2, 16], -1)
    return _half(d) * _nibbles(codes, 16).float() + _half(m)


def _q5_0(blocks: Tensor) -> Tensor:
    d, high, low = blocks.split([2, 4, 16], -1)
    codes = _nibbles(low, 16) | _bits(high) << 4
    return _half(d) * (codes.to(torch.int8) - 16).float()


def _q5_1(blocks: Tensor) -> Tensor:
    d, m, high, low = blocks.split([2, 2, 4, 16], -1)
    codes = _nibbles(low, 16) | _bits(high) << 4
    return _half(d) * codes.float() + _half(m)


def _q8_0(blocks: Tensor) -> Tensor:
    d, codes = blocks.split([2, 32], -1)
    return codes.view(torch.int8).float() * _half(d)


def _q2_k(blocks: Tensor) -> Tensor:
    scales, codes, d, least = blocks.split([16, 64, 2, 2], -1)
    each = (_half(d) * (scales & 15).float()).unsqueeze(-1)
    offset = (_half(least) * (scales >> 4).float()).unsqueeze(-1)
    numbers = (_shifted(codes, 32, 8, 2) & 3).reshape(-1, 16, 16).float()
    return (each * numbers - offset).flatten(1)


def _q3_k(blocks: Tensor) -> Tensor:
    high, codes, scales, d = blocks.split([32, 64, 12, 2], -1)
    low_scales, high_scales = scales.split([8, 4], -1)
    scale = _nibbles(low_scales, 8) | (_shifted(high_scales, 4, 8, 2).flatten(1) & 3) << 4
    each = (_half(d) * (scale.to(torch.int8) - 32).float()).unsqueeze(-1)
    low = (_shifted(codes, 32, 8, 2) & 3).reshape(-1, 16, 16)
    is_lower = (_shifted(high, 32, 8, 1) & 1 ^ 1).reshape(-1, 16, 16)
    numbers = low.to(torch.int8) - (is_lower << 2).to(torch.int8)
    return (each * numbers.float()).flatten(1)


def _q4_k(blocks: Tensor) -> Tensor:
    d, least, scales, codes = blocks.split([2, 2, 12, 128], -1)
    each, offset = _scales_k(d, least, scales)
    return (each * _nibbles(codes, 32).view(-1, 8, 32).float() - offset).flatten(1)


def _q5_k(blocks: Tensor) -> Tensor:
    d, least, scales, high, low = blocks.split([2, 2, 12, 32, 128], -1)
    each, offset = _scales_k(d, least, scales)
    highest = (_shifted(high, 32, 8, 1) & 1).reshape(-1, 8, 32)
    codes = _nibbles(low, 32).view(-1, 8, 32) | highest << 4
    return (each * codes.float() - offset).flatten(1)


def _q6_k(blocks: Tensor) -> Tensor:
    low, high, scales, d = blocks.split([128, 64, 16, 2], -1)
    each = (_half(d) * scales.view(torch.int8).float()).unsqueeze(-1)
    highest = (_shifted(high, 32, 8, 2) & 3).reshape(-1, 8, 32)
    codes = _nibbles(low, 64).view(-1, 8, 32) | highest << 4
    numbers = (codes.to(torch.int8) - 32).view(-1, 16, 16)
    return (each * numbers.float()).flatten(1)


def _iq4_nl(blocks: Tensor) -> Tensor:
    d, codes = blocks.split([2, 16], -1)
    return _half(d) * _looked_up(_nibbles(codes, 16))


def _iq4_xs(blocks: Tensor) -> Tensor:
    d, high_scales, low_scales, codes = blocks.split([2, 2, 4, 128], -1)
    low = torch.stack([low_scales & 15, low_scales >> 4], -1).flatten(1)
    high = _shifted(high_scales.unsqueeze(-1), 1, 8, 2).flatten(1) & 3
    each = (_half(d) * ((low | high << 4).to(torch.int8) - 32).float()).unsqueeze(-1)
    return (each * _looked_up(_nibbles(codes, 16)).view(-1, 8, 32)).flatten(1)


UNPACKED: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0,
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs,
}  # fmt: skip


def _half(pair: Tensor) -> Tensor:
    """Two bytes [N,2] -> the fp16 number that they are, fp32 [N,1]."""
    return pair.clone(memory_format=torch.contiguous_format).view(torch.float16).float()


def _nibbles(codes: Tensor, run: int) -> Tensor:
    """uint8 [N,n] -> [N,2n]: of each `run` bytes the low halves, then the high ones."""
    runs = codes.unflatten(-1, (-1, run))
    return torch.stack([runs & 15, runs >> 4], -2).flatten(1)


def _shifted(codes: Tensor, run: int, stop: int, step: int) -> Tensor:
    """uint8 [N,n] -> [N, n/run, stop/step, run]: each `run` bytes shifted down by 0, step, ... below stop."""
    shifts = torch.arange(0, stop, step, dtype=torch.uint8, device=codes.device)
    return codes.reshape(len(codes), -1, 1, run) >> shifts.unsqueeze(-1)


def _bits(codes: Tensor) -> Tensor:
    """uint8 [N,n] -> [N,8n], each 0 or 1, the lowest bit of each byte first."""
    return (_shifted(codes, 1, 8, 1) & 1).flatten(1)


def _scales_k(d: Tensor, least: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """What eight groups of 32 weights are multiplied with, and what is taken off then: 6 bits each in 12 bytes."""
    first, second, rest = scales.split([4, 4, 4], -1)
    scale = torch.cat([first & 63, (rest & 15) | (first >> 2 & 48)], -1)
    offset = torch.cat([second & 63, (rest >> 4) | (second >> 2 & 48)], -1)
    return (_half(d) * scale.float()).unsqueeze(-1), (_half(least) * offset.float()).unsqueeze(-1)


def _looked_up(codes: Tensor) -> Tensor:
    table = torch.tensor(_IQ4, dtype=torch.float32, device=codes.device)
    return torch.nn.functional.embedding(codes.int(), table.unsqueeze(-1)).squeeze(-1)
