"""The whole pipeline with the shipped micro weights, step for step against one built from diffusers'
transformer, VAE and solver and transformers' encoder, padded to 512 tokens as published.

fp32. Latents to 1e-4 at every step: guidance over 20 steps carries the 1e-6 of one model call that far.
Frames within 1/255, one level of the 8 bits that a video keeps.
"""

from __future__ import annotations

import pytest
import torch
from engine.pipelines import stages
from engine.pipelines.text_to_video import TextToVideo

from tests.peers import make_peer

PROMPT = "a large red circle moves left over a dark blue background"


@pytest.fixture(scope="module")
def ours() -> TextToVideo:
    return TextToVideo.from_preset("micro", [f"prompt={PROMPT}", "seed=5"])


@torch.no_grad()
def test_every_step_and_every_frame(ours: TextToVideo) -> None:
    spec, peer = ours.spec, make_peer(ours)
    assert spec.guidance.scale == 2.5
    noise = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(spec.seed))
    contexts = stages.encode_prompts(ours.text_encoder, spec)
    steps = stages.denoise(ours.denoiser, spec, contexts, stages.initial_noise(spec, ours.denoiser))
    compared = 0
    for step, theirs in zip(steps, peer.denoise(spec, noise), strict=True):
        compared += 1
        assert (step.state.latents - theirs).abs().max() <= 1e-4, f"step {compared}"
    assert compared == spec.scheduler.steps == 20

    frames = stages.decode(ours.vae, step.state.latents)
    assert frames.std() > 0.1
    assert ((frames - peer.decode(theirs)).abs().max() * 127.5) <= 1


@pytest.mark.parametrize("batched", [True, False])
def test_guidance_in_one_batch_or_two_calls(ours: TextToVideo, monkeypatch, batched: bool) -> None:
    contexts = stages.encode_prompts(ours.text_encoder, ours.spec)
    noise = stages.initial_noise(ours.spec, ours.denoiser)
    expected = next(stages.denoise(ours.denoiser, ours.spec, contexts, noise)).velocity
    monkeypatch.setattr(stages, "BATCHED_GUIDANCE_TOKENS", 10**9 if batched else 0)
    actual = next(stages.denoise(ours.denoiser, ours.spec, contexts, noise)).velocity
    assert (actual - expected).abs().max() <= 1e-4
