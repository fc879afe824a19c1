"""Previews: of a denoising step the clean latents that it points to, of a video the video, as a few small frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.models.vae.latent_rgb import (
    WAN21,
    LatentRGB,
    latents_to_rgb,
    read_latent_rgb,
    smaller,
    spread,
)
from presets.spec import VAESpec
from store.index.previews import MAX_FRAMES, MAX_SIDE, Preview

STEP_FRAMES = 8


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
    return _preview(latents_to_rgb(rgb, latents, max_frames=STEP_FRAMES, max_side=MAX_SIDE))


class Thumbnails:
    """A video's frames made small as they come, of which `preview` is some. Each takes at most 27 kB."""

    def __init__(self) -> None:
        self._frames: list[Tensor] = []

    def add(self, frames: Tensor) -> None:
        """frames: uint8 [t,H,W,3], any number of them, all of one size."""
        _, height, width, _ = frames.shape
        size = smaller(height, width, MAX_SIDE)
        if size != (height, width):
            planes = frames.permute(0, 3, 1, 2).contiguous()  # a third faster
            means = F.adaptive_avg_pool2d(planes.float(), size)
            frames = means.round_().byte().permute(0, 2, 3, 1).contiguous()
        self._frames.append(frames)

    def preview(self) -> Preview:
        """At most MAX_FRAMES of the frames, spread evenly from the first to the last. Raises RuntimeError without any."""
        frames = torch.cat(self._frames)
        return _preview(frames[spread(len(frames), MAX_FRAMES)])


def _preview(frames: Tensor) -> Preview:
    """frames: uint8 [T,H,W,3]."""
    num_frames, height, width, _ = frames.shape
    return Preview(num_frames, height, width, frames.cpu().numpy().tobytes())
