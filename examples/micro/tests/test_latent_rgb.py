"""The fit of a preview's colours: exact where a VAE is linear, and as good as it says for the shipped one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.components import wan_vae
from engine.models.vae.latent_rgb import read_latent_rgb
from examples.micro.latent_rgb import FILE, _samples, fit_latent_rgb, mean_colours, write_latent_rgb
from presets.spec import VAESpec

SHIPPED = locate("vae", BUILTIN_MICRO).with_name(FILE)


class LinearVAE:
    """Latents of which the mean colours are an exact linear map."""

    def __init__(self) -> None:
        self.mixed = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[
            0
        ]

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        colours = mean_colours(video) - 0.25
        return torch.einsum("bcfhw,cz->bzfhw", colours, self.mixed)


def test_a_linear_vae_is_fitted_exactly(tmp_path: Path) -> None:
    vae = LinearVAE()
    fit = fit_latent_rgb(vae, clips=9, seed=1)
    assert fit.r_squared == pytest.approx(1)
    torch.testing.assert_close(fit.factors.float(), vae.mixed.T, rtol=0, atol=1e-4)
    torch.testing.assert_close(fit.bias.float(), torch.full((3,), 0.25), rtol=0, atol=1e-4)
    write_latent_rgb(tmp_path / FILE, fit, clips=9, seed=1)
    read = read_latent_rgb(tmp_path / FILE)
    torch.testing.assert_close(read.factors, vae.mixed.T, rtol=0, atol=2e-4)
    told = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    assert (told["r_squared"], told["clips"], told["seed"]) == (1.0, 9, 1)


def test_a_latent_stands_for_one_frame_and_then_for_four() -> None:
    video = torch.randn(2, 3, 9, 16, 24, generator=torch.Generator().manual_seed(0))
    found = mean_colours(video)
    assert found.shape == (2, 3, 3, 2, 3)
    for latent, frames in enumerate((slice(0, 1), slice(1, 5), slice(5, 9))):
        for row in range(2):
            for column in range(3):
                window = video[:, :, frames, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                expected = window.mean((2, 3, 4))
                torch.testing.assert_close(found[:, :, latent, row, column], expected)


def test_the_shipped_map_is_as_good_as_it_says() -> None:
    """Clips that the fit has not seen; so few of them scatter by a few hundredths."""
    vae = wan_vae.load(VAESpec(checkpoint=BUILTIN_MICRO, device="cpu", dtype="fp32"))
    rgb = read_latent_rgb(SHIPPED)
    latents, colours = _samples(vae, 8, 12345)
    residual = colours - (latents @ rgb.factors.double() + rgb.bias.double())
    explained = 1 - residual.square().sum() / (colours - colours.mean(0)).square().sum()
    told = json.loads(SHIPPED.read_text(encoding="utf-8"))["r_squared"]
    assert float(explained) == pytest.approx(told, abs=0.1)
