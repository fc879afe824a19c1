"""The sizes of CLIP's image tower. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

HEAD_DIM = 80
"""Channels of an attention head, in the published model and in any other: nothing in a file tells them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CLIPConfig:
    """Sizes, those of the published ViT-H/14 by default. tokens: patches and one for the class; layers: as in the file,
    of which the last is not run. Raises ValueError where they do not fit each other."""

    width: int = 1280
    layers: int = 32
    mlp: int = 5120
    patch: int = 14
    tokens: int = 257

    def __post_init__(self) -> None:
        if self._patches_a_side**2 + 1 != self.tokens or self.width % HEAD_DIM:
            raise ValueError(
                f"a CLIP vision tower of width {self.width} with {self.tokens} tokens, expected a multiple of "
                f"{HEAD_DIM} and a square number plus 1"
            )

    @property
    def side(self) -> int:
        """Pixels a side of the square that is looked at."""
        return self._patches_a_side * self.patch

    @property
    def _patches_a_side(self) -> int:
        return round((self.tokens - 1) ** 0.5)
