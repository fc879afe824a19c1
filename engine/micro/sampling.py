"""Makes clips with the micro model in batches, for measuring: the engine's own networks and schedulers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import UMT5EncoderModel

from engine.micro.architecture import (
    DiTShape,
    TextShape,
    VAEShape,
    build_dit,
    build_text_encoder,
    build_vae,
    encode_text,
    text_parameters,
)
from engine.micro.tokenizer import build_tokenizer, tokenize
from engine.micro.training import copy_weights
from engine.micro.world import FRAME_SIZE, NUM_FRAMES
from engine.models.diffusion.wandit import WanDiT
from engine.models.vae.wanvae import WanVAE
from engine.schedulers import create_scheduler

HEAD_DIM = 32
PROMPT_TOKENS = 64
BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How clips are sampled."""

    scheduler: str = "unipc"
    steps: int = 20
    shift: float = 3.0
    guidance: float = 5.0
    negative_prompt: str = ""


@dataclass(frozen=True, slots=True)
class MicroModel:
    """The four parts of the model; the VAE's latents carry the published statistics."""

    dit: WanDiT
    text_encoder: UMT5EncoderModel
    vae: WanVAE
    tokenizer: Tokenizer


def load_model(weights: Mapping[str, Mapping[str, Tensor]]) -> MicroModel:
    """The model in fp32 from weights by part (see `export.shipped_weights`)."""
    dit_weights, text_weights, vae_weights = weights["dit"], weights["text"], weights["vae"]
    dim = dit_weights["patch_embedding.weight"].shape[0]
    layers = {name.split(".")[1] for name in dit_weights if name.startswith("blocks.")}
    dit = build_dit(
        DiTShape(
            dim=dim,
            ffn_dim=dit_weights["blocks.0.ffn.0.weight"].shape[0],
            num_heads=dim // HEAD_DIM,
            num_layers=len(layers),
        )
    )
    text = build_text_encoder(TextShape(vocab_size=text_weights["token_embedding.weight"].shape[0]))
    vae = build_vae(VAEShape(dim=vae_weights["encoder.conv1.weight"].shape[0]))
    copy_weights(dit_weights, dict(dit.named_parameters()))
    copy_weights(text_weights, text_parameters(text))
    copy_weights(vae_weights, dict(vae.named_parameters()))
    for network in (dit, text, vae):
        network.eval().requires_grad_(requires_grad=False)
    return MicroModel(dit, text, vae, build_tokenizer())


@torch.no_grad()
def sample_latents(
    dit: WanDiT,
    text_encoder: UMT5EncoderModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Sampling,
) -> Tensor:
    """Normalised latents [len(prompts), 16, f, h, w] of prompts with a seed each, in one batch."""
    count = len(prompts)
    device = dit.patch_embedding.weight.device
    texts = [*prompts, *[settings.negative_prompt] * count]
    ids, lengths = (t.to(device) for t in tokenize(tokenizer, texts, PROMPT_TOKENS))
    conditioning = dit.prepare(encode_text(text_encoder, ids, lengths), lengths=lengths)
    shape = (16, 1 + (NUM_FRAMES - 1) // 4, FRAME_SIZE // 8, FRAME_SIZE // 8)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    scheduler = create_scheduler(settings.scheduler, num_steps=settings.steps, shift=settings.shift)
    state = scheduler.start(torch.stack(noise).to(device))
    for timestep in scheduler.timesteps:
        both = dit(
            torch.cat([state.latents] * 2), timestep.float().expand(2 * count).to(device), conditioning
        )
        wanted, unwanted = both.chunk(2)
        state = scheduler.step(state, torch.lerp(unwanted, wanted, settings.guidance))
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
        latents = sample_latents(
            model.dit, model.text_encoder, model.tokenizer, batch, seeds, settings
        )
        clips += [model.vae.decode(part, chunk_frames=0) for part in latents.split(4)]
    return torch.cat(clips)
