"""Previews: of a denoising step the clean latents that it points to, of a video the video, as a few small frames."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.components.providers import taehv
from engine.errors import CheckpointError
from engine.models.vae.latent_rgb import WAN21, latents_to_rgb, smaller, spread, to_pixels
from engine.models.vae.taehv import TAEHV
from engine.models.vae.tiny_decoder import FILE, TinyDecoder, read_tiny_decoder
from store.index.previews import MAX_FRAMES, MAX_SIDE, Preview

STEP_FRAMES = 8

log = logging.getLogger(__name__)

Facts = Mapping[str, Any]
"""What a VAE's provider tells of it: "latent_channels", and "latents_of": whose colours they have, "wan2.1" or
"micro"."""


def previewer_of(facts: Facts) -> Callable[[Tensor], Preview] | None:
    """What makes a preview of clean latents fp32 [1,C,F,h,w] that a VAE of these facts decodes; None where nobody
    knows how they are shown, and there are no previews of steps."""
    latent_channels, whose = facts.get("latent_channels"), facts.get("latents_of")
    if whose == "wan2.1" and latent_channels == WAN21.latent_channels:
        return _previewer_of_wan()
    if whose != "micro":
        return None
    try:
        decoder = read_tiny_decoder(locate("vae", BUILTIN_MICRO).with_name(FILE))
    except (OSError, ValueError):  # weights that were exported without
        return None
    return partial(decoded_preview, decoder) if latent_channels == decoder.latent_channels else None


def _previewer_of_wan() -> Callable[[Tensor], Preview]:
    """By a TAEHV where its file is there, else by a matrix."""
    try:
        decoder = taehv.for_previews()
    except CheckpointError as error:
        log.warning("steps are shown without a TAEHV: %s", error)
        decoder = None
    return preview_of if decoder is None else partial(thumbnails_preview, decoder)


def preview_of(latents: Tensor) -> Preview:
    """The preview of clean latents of the published VAE, fp32 [1,16,F,h,w]."""
    return _preview(latents_to_rgb(WAN21, latents, max_frames=STEP_FRAMES, max_side=MAX_SIDE))


@torch.no_grad()
def decoded_preview(decoder: TinyDecoder, latents: Tensor) -> Preview:
    """The preview of clean latents fp32 [1,C,F,h,w] that a tiny decoder knows."""
    colours = decoder(latents.cpu())[0]
    colours = colours[:, spread(colours.shape[1], STEP_FRAMES)]
    return _preview(to_pixels((colours + 1) * 127.5, MAX_SIDE))


@torch.no_grad()
def thumbnails_preview(decoder: TAEHV, latents: Tensor) -> Preview:
    """The preview of clean latents fp32 [1,16,F,h,w] of the published VAE, on their device."""
    colours = decoder.to(latents.device).thumbnails(latents)[0]
    colours = colours[:, spread(colours.shape[1], STEP_FRAMES)]
    return _preview(to_pixels((colours + 1) * 127.5, MAX_SIDE))


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
        """At most MAX_FRAMES of them, spread evenly from the first to the last. Raises RuntimeError without one."""
        frames = torch.cat(self._frames)
        return _preview(frames[spread(len(frames), MAX_FRAMES)])


def _preview(frames: Tensor) -> Preview:
    """frames: uint8 [T,H,W,3]."""
    num_frames, height, width, _ = frames.shape
    return Preview(num_frames, height, width, frames.cpu().numpy().tobytes())
