"""Networks of a few thousand parameters and training settings of a few steps, for the tests of the recipe."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.micro.grammar import sample_training_attributes
from examples.micro.model.architecture import DiTShape, VAEShape
from examples.micro.training.latents import save_shard
from examples.micro.training.loop import Budget
from examples.micro.training.train_dit import DiTTraining
from examples.micro.training.train_vae import Schedule

VAE = VAEShape(dim=2)
DIT = DiTShape(dim=32, ffn_dim=64, num_heads=1, num_layers=1)


def cropped(schedule: Schedule) -> Schedule:
    """The schedule with as many frames, but one clip a step and 16 pixels of it."""
    return tuple(
        (end, tuple(replace(crop, clips=1, window=16) for crop in crops)) for end, crops in schedule
    )


def dit_training(steps: int, **changes: Any) -> DiTTraining:
    settings = {"batch": 4, "compile": False, "text_warmup_seconds": 0.05, "save_seconds": 0.0}
    return DiTTraining(budget=Budget(steps=steps), **settings | changes)


def write_latents(folder: Path, *, clips: int = 16, encoder: str = "e", seed: int = 0) -> Path:
    """A folder with one shard of random latents."""
    rng = random.Random(seed)
    attributes = [sample_training_attributes(rng) for _ in range(clips)]
    generator = torch.Generator().manual_seed(seed)
    latents = 3 + 2 * torch.randn(clips, 16, 5, 8, 8, generator=generator)
    save_shard(folder / f"{seed:03d}-0000.pt", attributes, latents, encoder)
    return folder
