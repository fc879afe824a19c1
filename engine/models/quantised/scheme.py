"""How codes become weights, as plain data. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scheme:
    """blocks: the GGUF type of the blocks that the codes lie in, empty where each code is a number, or with
    `pairs` two of 4 bits. block: rows and
    columns that share a number of the scale, 0 for all of them. rotation: how many columns are rotated together, 0 for
    none. rounds_activations: multiply the codes with activations that are rounded alike."""

    blocks: str = ""
    pairs: bool = False
    block: tuple[int, int] = (0, 0)
    rotation: int = 0
    rounds_activations: bool = False
