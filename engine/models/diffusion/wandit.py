"""The Wan 2.1 diffusion transformer, with the published parameter names.

Predicts the velocity (noise - data) of noisy latents. Text enters through cross-attention; what depends
on the text alone (its projection, every block's keys and values) is computed once per run by `prepare`
and handed to every step as a `Conditioning`. The residual stream, the time embedding and the modulation
stay in fp32 whatever the dtype of the large matrices, as in the published code.

Source of the architecture: Wan 2.1, `wan/modules/model.py` (arXiv:2503.20314).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from engine.models.attention import Attention, biased, sdpa
from engine.models.diffusion.config import WanDiTConfig


@dataclass(frozen=True)
class Conditioning:
    """What a run's prompt (and image) contribute to every step, per block.

    text: (keys, values), each [B, heads, L, head_dim]; bias [B, 1, 1, L] added to the scores of the text
    keys, or None; image: (keys, values) or None.
    """

    text: tuple[tuple[Tensor, Tensor], ...]
    bias: Tensor | None
    image: tuple[tuple[Tensor, Tensor], ...] | None = None


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the full width, before the split into heads; fp32 in, fp32 out."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift for x [B,N,d] and shift, scale [1|B,1,d], in fp32."""
    if scale.shape[0] == 1:  # one timestep for the batch: the affine step fuses into the norm
        return F.layer_norm(x, x.shape[-1:], 1 + scale.flatten(), shift.flatten(), eps)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), 1 + scale)


def _heads(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    def __init__(self, config: WanDiTConfig) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.q, self.k = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v, self.o = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm_q: nn.Module = RMSNorm(dim, config.eps) if config.qk_norm else nn.Identity()
        self.norm_k: nn.Module = RMSNorm(dim, config.eps) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, rope: Tensor, attention: Attention) -> Tensor:
        """x [B,N,d] in the compute dtype, rope complex [N,1,head_dim/2] -> [B,N,d]."""
        q = _rotate(self.norm_q(self.q(x)).float(), rope, self.num_heads).to(x.dtype)
        k = _rotate(self.norm_k(self.k(x)).float(), rope, self.num_heads).to(x.dtype)
        v = _heads(self.v(x), self.num_heads)
        return self.o(attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    def __init__(self, config: WanDiTConfig) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.q, self.k = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v, self.o = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm_q: nn.Module = RMSNorm(dim, config.eps) if config.qk_norm else nn.Identity()
        self.norm_k: nn.Module = RMSNorm(dim, config.eps) if config.qk_norm else nn.Identity()
        if config.has_image_branch:
            self.k_img, self.v_img = nn.Linear(dim, dim), nn.Linear(dim, dim)
            self.norm_k_img: nn.Module = (
                RMSNorm(dim, config.eps) if config.qk_norm else nn.Identity()
            )

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Projected text [B,L,d] -> keys and values [B,heads,L,head_dim]."""
        k = self.norm_k(self.k(context)).to(context.dtype)
        return _heads(k, self.num_heads), _heads(self.v(context), self.num_heads)

    def image_keys_values(self, image: Tensor) -> tuple[Tensor, Tensor]:
        k = self.norm_k_img(self.k_img(image)).to(image.dtype)
        return _heads(k, self.num_heads), _heads(self.v_img(image), self.num_heads)

    def forward(
        self,
        x: Tensor,
        text: tuple[Tensor, Tensor],
        bias: Tensor | None,
        image: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        q = _heads(self.norm_q(self.q(x)).to(x.dtype), self.num_heads)
        y = biased(q, *text, bias)
        if image is not None:
            y = y + biased(q, *image, None)
        return self.o(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, config: WanDiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.self_attn = SelfAttention(config)
        self.norm3: nn.Module = (
            nn.LayerNorm(config.dim, config.eps) if config.cross_attn_norm else nn.Identity()
        )
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, config.dim),
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        rope: Tensor,
        text: tuple[Tensor, Tensor],
        bias: Tensor | None,
        image: tuple[Tensor, Tensor] | None,
        attention: Attention,
    ) -> Tensor:
        """x [B,N,d] fp32, time [1|B,6,d] fp32 -> [B,N,d] fp32."""
        dtype = self.self_attn.q.weight.dtype
        shift_sa, scale_sa, gate_sa, shift_ff, scale_ff, gate_ff = (
            self.modulation.float() + time
        ).chunk(6, dim=1)
        y = _modulated(x, shift_sa, scale_sa, self.eps)
        x = torch.addcmul(x, self.self_attn(y.to(dtype), rope, attention).float(), gate_sa)
        x = x + self.cross_attn(self.norm3(x).to(dtype), text, bias, image)
        y = _modulated(x, shift_ff, scale_ff, self.eps)
        return torch.addcmul(x, self.ffn(y.to(dtype)).float(), gate_ff)


class Head(nn.Module):
    def __init__(self, config: WanDiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, math.prod(config.patch_size) * config.out_dim)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [B,N,d], time [1|B,d], both fp32 -> [B,N,patch*out_dim] fp32."""
        shift, scale = (self.modulation.float() + time.unsqueeze(1)).chunk(2, dim=1)
        return self.head(_modulated(x, shift, scale, self.eps))


class ImageEmbedding(nn.Module):
    """Image encoder tokens -> context tokens of the transformer's width."""

    def __init__(self, config: WanDiTConfig) -> None:
        super().__init__()
        width = config.image_dim
        self.proj = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, config.dim),
            nn.LayerNorm(config.dim),
        )
        if config.model_type == "flf2v":
            self.emb_pos = nn.Parameter(torch.zeros(1, 2 * 257, width))

    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """tokens [B,257,image_dim] (flf2v: [B,514,image_dim]) -> [B,257|514,d] in `dtype`."""
        if hasattr(self, "emb_pos"):
            tokens = tokens + self.emb_pos
        norm_in, linear_in, gelu, linear_out, norm_out = self.proj
        x = linear_in(norm_in(tokens.float()).to(dtype))
        return norm_out(linear_out(gelu(x)).float()).to(dtype)


class WanDiT(nn.Module):
    """The transformer. `attention` is the self-attention backend (see `engine.models.attention`)."""

    def __init__(self, config: WanDiTConfig, *, attention: Attention = sdpa) -> None:
        super().__init__()
        self.config = config
        self.attention = attention
        dim = config.dim
        self.patch_embedding = nn.Conv3d(
            config.in_dim, dim, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, dim * 6))
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.head = Head(config)
        if config.has_image_branch:
            self.img_emb = ImageEmbedding(config)

    def prepare(
        self,
        context: Tensor,
        image_context: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
    ) -> Conditioning:
        """Everything that the prompt (and image) contribute, once per run.

        context: [B, L, text_dim], L <= text_len: the text encoder's output. All-zero rows at the end of a
        prompt are padding, and so are the rows missing up to text_len: the published model attends to them.
        As they are all the same key, one key with the bias log(count) stands for them, exactly.
        image_context: [B, 257, image_dim] (i2v) or [B, 514, image_dim] (flf2v).
        lengths: [B] int64, real rows per prompt where the caller knows them (then nothing is inspected).
        Raises ValueError on shapes that do not fit.
        """
        config = self.config
        if (
            context.dim() != 3
            or context.shape[2] != config.text_dim
            or context.shape[1] > config.text_len
        ):
            raise ValueError(
                f"context has shape {tuple(context.shape)}, expected [B, at most {config.text_len}, "
                f"{config.text_dim}]"
            )
        if (image_context is not None) != config.has_image_branch:
            raise ValueError(
                f"model type {config.model_type} {'needs' if config.has_image_branch else 'takes no'} "
                "image_context"
            )
        if lengths is None:
            occupied = (context != 0).any(dim=-1)
            positions = torch.arange(1, context.shape[1] + 1, device=context.device)
            lengths = (occupied * positions).amax(dim=1)
            context = context[:, : int(lengths.max())]
        dtype = self.patch_embedding.weight.dtype
        biases = _padding_biases(lengths, context.shape[1], config.text_len, dtype)
        biases = biases.to(context.device)
        padding = context.new_zeros(
            context.shape[0], biases.shape[1] - context.shape[1], config.text_dim
        )
        text = self.text_embedding(torch.cat([context, padding], dim=1).to(dtype))
        image = None
        if image_context is not None:
            tokens = self.img_emb(image_context, dtype)
            image = tuple(layer.image_keys_values(tokens) for layer in self._cross_attentions())
        return Conditioning(
            text=tuple(layer.keys_values(text) for layer in self._cross_attentions()),
            bias=biases[:, None, None, :],
            image=image,
        )

    def _cross_attentions(self) -> Iterator[CrossAttention]:
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block.cross_attn

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        context: Tensor | Conditioning,
        image_context: Tensor | None = None,
    ) -> Tensor:
        """The velocity of noisy latents.

        latents: [B, in_dim, F, H, W], H and W multiples of the patch size (i2v: noise, mask and image latents
        concatenated by the caller). timestep: [B] or [1], in [0, 1000]. context: the text encoder's output
        [B, L, text_dim], or what `prepare` made of it (then image_context is not given again).
        Returns fp32 [B, out_dim, F, H, W]. Raises ValueError on shapes that do not fit.
        """
        patch = self.config.patch_size
        if latents.dim() != 5 or latents.shape[1] != self.config.in_dim:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)}, expected [B,{self.config.in_dim},F,H,W]"
            )
        grid = [size // p for size, p in zip(latents.shape[2:], patch, strict=True)]
        if [g * p for g, p in zip(grid, patch, strict=True)] != list(latents.shape[2:]):
            raise ValueError(
                f"latents of size {tuple(latents.shape[2:])} are not a multiple of the patch {patch}"
            )
        if not isinstance(context, Conditioning):
            context = self.prepare(context, image_context)

        dtype = self.patch_embedding.weight.dtype
        pt, ph, pw = patch
        x = rearrange(
            latents.to(dtype), "b c (f p) (h q) (w r) -> b (f h w) (c p q r)", p=pt, q=ph, r=pw
        )
        x = F.linear(x, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias).float()
        time = self.time_embedding(_sinusoid(timestep, self.config.freq_dim).to(x.device))
        time_6 = self.time_projection(time).unflatten(1, (6, self.config.dim))
        rope = rope_table(*grid, self.config.head_dim, x.device)
        for i, block in enumerate(self.blocks):
            image = None if context.image is None else context.image[i]
            x = block(x, time_6, rope, context.text[i], context.bias, image, self.attention)
        return rearrange(
            self.head(x, time),
            "b (f h w) (p q r c) -> b c (f p) (h q) (w r)",
            f=grid[0], h=grid[1], w=grid[2], p=pt, q=ph, r=pw,
        )  # fmt: skip


def _padding_biases(lengths: Tensor, rows: int, text_len: int, dtype: torch.dtype) -> Tensor:
    """Score biases [B, rows + pads] on the CPU: 0 for real rows, -inf for the unused ones, and for the padding keys
    the logs of numbers that add up to the count of padding rows, text_len - length.

    One padding key would do, but log(500) in bf16 is off by 1 %: a second key holds what the first one's
    rounding leaves over. Counted in float64 on the CPU, because not every device has float64.
    """
    lengths = lengths.cpu()
    count = (text_len - lengths).double()
    first = count.log().to(dtype)
    if dtype != torch.float32:
        first = torch.nextafter(first, torch.full_like(first, -math.inf))
    pads = [first.float()]
    if dtype != torch.float32:
        pads.append((count - first.double().exp()).clamp(min=0).log().to(dtype).float())
    unused = torch.arange(rows) >= lengths[:, None]
    real = torch.zeros(len(lengths), rows).masked_fill(unused, -math.inf)
    return torch.cat([real, torch.stack(pads, dim=1)], dim=1)


def _sinusoid(timestep: Tensor, freq_dim: int) -> Tensor:
    """timestep [B] -> fp32 [B, freq_dim] on the CPU, cosines first, computed in float64 as published."""
    half = freq_dim // 2
    steps = torch.arange(half, dtype=torch.float64)
    angles = timestep.cpu().double().outer(torch.pow(10000.0, -steps / half))
    return torch.cat([angles.cos(), angles.sin()], dim=1).float()


@lru_cache(maxsize=4)
def rope_table(frames: int, rows: int, columns: int, head_dim: int, device: torch.device) -> Tensor:
    """Rotations complex64 [frames*rows*columns, 1, head_dim/2]: the pairs of a head are shared out over
    time, height and width (22, 21 and 21 of 64), each axis with its own frequencies; built in float64."""
    pairs = head_dim // 2
    sizes = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    axes = []
    for axis, (length, size) in enumerate(zip((frames, rows, columns), sizes, strict=True)):
        frequencies = torch.pow(10000.0, -torch.arange(size, dtype=torch.float64) / size)
        angles = torch.arange(length, dtype=torch.float64).outer(frequencies)
        shape = [1, 1, 1, size]
        shape[axis] = length
        axes.append(angles.view(shape).expand(frames, rows, columns, size))
    angles = torch.cat(axes, dim=-1).reshape(-1, 1, pairs)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64).to(device)


def _rotate(x: Tensor, rope: Tensor, num_heads: int) -> Tensor:
    """x fp32 [B,N,d] -> rotated fp32 [B,heads,N,head_dim]; neighbouring channels are one complex number."""
    x = torch.view_as_complex(x.unflatten(-1, (num_heads, -1, 2)))
    return torch.view_as_real(x * rope).flatten(-2).transpose(1, 2)
