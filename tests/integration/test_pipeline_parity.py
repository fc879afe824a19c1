"""The whole pipeline with the shipped micro weights, step for step against one built from diffusers'
transformer, VAE and solver and transformers' encoder, padded to 512 tokens as published.

fp32. Latents to 1e-4 at every step: guidance of 5 over 20 steps carries the 1e-6 of one model call that far.
Frames within 1/255, one level of the 8 bits that a video keeps.
"""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from transformers import UMT5EncoderModel

from engine.models.text_encoders.t5 import clean_prompt
from engine.models.vae.wanvae import LATENTS_MEAN, LATENTS_STD
from engine.pipelines import stages
from engine.pipelines.text_to_video import TextToVideo
from tests.naming import dit_name, vae_name

PROMPT = "a large red circle moves left over a dark blue background"
MEAN = torch.tensor(LATENTS_MEAN).view(1, -1, 1, 1, 1)
STD = torch.tensor(LATENTS_STD).view(1, -1, 1, 1, 1)


@pytest.fixture(scope="module")
def ours() -> TextToVideo:
    return TextToVideo.from_preset("micro", [f"prompt={PROMPT}", "seed=5"])


@pytest.fixture(scope="module")
def transformer(ours: TextToVideo) -> WanTransformer3DModel:
    model = ours.denoiser.model
    config = model.config
    theirs = WanTransformer3DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        text_dim=config.text_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.num_layers,
    ).eval()
    theirs.load_state_dict({dit_name(n): t for n, t in model.state_dict().items()}, strict=True)
    return theirs


@pytest.fixture(scope="module")
def vae(ours: TextToVideo) -> AutoencoderKLWan:
    model = ours.vae.model
    theirs = AutoencoderKLWan(base_dim=model.config.dim).eval()
    theirs.load_state_dict({vae_name(n): t for n, t in model.state_dict().items()}, strict=True)
    return theirs


def padded_states(ours: TextToVideo, prompt: str) -> torch.Tensor:
    """[1, 512, d]: the published way, on 512 masked tokens with everything past the prompt zeroed."""
    model = ours.text_encoder.umt5.model
    theirs = UMT5EncoderModel(model.config).eval()
    theirs.load_state_dict(model.state_dict(), strict=True)
    ids = ours.text_encoder.umt5.tokenize(clean_prompt(prompt))
    mask = (torch.arange(512) < len(ids)).long()[None]
    padded = torch.nn.functional.pad(torch.tensor([ids]), (0, 512 - len(ids)))
    states = theirs(input_ids=padded, attention_mask=mask).last_hidden_state
    return states * mask[..., None]


@torch.no_grad()
def test_every_step_and_every_frame(
    ours: TextToVideo, transformer: WanTransformer3DModel, vae: AutoencoderKLWan
) -> None:
    spec = ours.spec
    assert spec.guidance.scale == 5
    scheduler = stages.make_scheduler(spec)
    solver = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    solver.set_timesteps(sigmas=scheduler.sigmas[:-1].double().numpy())
    solver.sigmas = scheduler.sigmas.clone()
    solver.set_begin_index(0)
    cond, uncond = padded_states(ours, spec.prompt), padded_states(ours, spec.negative_prompt)

    noise = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(spec.seed))
    contexts = stages.encode_prompts(ours.text_encoder, spec)
    theirs, latents, compared = noise, noise, 0
    for step in stages.denoise(
        ours.denoiser, spec, contexts, stages.initial_noise(spec, ours.denoiser)
    ):
        timestep = torch.tensor([step.timestep])
        positive = transformer(theirs, timestep, cond).sample
        negative = transformer(theirs, timestep, uncond).sample
        velocity = negative + spec.guidance.scale * (positive - negative)
        theirs = solver.step(velocity, solver.timesteps[compared], theirs, return_dict=False)[0]
        latents = step.state.latents
        compared += 1
        assert (latents - theirs).abs().max() <= 1e-4, f"step {compared}"
    assert compared == spec.scheduler.steps == 20

    frames = stages.decode(ours.vae, latents)
    expected = vae.decode(theirs * STD + MEAN).sample[0]
    assert frames.std() > 0.1
    assert ((frames - expected).abs().max() * 127.5) <= 1


@pytest.mark.parametrize("batched", [True, False])
def test_guidance_in_one_batch_or_two_calls(ours: TextToVideo, monkeypatch, batched: bool) -> None:
    contexts = stages.encode_prompts(ours.text_encoder, ours.spec)
    noise = stages.initial_noise(ours.spec, ours.denoiser)
    expected = next(stages.denoise(ours.denoiser, ours.spec, contexts, noise)).velocity
    monkeypatch.setattr(stages, "BATCHED_GUIDANCE_TOKENS", 10**9 if batched else 0)
    actual = next(stages.denoise(ours.denoiser, ours.spec, contexts, noise)).velocity
    assert (actual - expected).abs().max() <= 1e-4
