"""The fit of what shows latents in previews: it learns, is written and read again, and is as good as it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.components.providers import wan_vae
from engine.micro.grammar import FOREGROUNDS
from engine.models.vae.tiny_decoder import FILE, read_tiny_decoder
from examples.micro.model.tiny_decoder import (
    explained,
    fit_tiny_decoder,
    mean_colours,
    samples,
    write_tiny_decoder,
)
from presets.spec.components import VAESpec

SHIPPED = locate("vae", BUILTIN_MICRO).with_name(FILE)


class PooledVAE:
    """Latents that are the mean colours of their pixels themselves."""

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool3d(mean_colours(video), (1, 4, 4))


def test_it_learns_and_comes_back_as_it_was_written(tmp_path: Path) -> None:
    fit = fit_tiny_decoder(PooledVAE(), clips=16, seed=1, steps=100)  # type: ignore[arg-type]
    assert fit.r_squared > 0.5
    write_tiny_decoder(tmp_path / FILE, fit, clips=16, seed=1)
    read = read_tiny_decoder(tmp_path / FILE)
    latents = torch.randn(1, 3, 2, 4, 5)
    torch.testing.assert_close(read(latents), fit.decoder(latents), rtol=0.02, atol=0.02)
    with safe_open(tmp_path / FILE, "pt") as file:
        assert file.metadata() == {
            "r_squared": f"{fit.r_squared:.3f}",
            "clips": "16",
            "seed": "1",
        }


def test_a_latent_stands_for_one_frame_and_then_for_four() -> None:
    video = torch.randn(2, 3, 9, 16, 24, generator=torch.Generator().manual_seed(0))
    found = mean_colours(video)
    assert found.shape == (2, 3, 3, 8, 12)
    for latent, frames in enumerate((slice(0, 1), slice(1, 5), slice(5, 9))):
        for row in range(8):
            for column in range(12):
                window = video[:, :, frames, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                expected = window.mean((2, 3, 4))
                torch.testing.assert_close(found[:, :, latent, row, column], expected)


def test_the_shipped_one_is_as_good_as_it_says_and_shows_true_colours() -> None:
    """Clips that the fit has not seen; so few of them scatter by a hundredth."""
    vae = wan_vae.load(VAESpec(checkpoint=BUILTIN_MICRO, device="cpu", dtype="fp32"))
    decoder = read_tiny_decoder(SHIPPED)
    latents, colours = samples(vae, 8, 12345)
    with safe_open(SHIPPED, "pt") as file:
        told = float(file.metadata()["r_squared"])
    assert explained(decoder, latents, colours) == pytest.approx(told, abs=0.03)
    levels = ((decoder(latents).clamp(-1, 1) + 1) * 127.5).movedim(1, -1)
    truth = ((colours + 1) * 127.5).movedim(1, -1)
    objects = torch.tensor([*FOREGROUNDS.values()]).float()
    is_object = (truth[..., None, :] - objects).norm(dim=-1).amin(-1) < 30
    assert is_object.float().mean() > 0.02
    assert (levels - truth)[is_object].norm(dim=-1).mean() < 40
