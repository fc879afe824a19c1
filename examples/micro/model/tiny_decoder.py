"""Fits the tiny decoder that shows the micro model's latents in previews (engine.models.vae.tiny_decoder).

On rendered clips: the normalised latents that the VAE's encoder gives, against the colours of the pixels that each of
them stands for. The shipped one explains 0.99 of their variance on unseen clips; one matrix explained 0.84 and showed
red as orange and green as grey (mean error of an object's colour 78 levels; now 17). What it takes is the frame before
and the neighbours together with a layer between: none of the three alone comes beyond 0.92.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from engine.micro.grammar import sample_training_attributes
from engine.models.vae.tiny_decoder import SCALE, TinyDecoder
from engine.models.vae.wanvae import WanVAE
from examples.micro.world import render

CLIPS_PER_PASS = 8
CLIPS_PER_STEP = 16
STEPS = 2500
LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Fit:
    """r_squared: share of the colours' variance that the decoder explains, on clips of another seed."""

    decoder: TinyDecoder
    r_squared: float


def fit_tiny_decoder(vae: WanVAE, *, clips: int, seed: int, steps: int = STEPS) -> Fit:
    """Fits on so many clips of `seed`, and measures on a quarter of them of the next seed. Takes two minutes or so."""
    latents, colours = samples(vae, clips, seed)
    torch.manual_seed(seed)
    decoder = TinyDecoder(latents.shape[1])
    optimizer = torch.optim.Adam(decoder.parameters(), lr=LEARNING_RATE)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(latents), (CLIPS_PER_STEP,))
        loss = F.mse_loss(decoder(latents[chosen]), colours[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    unseen, truth = samples(vae, max(1, clips // 4), seed + 1)
    return Fit(decoder.eval(), explained(decoder, unseen, truth))


@torch.no_grad()
def explained(decoder: TinyDecoder, latents: Tensor, colours: Tensor) -> float:
    """The share of the variance of colours [B,3,F,H,W] that the decoder explains."""
    residual = (colours - decoder(latents)).square().sum()
    variance = (colours - colours.mean((0, 2, 3, 4), keepdim=True)).square().sum()
    return float(1 - residual / variance)


def write_tiny_decoder(path: Path, fit: Fit, *, clips: int, seed: int) -> None:
    """Writes the decoder in bf16, and what it came from beside it."""
    weights = {
        name: value.to(torch.bfloat16).contiguous()
        for name, value in fit.decoder.state_dict().items()
    }
    told = {"r_squared": f"{fit.r_squared:.3f}", "clips": str(clips), "seed": str(seed)}
    save_file(weights, path, told)


def mean_colours(video: Tensor) -> Tensor:
    """Video [B,3,4n+1,H,W] -> [B,3,n+1,H/2,W/2]: means over the pixels of each colour, whose first frame stands for one
    frame of the video and every other for four."""
    side = 8 // SCALE
    small = F.avg_pool3d(video, (1, side, side))
    first, others = small[:, :, :1], small[:, :, 1:]
    return torch.cat([first, F.avg_pool3d(others, (4, 1, 1))], dim=2)


@torch.no_grad()
def samples(vae: WanVAE, clips: int, seed: int) -> tuple[Tensor, Tensor]:
    """Latents [N,C,F,h,w] of clips and the colours [N,3,F,H,W] that they stand for."""
    rng = random.Random(seed)
    latents, colours = [], []
    for start in range(0, clips, CLIPS_PER_PASS):
        count = min(CLIPS_PER_PASS, clips - start)
        video = render([sample_training_attributes(rng) for _ in range(count)], rng)
        latents.append(vae.encode(video).float())
        colours.append(mean_colours(video))
    return torch.cat(latents), torch.cat(colours)
