"""Training latents: shards of encoded clips on disk, read as one growing set.

A shard holds [N, 5] attribute indices and [N, z, f, h, w] unnormalised latent means in fp16, and names the encoder
that made them; shards of different encoders never mix.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from engine.micro.grammar import Attributes, attribute_indices, attributes_from_indices
from examples.micro.training.checkpoint import load_checkpoint, save_checkpoint


def save_shard(path: Path, attributes: Sequence[Attributes], latents: Tensor, encoder: str) -> None:
    """Writes one shard of latents [N, z, f, h, w]; `encoder` is its `encoder_digest`."""
    indices = torch.tensor([attribute_indices(a) for a in attributes], dtype=torch.int16)
    content = {"attributes": indices, "latents": latents.half(), "encoder": encoder}
    save_checkpoint(path, "latents", content)


@dataclass(slots=True)
class LatentSet:
    """All shards of a folder; `refresh` picks up those that were added since."""

    folder: Path
    encoder: str = ""
    attributes: list[Attributes] = field(default_factory=list)
    latents: Tensor = field(default_factory=lambda: torch.empty(0))
    _seen: set[str] = field(default_factory=set)

    def refresh(self) -> None:
        """Reads new shards; ValueError when one was made by another encoder."""
        for path in sorted(self.folder.glob("*.pt")):
            if path.name in self._seen:
                continue
            shard = load_checkpoint(path, "latents")
            if self._seen and shard["encoder"] != self.encoder:
                raise ValueError(f"{path}: encoded by another VAE encoder than the other shards")
            self.encoder = shard["encoder"]
            self.attributes += [
                attributes_from_indices(row) for row in shard["attributes"].tolist()
            ]
            parts = [self.latents, shard["latents"]] if self._seen else [shard["latents"]]
            self.latents = torch.cat(parts)
            self._seen.add(path.name)
        if not self._seen:
            raise ValueError(f"{self.folder}: no latent shards; run `encode` first")

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel, [z] each."""
        values = self.latents.float().transpose(0, 1).flatten(1)
        return values.mean(1), values.std(1)

    def sample(self, count: int, rng: random.Random) -> tuple[Tensor, list[Attributes]]:
        """`count` clips with replacement: unnormalised fp32 latents and their attributes."""
        picks = [rng.randrange(len(self.attributes)) for _ in range(count)]
        return self.latents[picks].float(), [self.attributes[i] for i in picks]
