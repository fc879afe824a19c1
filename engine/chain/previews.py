"""The preview of a denoising step: the clean latents that it points to, as a few small frames."""

from __future__ import annotations

from torch import Tensor

from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.models.vae.latent_rgb import WAN21, LatentRGB, latents_to_rgb, read_latent_rgb
from presets.spec import VAESpec
from store.index.previews import MAX_FRAMES, MAX_SIDE, Preview


def colours_of(part: VAESpec, latent_channels: int) -> LatentRGB | None:
    """What shows the latents that this VAE decodes; None where that is not known, and there are no previews."""
    if part.name != "wan-vae":
        return None
    rgb = WAN21
    if part.checkpoint == BUILTIN_MICRO:
        try:
            rgb = read_latent_rgb(locate("vae", BUILTIN_MICRO).with_name("latent_rgb.json"))
        except (OSError, ValueError):  # weights that were exported without
            return None
    return rgb if rgb.latent_channels == latent_channels else None


def preview_of(rgb: LatentRGB, latents: Tensor) -> Preview:
    """The preview of clean latents fp32 [1,C,F,h,w]."""
    frames = latents_to_rgb(rgb, latents, max_frames=MAX_FRAMES, max_side=MAX_SIDE).cpu()
    num_frames, height, width, _ = frames.shape
    return Preview(num_frames, height, width, frames.numpy().tobytes())
