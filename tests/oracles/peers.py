"""A pipeline of diffusers' and transformers' parts with the weights of one of ours: the oracle of whole runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.checkpoints.names import from_original
from engine.schedulers.scheduler import follow_course
from engine.tasks.route import course_of
from presets.spec.run import RunSpec
from tests.oracles.later import diffusers, transformers
from tests.oracles.loaded import Loaded
from tests.oracles.naming import dit_name, vae_name
from tests.oracles.parity import latent_statistics

# the published constants with the micro model's sizes; written out, not taken from the code under test
MICRO_TEXT = {
    "vocab_size": 138,
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 256,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Peer:
    """Our tokenizer, their everything else."""

    ours: Loaded
    text_encoder: transformers.UMT5EncoderModel
    transformer: diffusers.WanTransformer3DModel
    vae: diffusers.AutoencoderKLWan

    def encode(self, prompt: str) -> Tensor:
        """[1, 512, d] the published way: 512 masked tokens, everything past the prompt zeroed."""
        ids = self.ours.umt5.tokenize(prompt)
        mask = (torch.arange(512) < len(ids)).long()[None]
        padded = torch.nn.functional.pad(torch.tensor([ids]), (0, 512 - len(ids)))
        states = self.text_encoder(input_ids=padded, attention_mask=mask).last_hidden_state
        return states * mask[..., None]

    def denoise(self, spec: RunSpec, noise: Tensor) -> Iterator[Tensor]:
        """The latents after every step of diffusers' UniPC, on our sigmas and timesteps."""
        scheduler = follow_course(course_of(spec))
        solver = diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True
        )
        solver.set_timesteps(sigmas=scheduler.sigmas[:-1].double().numpy())
        solver.sigmas = scheduler.sigmas.clone()
        solver.set_begin_index(0)
        cond, uncond = self.encode(spec.prompt), self.encode(spec.negative_prompt)
        latents = noise
        for timestep, solver_timestep in zip(scheduler.timesteps, solver.timesteps, strict=True):
            positive = self.transformer(latents, timestep[None], cond).sample
            negative = self.transformer(latents, timestep[None], uncond).sample
            velocity = negative + spec.guidance.scale * (positive - negative)
            latents = solver.step(velocity, solver_timestep, latents, return_dict=False)[0]
            yield latents

    def decode(self, latents: Tensor) -> Tensor:
        mean, std = latent_statistics(self.vae)
        return self.vae.decode(latents * std + mean).sample[0]


def make_peer(ours: Loaded) -> Peer:
    dit, vae, umt5 = ours.dit, ours.vae, ours.umt5.model
    transformer = diffusers.WanTransformer3DModel(
        num_attention_heads=dit.config.num_heads,
        attention_head_dim=dit.config.head_dim,
        text_dim=dit.config.text_dim,
        ffn_dim=dit.config.ffn_dim,
        num_layers=dit.config.num_layers,
    ).eval()
    transformer.load_state_dict({dit_name(n): t for n, t in dit.state_dict().items()}, strict=True)
    autoencoder = diffusers.AutoencoderKLWan(base_dim=vae.config.dim).eval()
    autoencoder.load_state_dict({vae_name(n): t for n, t in vae.state_dict().items()}, strict=True)
    text_encoder = transformers.UMT5EncoderModel(transformers.UMT5Config(**MICRO_TEXT)).eval()
    theirs = (from_original("text_encoder", "huggingface", name) for name in umt5.state_dict())
    named = zip(theirs, umt5.state_dict().values(), strict=True)
    absent = text_encoder.load_state_dict(
        {name: tensor for (name, *_), tensor in named}, strict=False
    )
    assert absent.missing_keys == ["encoder.embed_tokens.weight"], "the other name of the embedding"
    return Peer(ours, text_encoder, transformer, autoencoder)
