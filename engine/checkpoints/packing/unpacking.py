"""From stored numbers to those of a weight: scales of blocks, rotations. fp32 in, fp32 out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.checkpoints.packing.quantised import Packing

_AT_ONCE = 64  # columns that are rotated by one product of matrices; more add more than they save
_TILE_ROWS, _TILE_COLUMNS, _TILE_HEIGHT = 128, 4, 32
_NAN_BITS, _HALF_OF_SMALLEST_BITS = 0x7FC00000, 0x00400000


def of_exponents(stored: Tensor) -> Tensor:
    """uint8 of any shape, each the exponent of a power of two (e8m0) -> fp32: 2^(n - 127), 255 is NaN."""
    bits = stored.int() << 23
    bits[stored == 0] = _HALF_OF_SMALLEST_BITS  # 2^-127 is below the smallest normal number
    bits[stored == 255] = _NAN_BITS
    return bits.view(torch.float32)


def untiled(stored: Tensor, rows: int, columns: int) -> Tensor:
    """The numbers of `Packing.is_tiled`, in any shape -> [rows, columns], in the order of the blocks of a matrix."""
    down, across = -(-rows // _TILE_ROWS), -(-columns // _TILE_COLUMNS)
    inside = _TILE_ROWS // _TILE_HEIGHT
    tiles = stored.view(down, across, _TILE_HEIGHT, inside, _TILE_COLUMNS)
    whole = tiles.permute(0, 3, 2, 1, 4).reshape(down * _TILE_ROWS, across * _TILE_COLUMNS)
    return whole[:rows, :columns]


def scaled(values: Tensor, scales: Tensor, packing: Packing, first: int) -> Tensor:
    """fp32 rows of a weight, of which `first` is the number of the first, times the scales of their blocks.

    scales: fp32 [blocks downwards, blocks across].
    """
    rows, columns = packing.block
    at = torch.arange(first, first + len(values)) // rows if rows else slice(None)
    of_rows = scales[at]
    if columns:
        return (values.unflatten(1, (-1, columns)) * of_rows.unsqueeze(-1)).flatten(1)
    return values * of_rows.view(-1, *[1] * (values.ndim - 1))


def rotated_back(values: Tensor, group: int) -> Tensor:
    """fp32 rows whose columns were rotated in groups of `group`, a power of 4, before they were rounded, as of
    `engine.models.quantised.rounding.rotated`. In fp64 the sums of numbers with one scale are exact, so that no bit
    depends on the order in which a machine adds."""
    columns = min(group, _AT_ONCE)
    matrix = _hadamard(columns) / math.isqrt(group)
    turned = values.double().reshape(-1, columns) @ matrix
    while columns < group:
        fours = turned.view(-1, 4, columns)
        turned = torch.sub(fours.sum(1, keepdim=True), fours.flip(1), alpha=2)
        columns *= 4
    return turned.float().view(values.shape)


def _hadamard(order: int) -> Tensor:
    four = 1 - 2 * torch.eye(4, dtype=torch.float64).flip(0)
    whole = torch.ones(1, 1, dtype=torch.float64)
    while len(whole) < order:
        whole = torch.kron(whole, four)
    return whole
