"""The parts that a clip is computed in: tiles of its frames, chunks of its time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

EXACT_OVERLAP = 112
"""Pixels by which tiles must overlap for their results to be those of whole frames, up to rounding: no position of
what tiles compute depends on one that is more than 56 pixels away."""


@dataclass(frozen=True)
class Span:
    """A window along one axis of the latent grid, and what of it is kept; the rest only is seen."""

    start: int
    stop: int
    kept_start: int
    kept_stop: int

    def window(self, scale: int) -> slice:
        return slice(self.start * scale, self.stop * scale)

    def kept(self, scale: int) -> slice:
        """In the whole grid."""
        return slice(self.kept_start * scale, self.kept_stop * scale)

    def inner(self, scale: int) -> slice:
        """In the window."""
        return slice((self.kept_start - self.start) * scale, (self.kept_stop - self.start) * scale)


@dataclass(frozen=True)
class Tile:
    """A window of the latent grid; scale: output cells per latent."""

    rows: Span
    columns: Span

    def window(self, scale: int) -> tuple[slice, slice]:
        return self.rows.window(scale), self.columns.window(scale)

    def kept(self, scale: int) -> tuple[slice, slice]:
        return self.rows.kept(scale), self.columns.kept(scale)

    def inner(self, scale: int) -> tuple[slice, slice]:
        return self.rows.inner(scale), self.columns.inner(scale)


def tiles_of(height: int, width: int, size: int, overlap: int) -> list[Tile]:
    """Equal windows over a latent grid, whose kept parts cover it once; none where one window has all of it.
    size, overlap: in pixels."""
    if size == 0:
        return []
    if size % 8 or overlap % 8 or not 0 <= overlap < size:
        raise ValueError(
            f"tile_size {size} and tile_overlap {overlap} must be multiples of 8 pixels with the "
            "overlap smaller than the tile"
        )
    if size // 8 >= max(height, width):
        return []
    return [
        Tile(rows, columns)
        for rows in _spans(height, size // 8, overlap // 8)
        for columns in _spans(width, size // 8, overlap // 8)
    ]


def _spans(size: int, tile: int, overlap: int) -> list[Span]:
    """Windows along one axis, each kept to the middle of what it shares with its neighbours; the last one ends at the
    border."""
    tile = min(tile, size)
    count = 1 if tile == size else math.ceil((size - overlap) / (tile - overlap))
    starts = [min(i * (tile - overlap), size - tile) for i in range(count)]
    cuts = [0, *((before + tile + after) // 2 for before, after in pairwise(starts)), size]
    return [
        Span(start, start + tile, *kept) for start, kept in zip(starts, pairwise(cuts), strict=True)
    ]


def chunks_of(num_frames: int, chunk_frames: int) -> Iterator[slice]:
    """The chunks of latent frames, in the order of time; chunk_frames 0 is one of all. Raises ValueError below 0."""
    if chunk_frames < 0:
        raise ValueError(f"chunk_frames is {chunk_frames}, expected 0 (whole clip) or more")
    length = chunk_frames or num_frames
    return (slice(i, min(i + length, num_frames)) for i in range(0, num_frames, length))


def video_frames(frames: slice) -> tuple[int, int]:
    """Where the frames of some latent frames begin and end in the video; the first is alone, the others are four."""
    return max(0, 4 * frames.start - 3), 4 * frames.stop - 3


def video_shape(latents: Tensor) -> tuple[int, int, int, int, int]:
    """[B,3,T,H,W] of the video of latents [B,z,t,h,w]."""
    batch, _, num_frames, height, width = latents.shape
    return batch, 3, 4 * num_frames - 3, height * 8, width * 8
