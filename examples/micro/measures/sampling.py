"""Makes clips with the micro model in batches, for measuring: the engine's own networks and schedulers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from engine.components.providers import umt5, wan_dit, wan_vae
from engine.models.diffusion.wandit import WanDiT
from engine.models.text_encoders.t5 import UMT5
from engine.models.vae.wanvae import WanVAE
from engine.schedulers.scheduler import create_scheduler
from examples.micro.model.export import FILES, TOKENIZER_FILE
from examples.micro.world import FRAME_SIZE, NUM_FRAMES
from presets.spec.components import DenoiserSpec, TextEncoderSpec, VAESpec

BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How clips are sampled."""

    scheduler: str = "unipc"
    steps: int = 20
    shift: float = 3.0
    guidance: float = 2.5
    negative_prompt: str = ""


@dataclass(frozen=True, slots=True)
class MicroModel:
    """The three networks; the VAE's latents carry the published statistics."""

    dit: WanDiT
    text_encoder: UMT5
    vae: WanVAE


def load_exported(folder: Path, *, device: str = "cpu", dit: str = FILES["dit"]) -> MicroModel:
    """The model in fp32 from the files of an export, through the engine's own loaders. dit: which of its transformers.

    Raises CheckpointError where a file is missing or does not fit.
    """
    folder = folder.absolute()  # relative checkpoint paths start at the models folder

    def path(part: str) -> str:
        return str(folder / FILES[part])

    text = umt5.load(
        TextEncoderSpec(
            checkpoint=path("text"),
            tokenizer=str(folder / TOKENIZER_FILE),
            device=device,
            dtype="fp32",
        )
    )
    denoiser = wan_dit.load(DenoiserSpec(checkpoint=str(folder / dit), device=device, dtype="fp32"))
    vae = wan_vae.load(VAESpec(checkpoint=path("vae"), device=device, dtype="fp32"))
    return MicroModel(denoiser, text, vae)


@torch.no_grad()
def sample_latents(
    model: MicroModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Sampling,
    given: Mapping[str, Tensor] = MappingProxyType({}),
) -> Tensor:
    """Normalised latents [len(prompts), 16, f, h, w] of prompts with a seed each, in one batch.

    given: what else they are conditioned on, "image" and "latents", a row for each prompt.
    """
    device = model.dit.patch_embedding.weight.device
    wanted = [model.text_encoder.encode(prompt) for prompt in prompts]
    unwanted = [model.text_encoder.encode(settings.negative_prompt)] * len(prompts)
    context = pad_sequence([*wanted, *unwanted], batch_first=True)
    both_halves = {
        name: tensor.repeat(2, *[1] * (tensor.dim() - 1)) for name, tensor in given.items()
    }
    conditioning = model.dit.prepare({"text": context.to(device), **both_halves})
    shape = (16, 1 + (NUM_FRAMES - 1) // 4, FRAME_SIZE // 8, FRAME_SIZE // 8)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    scheduler = create_scheduler(settings.scheduler, num_steps=settings.steps, shift=settings.shift)
    state = scheduler.start(torch.stack(noise).to(device))
    for timestep in scheduler.timesteps.split(1):
        both = model.dit(state.latents.repeat(2, 1, 1, 1, 1), timestep.to(device), conditioning)
        cond, uncond = both.chunk(2)
        state = scheduler.step(state, torch.lerp(uncond, cond, settings.guidance))
    return state.latents


@torch.no_grad()
def sample_clips(
    model: MicroModel, prompts: Sequence[str], *, seed: int, settings: Sampling
) -> Tensor:
    """Clips [len(prompts), 3, T, S, S] in [-1, 1]; prompt i gets the seed `seed + i`."""
    clips = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        seeds = range(seed + start, seed + start + len(batch))
        latents = sample_latents(model, batch, seeds, settings)
        clips += [model.vae.decode(part, chunk_frames=0) for part in latents.split(4)]
    return torch.cat(clips).cpu()
