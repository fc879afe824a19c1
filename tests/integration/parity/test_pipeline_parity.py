"""The whole pipeline with the shipped micro weights, step for step against one built from diffusers'
transformer, VAE and solver and transformers' encoder, padded to 512 tokens as published.

fp32. Latents to 1e-4 at every step: guidance over 20 steps carries the 1e-6 of one model call that far.
Frames within 1/255, one level of the 8 bits that a video keeps.
"""

from __future__ import annotations

import pytest
import torch

from tests.executing import SMALL
from tests.oracles.loaded import Loaded, denoised, load
from tests.oracles.peers import make_peer

PROMPT = "a large red circle moves left over a dark blue background"


@pytest.fixture(scope="module")
def ours() -> Loaded:
    return load("micro", [f"prompt={PROMPT}", "seed=5", *SMALL])


@torch.no_grad()
def test_every_step_and_every_frame(ours: Loaded, tmp_path) -> None:
    spec, peer = ours.spec, make_peer(ours)
    assert spec.guidance.scale == 2.5
    noise = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(spec.seed))
    steps = denoised(spec, tmp_path)
    compared = 0
    for latents, theirs in zip(steps, peer.denoise(spec, noise), strict=True):
        compared += 1
        assert (latents - theirs).abs().max() <= 1e-4, f"step {compared}"
    assert compared == spec.scheduler.steps == 20

    frames = ours.vae.decode(steps[-1], chunk_frames=0)[0]
    assert frames.std() > 0.1
    assert ((frames - peer.decode(theirs)).abs().max() * 127.5) <= 1


@pytest.mark.parametrize("tokens", [10**9, 0], ids=["one batch", "two calls"])
def test_guidance_in_one_batch_or_two_calls(
    ours: Loaded, tmp_path, monkeypatch, tokens: int
) -> None:
    (expected,) = denoised(ours.spec, tmp_path, 1)
    monkeypatch.setattr("engine.components.providers.wan_dit.BATCHED_GUIDANCE_TOKENS", tokens)
    (actual,) = denoised(ours.spec, tmp_path, 1)
    assert (actual - expected).abs().max() <= 1e-4
