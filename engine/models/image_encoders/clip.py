"""The image tower of CLIP ViT-H/14 in plain torch, under the names of the published checkpoint.

Wan 2.1 conditions on what leaves its last block but one: no norm, pooling or projection follows.
Source: Wan 2.1, `wan/modules/clip.py`; arithmetic as of transformers' `CLIPVisionModel`, bit for bit in fp32, held by
the tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.image_encoders.config import HEAD_DIM, CLIPConfig

EPS = 1e-5
MEAN = (0.48145466, 0.4578275, 0.40821073)
# of a picture that is cropped, to its shorter side
_LONGEST = 16
STD = (0.26862954, 0.26130258, 0.27577711)


class Attention(nn.Module):
    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            each.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)
            for each in self.to_qkv(x).chunk(3, dim=-1)
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, EPS)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, EPS)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp), nn.GELU(), nn.Linear(config.mlp, config.width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        width = config.width
        self.patch_embedding = nn.Conv2d(3, width, config.patch, config.patch, bias=False)
        self.cls_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embedding = nn.Parameter(torch.zeros(1, config.tokens, width))
        self.pre_norm = nn.LayerNorm(width, EPS)
        self.transformer = nn.Sequential(*(Block(config) for _ in range(config.layers)))
        self.post_norm = nn.LayerNorm(width, EPS)  # of what nobody here asks for

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: normalised [B,3,side,side] in the dtype of the weights -> [B,tokens,width]."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_embedding.expand(len(patches), -1, -1), patches], dim=1)
        x = self.pre_norm(x + self.pos_embedding)
        for block in list(self.transformer)[:-1]:
            x = block(x)
        return x


class CLIP(nn.Module):
    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.side = config.side
        self.visual = VisionTransformer(config)

    @torch.no_grad()
    def encode(self, pictures: Sequence[Tensor], *, fit: str = "stretch") -> Tensor:
        """pictures: [3,H,W] in [-1,1] each, of any size, on the CPU -> [sum of tokens, width], in their order, in the
        dtype of the weights. fit: as of `looked_at`."""
        weight = self.visual.patch_embedding.weight
        pixels = torch.stack([looked_at(picture, self.side, fit) for picture in pictures])
        return self.visual(pixels.to(weight.device, weight.dtype)).flatten(0, 1)


def looked_at(picture: Tensor, side: int, fit: str = "stretch") -> Tensor:
    """A picture [3,H,W] in [-1,1] as the tower sees it: [3,side,side] fp32, normalised.

    fit: "stretch" resizes to the square as published, bicubic and without antialiasing, and clamps nothing; "crop"
    resizes the shorter side with antialiasing and takes the middle, as diffusers and ComfyUI do.
    """
    batch = picture[None].float()
    if fit == "crop":
        # what is far from the middle of a very long picture would be enlarged for nothing
        most = _LONGEST * min(batch.shape[2:])
        batch = _middle(batch, most, most)
        height, width = batch.shape[2:]
        scale = side / min(height, width)
        size = (max(side, round(height * scale)), max(side, round(width * scale)))
        batch = F.interpolate(batch, size, mode="bicubic", align_corners=False, antialias=True)
        batch = _middle(batch, side, side)
    else:
        batch = F.interpolate(batch, (side, side), mode="bicubic", align_corners=False)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((batch * 0.5 + 0.5 - mean) / std)[0]


def _middle(batch: Tensor, height: int, width: int) -> Tensor:
    """The middle of pictures [B,3,H,W], at most so large."""
    top, left = max(0, batch.shape[2] - height) // 2, max(0, batch.shape[3] - width) // 2
    return batch[:, :, top : top + height, left : left + width]
