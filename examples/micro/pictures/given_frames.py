"""Training data of image to video: clips as latents, with what is given of them (their first and last frames).

Shard n of a seed always holds the same clips, as in `encode`. Latents are normalised: the VAE is one that ships.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from engine.micro.grammar import (
    Attributes,
    attribute_indices,
    attributes_from_indices,
    sample_training_attributes,
)
from engine.models.image_encoders.clip import CLIP
from engine.models.vae.layers import History
from engine.models.vae.wanvae import LATENTS_MEAN, LATENTS_STD, WanVAE
from engine.stages.given import given_mask
from examples.micro.pictures.train_clip import tokens_of
from examples.micro.training.checkpoint import load_checkpoint, save_checkpoint
from examples.micro.world import render

CLIPS_PER_SHARD, CLIPS_PER_PASS = 256, 8
ANYWHERE = 0.6  # share of clips whose object begins anywhere
PARTS = ("latents", "first", "last", "first_tokens", "last_tokens")


@dataclass(frozen=True)
class Given:
    """A batch. latents, first, last: normalised [B,16,F,h,w], of the clips, of their first frames followed by grey, and
    of those with their last frames at the end. first_tokens, last_tokens: [B,257,width]."""

    latents: Tensor
    first: Tensor
    last: Tensor
    first_tokens: Tensor
    last_tokens: Tensor
    attributes: Sequence[Attributes]


def encode_given(
    vae: WanVAE,
    clip: CLIP,
    folder: Path,
    *,
    shards: int,
    begin: int = 0,
    seed: int = 11,
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Writes the missing shards of a folder, from number `begin` on."""
    for number in range(begin, shards):
        path = folder / f"{seed:03d}-{number:04d}.pt"
        if path.exists():
            continue
        rng = random.Random(f"{seed}/{number}")
        found: dict[str, list[Tensor]] = {name: [] for name in PARTS}
        attributes: list[Attributes] = []
        for _ in range(CLIPS_PER_SHARD // CLIPS_PER_PASS):
            wanted = [sample_training_attributes(rng) for _ in range(CLIPS_PER_PASS)]
            for name, part in _encoded(vae, clip, render(wanted, rng, anywhere=ANYWHERE)).items():
                found[name].append(part.half())
            attributes += wanted
        content = {name: torch.cat(parts) for name, parts in found.items()}
        content["attributes"] = torch.tensor([attribute_indices(each) for each in attributes])
        save_checkpoint(path, "given", content)
        log(f"{path.name}: {CLIPS_PER_SHARD} clips")


@torch.no_grad()
def _encoded(vae: WanVAE, clip: CLIP, videos: Tensor) -> dict[str, Tensor]:
    latents = _normalised(vae.encode_moments(videos)[0])
    # what only the last frame tells apart is encoded once up to its last latent frame
    history: History = {}
    first, last = (given_video(videos, has_last=has_last) for has_last in (False, True))
    begun, _ = vae.encode_moments(first[:, :, :-4], history)
    ends = [vae.encode_moments(each[:, :, -4:], dict(history))[0] for each in (first, last)]
    given = [_normalised(torch.cat([begun, end], 2)) for end in ends]
    tokens = [tokens_of(clip, videos[:, :, at]) for at in (0, -1)]
    return dict(zip(PARTS, (latents, *given, *tokens), strict=True))


def _normalised(means: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (LATENTS_MEAN, LATENTS_STD))
    return (means.float() - mean) / std


def given_video(videos: Tensor, *, has_last: bool) -> Tensor:
    """Videos [B,3,T,S,S] of which all but the first frame, and the last where it is given, is grey."""
    given = torch.zeros_like(videos)
    given[:, :, 0] = videos[:, :, 0]
    if has_last:
        given[:, :, -1] = videos[:, :, -1]
    return given


def masks(latents: Tensor, *, has_last: bool) -> Tensor:
    """[B,4,F,h,w] for latents [B,16,F,h,w] of given frames, 1 where a frame is given."""
    batch, _, frames, rows, columns = latents.shape
    mask = given_mask(4 * frames - 3, frames, rows, columns, has_last=has_last)
    return mask.expand(batch, *mask.shape)


@dataclass(slots=True)
class GivenSet:
    """All shards of a folder; `refresh` picks up those that were added since."""

    folder: Path
    attributes: list[Attributes] = field(default_factory=list)
    shards: list[dict[str, Tensor]] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def refresh(self) -> None:
        """Reads new shards; ValueError where there is none."""
        for path in sorted(self.folder.glob("*.pt")):
            if path.name in self._seen:
                continue
            shard = load_checkpoint(path, "given")
            self.attributes += [
                attributes_from_indices(row) for row in shard["attributes"].tolist()
            ]
            self.shards.append({name: shard[name] for name in PARTS})
            self._seen.add(path.name)
        if not self._seen:
            raise ValueError(f"{self.folder}: no shards; run `encode-given` first")

    def sample(self, count: int, rng: random.Random) -> Given:
        """`count` clips with replacement."""
        picks = [divmod(rng.randrange(len(self.attributes)), CLIPS_PER_SHARD) for _ in range(count)]
        parts = {
            name: torch.stack([self.shards[shard][name][row] for shard, row in picks]).float()
            for name in PARTS
        }
        named = [self.attributes[shard * CLIPS_PER_SHARD + row] for shard, row in picks]
        return Given(**parts, attributes=named)
