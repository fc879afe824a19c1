"""A block's parameters in one piece of memory, so that it is copied by one call."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.models.swap.residency import aligned


@dataclass(frozen=True)
class Piece:
    """A parameter in a slab. start: in bytes."""

    name: str
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Slab:
    """Where each parameter of a block lies; blocks that are alike have equal ones."""

    pieces: tuple[Piece, ...]

    @property
    def num_bytes(self) -> int:
        return aligned(self.pieces[-1].stop) if self.pieces else 0

    def views(self, memory: Tensor) -> dict[str, Tensor]:
        """The parameters in `memory`, uint8 of at least `num_bytes`."""
        return {
            piece.name: memory[piece.start : piece.stop].view(piece.dtype).view(piece.shape)
            for piece in self.pieces
        }


def slab_of(block: nn.Module) -> Slab:
    """The parameters of a block, which may be on the meta device, in their order."""
    pieces: list[Piece] = []
    start = 0
    for name, parameter in block.named_parameters():
        pieces.append(Piece(name, start, tuple(parameter.shape), parameter.dtype))
        start = aligned(pieces[-1].stop)
    return Slab(tuple(pieces))
