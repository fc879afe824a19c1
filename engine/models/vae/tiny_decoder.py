"""Latents of a small VAE as colours, without it: three small convolutions, for previews.

One matrix (latent_rgb.py) cannot show the colours that such a VAE encodes: they lie in how a latent differs from its
neighbours and from the one before it. So each frame of latents is seen here with the frame before, as the VAE's own
causal decoder sees it, at less than a hundredth of its cost.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Rows and columns of colours that each latent becomes.
SCALE = 4
FILE = "tiny_decoder.safetensors"


class TinyDecoder(nn.Module):
    """Latents fp32 [B,C,F,h,w], normalised as a denoiser works on them -> colours of about [-1,1], fp32
    [B,3,F,4h,4w]: of the frames that a latent stands for their mean."""

    def __init__(self, latent_channels: int = 16, width: int = 48) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.seen = nn.Conv2d(2 * latent_channels, width, 3, padding=1, padding_mode="replicate")
        self.mixed = nn.Conv2d(width, width, 1)
        self.shown = nn.Conv2d(width, 3 * SCALE**2, 1)

    def forward(self, latents: Tensor) -> Tensor:
        batch, _, num_frames, _, _ = latents.shape
        before = F.pad(latents, (0, 0, 0, 0, 1, 0))[:, :, :-1]
        frames = torch.cat([latents, before], 1).movedim(2, 1).flatten(0, 1)
        colours = self.shown(F.gelu(self.mixed(F.gelu(self.seen(frames)))))
        return F.pixel_shuffle(colours, SCALE).unflatten(0, (batch, num_frames)).movedim(1, 2)


def read_tiny_decoder(path: Path) -> TinyDecoder:
    """The decoder of a safetensors file. Raises OSError, and ValueError for another file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
        width, channels = weights["seen.weight"].shape[:2]
        decoder = TinyDecoder(channels // 2, width)
        decoder.load_state_dict(weights)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: no decoder of previews ({error})") from None
    return decoder.float().eval().requires_grad_(False)
