"""What quantised weights change of a video of the micro model is little, and what was asked for is still to be seen."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch

from engine.checkpoints.locate import locate
from engine.components.providers import wan_dit
from engine.micro.grammar import heldout_prompts
from examples.micro.measures.meter import read_clip
from examples.micro.measures.sampling import MicroModel, Sampling, load_exported, sample_latents
from presets.spec.components import DenoiserSpec

MICRO = locate("denoiser", "builtin:micro")
((WANTED, PROMPT),) = heldout_prompts(1, seed=4242)


def latents(model: MicroModel, **settings: str) -> torch.Tensor:
    spec = DenoiserSpec(checkpoint=str(MICRO), device="cpu", unpack="load", **settings)
    return sample_latents(
        replace(model, dit=wan_dit.load(spec)), [PROMPT], [1000], Sampling(steps=5)
    )


@pytest.fixture(scope="module")
def model() -> MicroModel:
    return load_exported(MICRO.parent)


@pytest.fixture(scope="module")
def plain(model: MicroModel) -> torch.Tensor:
    return latents(model)


@pytest.mark.parametrize(
    ("quantise", "least", "most"), [("int8", 0.002, 0.05), ("fp8", 0.01, 0.15)]
)
def test_a_clip_is_near_and_shows_what_was_asked_for(
    model: MicroModel, plain: torch.Tensor, quantise: str, least: float, most: float
) -> None:
    """docs/fit.md has the means of many clips, 0.021 and 0.068."""
    found = latents(model, quantise=quantise)
    assert least < (found - plain).norm() / plain.norm() < most
    read = read_clip(model.vae.decode(found, chunk_frames=0)[0])
    assert {name: getattr(read, name) for name in asdict(WANTED)} == asdict(WANTED)
