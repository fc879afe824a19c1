"""What latents look like, without a VAE: one linear map from channels to colours, for previews.

A latent of the Wan VAE stands for 8x8 pixels of one frame (the first) or of four. Its channels are close to linear in
the mean colour of those pixels, so that a matrix shows them, at a thousandth of the cost of decoding and at an eighth
of its resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LatentRGB:
    """colour = latent @ factors + bias, in [-1,1]; for normalised latents, those that a denoiser works on.

    factors: fp32 [C,3]. bias: fp32 [3].
    """

    factors: Tensor
    bias: Tensor

    @property
    def latent_channels(self) -> int:
        return len(self.factors)


# The published Wan 2.1 VAE. Source of the figures: ComfyUI, `comfy/latent_formats.py`, class Wan21; there they are
# applied to a sampler's denoised latents, which like ours are normalised by the published mean and deviation.
WAN21 = LatentRGB(
    torch.tensor(
        [
            [-0.1299, -0.1692, 0.2932],
            [0.0671, 0.0406, 0.0442],
            [0.3568, 0.2548, 0.1747],
            [0.0372, 0.2344, 0.1420],
            [0.0313, 0.0189, -0.0328],
            [0.0296, -0.0956, -0.0665],
            [-0.3477, -0.4059, -0.2925],
            [0.0166, 0.1902, 0.1975],
            [-0.0412, 0.0267, -0.1364],
            [-0.1293, 0.0740, 0.1636],
            [0.0680, 0.3019, 0.1128],
            [0.0032, 0.0581, 0.0639],
            [-0.1251, 0.0927, 0.1699],
            [0.0060, -0.0633, 0.0005],
            [0.3477, 0.2275, 0.2950],
            [0.1984, 0.0913, 0.1861],
        ]
    ),
    torch.tensor([-0.1835, -0.0868, -0.3360]),
)


def latents_to_rgb(rgb: LatentRGB, latents: Tensor, *, max_frames: int, max_side: int) -> Tensor:
    """Latents fp32 [1,C,F,h,w] -> uint8 [F',h',w',3] on their device.

    F' is at most max_frames, spread evenly from the first frame to the last. h' and w' are at most max_side, in
    proportion: averaged over areas where they are smaller than h and w, never enlarged.
    """
    frames = latents[0]
    if frames.shape[1] > max_frames:
        frames = frames[:, spread(frames.shape[1], max_frames)]
    channels, num_frames, height, width = frames.shape
    factors, bias = rgb.factors.to(latents.device), rgb.bias.to(latents.device)
    # (x @ factors + bias + 1) * 127.5: levels from 0 to 255
    levels = torch.addmm(
        (bias + 1)[:, None], factors.T, frames.reshape(channels, -1), beta=127.5, alpha=127.5
    )
    return to_pixels(levels.view(3, num_frames, height, width), max_side)


def to_pixels(levels: Tensor, max_side: int) -> Tensor:
    """Levels fp32 [3,F,h,w] of 0 to 255, which may be changed -> uint8 [F,h',w',3] within max_side, in proportion:
    averaged over areas, never enlarged."""
    _, _, height, width = levels.shape
    size = smaller(height, width, max_side)
    if size != (height, width):
        levels = F.adaptive_avg_pool2d(levels, size)
    rows = levels.round_().clamp_(0, 255).permute(1, 2, 3, 0)
    return rows.to(torch.uint8, memory_format=torch.contiguous_format)


def smaller(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Rows and columns of a picture within max_side, in proportion, never enlarged."""
    scale = min(1.0, max_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def spread(count: int, at_most: int) -> list[int]:
    """The indices of at most so many of `count` things, evenly from the first to the last."""
    if count <= at_most:
        return list(range(count))
    if at_most == 1:
        return [0]
    return [round(number * (count - 1) / (at_most - 1)) for number in range(at_most)]
