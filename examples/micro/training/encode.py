"""Renders training clips and encodes them into latent shards.

Shard n of a seed always holds the same clips, whoever writes it, so shards may be written by several ranks, in
several sessions, and while the transformer already trains on the first ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.micro.grammar import sample_training_attributes
from examples.micro.model.architecture import VAEShape, build_vae
from examples.micro.training.checkpoint import encoder_digest, load_checkpoint
from examples.micro.training.latents import save_shard
from examples.micro.training.loop import copy_weights
from examples.micro.training.parallel import Rank
from examples.micro.world import render

CLIPS_PER_SHARD = 256
CLIPS_PER_PASS = 8


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How many clips to encode, from which seed, and how many of them over-sample colour swaps."""

    clips: int = 4096
    seed: int = 1
    swap_share: float = 0.12


def encode_clips(
    rank: Rank,
    settings: Encoding,
    vae: Path,
    out: Path,
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Writes the missing shards of the folder `out`; ValueError if it holds another encoder's."""
    weights = load_checkpoint(vae, "vae")
    encoder = encoder_digest(weights["ema"])
    for path in sorted(out.glob("*.pt")):
        if load_checkpoint(path, "latents")["encoder"] != encoder:
            raise ValueError(f"{path}: made by another VAE encoder; use another folder")
    model = build_vae(VAEShape(**weights["model"]))
    copy_weights(weights["ema"], dict(model.named_parameters()))
    model.to(rank.device).eval()
    shards = -(-settings.clips // CLIPS_PER_SHARD)
    for shard in range(rank.index, shards, rank.count):
        path = out / f"{settings.seed:03d}-{shard:04d}.pt"
        if path.exists():
            continue
        rng = random.Random(f"{settings.seed}/{shard}")
        attributes, latents = [], []
        for _ in range(CLIPS_PER_SHARD // CLIPS_PER_PASS):
            clips = [
                sample_training_attributes(rng, swap_share=settings.swap_share)
                for _ in range(CLIPS_PER_PASS)
            ]
            video = render(clips, rng).to(rank.device)
            with torch.no_grad(), torch.autocast(rank.device.type, torch.bfloat16):
                mean, _ = model.encode_moments(video)
            attributes += clips
            latents.append(mean.float().cpu())
        save_shard(path, attributes, torch.cat(latents), encoder)
        log(f"{path.name}: {CLIPS_PER_SHARD} clips")
