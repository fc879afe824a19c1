"""The linear map from latents to colours, against float64 sums written out; and its limits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.models.vae.latent_rgb import (
    WAN21,
    LatentRGB,
    latents_to_rgb,
    spread,
)


def shown(
    rgb: LatentRGB, latents: torch.Tensor, frames: list[int], size: tuple[int, int]
) -> np.ndarray:
    """Colour levels before rounding, float64 [F,h',w',3], pixel by pixel."""
    factors, bias = rgb.factors.double().numpy(), rgb.bias.double().numpy()
    values = latents[0].double().numpy()
    _, _, height, width = values.shape
    found = np.empty((len(frames), *size, 3))
    for number, frame in enumerate(frames):
        for row in range(size[0]):
            top, bottom = row * height // size[0], math.ceil((row + 1) * height / size[0])
            for column in range(size[1]):
                left, right = column * width // size[1], math.ceil((column + 1) * width / size[1])
                area = values[:, frame, top:bottom, left:right].reshape(len(factors), -1)
                colour = np.array([sum(area.mean(1) * factors[:, c]) for c in range(3)]) + bias
                found[number, row, column] = np.clip((colour + 1) * 127.5, 0, 255)
    return found


def agrees(found: torch.Tensor, expected: np.ndarray) -> bool:
    """Rounded to the nearest level; either one where fp32 cannot tell."""
    return (
        found.dtype == torch.uint8
        and found.shape == expected.shape
        and bool((np.abs(found.numpy() - expected) < 0.5 + 1e-3).all())
    )


@settings(max_examples=30, deadline=None)
@given(
    channels=st.integers(1, 20),
    frames=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 999),
)
def test_small_latents_are_shown_pixel_by_pixel(channels, frames, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, channels, frames, height, width, generator=generator)
    rgb = LatentRGB(
        torch.randn(channels, 3, generator=generator) / 3, torch.randn(3, generator=generator)
    )
    found = latents_to_rgb(rgb, latents, max_frames=5, max_side=9)
    assert agrees(found, shown(rgb, latents, list(range(frames)), (height, width)))


@pytest.mark.parametrize(
    ("size", "max_side", "smaller"),
    [
        ((60, 104), 96, (55, 96)),
        ((104, 60), 96, (96, 55)),
        ((10, 20), 10, (5, 10)),
        ((7, 11), 5, (3, 5)),
        ((1, 100), 10, (1, 10)),
        ((12, 12), 96, (12, 12)),
        ((96, 96), 96, (96, 96)),
    ],
)
def test_large_latents_are_averaged_in_proportion_and_small_ones_never_enlarged(
    size, max_side, smaller
):
    latents = torch.randn(1, 16, 2, *size, generator=torch.Generator().manual_seed(0))
    found = latents_to_rgb(WAN21, latents, max_frames=8, max_side=max_side)
    assert agrees(found, shown(WAN21, latents, [0, 1], smaller))


def test_the_frames_are_spread_over_the_clip():
    latents = torch.randn(1, 16, 21, 4, 6, generator=torch.Generator().manual_seed(0))
    found = latents_to_rgb(WAN21, latents, max_frames=8, max_side=96)
    assert agrees(found, shown(WAN21, latents, [0, 3, 6, 9, 11, 14, 17, 20], (4, 6)))


@given(st.integers(1, 300), st.integers(1, 12))
def test_spread_is_even_and_has_both_ends(count, at_most):
    chosen = spread(count, at_most)
    assert len(chosen) == min(count, at_most)
    assert chosen[0] == 0
    assert chosen[-1] == (count - 1 if at_most > 1 or count == 1 else 0)
    gaps = {after - before for before, after in itertools.pairwise(chosen)}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


def test_the_latents_are_left_as_they_are():
    latents = torch.randn(1, 16, 3, 4, 4)
    before = latents.clone()
    latents_to_rgb(WAN21, latents, max_frames=8, max_side=2)
    assert torch.equal(latents, before)


def test_what_is_too_bright_or_too_dark_is_clipped():
    for value, level in ((math.inf, 255), (-math.inf, 0), (1e30, 255), (-1e30, 0)):
        rgb = LatentRGB(torch.ones(1, 3), torch.zeros(3))
        found = latents_to_rgb(rgb, torch.full((1, 1, 1, 2, 2), value), max_frames=8, max_side=96)
        assert found.unique().tolist() == [level]


def test_latents_of_nothing_have_the_published_bias():
    found = latents_to_rgb(WAN21, torch.zeros(1, 16, 1, 1, 1), max_frames=8, max_side=96)
    assert found.flatten().tolist() == [104, 116, 85]  # (b + 1) * 127.5
