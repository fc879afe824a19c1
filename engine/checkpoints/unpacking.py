"""From stored numbers to those of a weight: scales of blocks, rotations. fp32 in, fp32 out."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.checkpoints.quantised import Packing
from engine.models.quantised.rounding import rotated

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
    `engine.models.quantised.rounding.rotated`; in fp64, where sums are exact, so that no bit depends on the order in
    which a machine adds."""
    return rotated(values.double(), group).float()
