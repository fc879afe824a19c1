"""The Wan 2.1 diffusion transformer, with the published parameter names.

Predicts the velocity (noise - data) of noisy latents. Text enters through cross-attention; what depends
on the text alone (its projection, every block's keys and values) is computed once per run by `prepare`
and handed to every step as a `Conditioning`. The residual stream, the time embedding and the modulation
stay in fp32 whatever the dtype of the large matrices, as in the published code.

Source of the architecture: Wan 2.1, `wan/modules/model.py` (arXiv:2503.20314).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from engine.models.attention import Attention, biased, sdpa
from engine.models.diffusion.config import WanDiTConfig, conditions_of
from engine.models.diffusion.padding import collapse_padding
from engine.models.seams import At, Tokens, around
from engine.models.swap.swap import Swap

Conditions = Mapping[str, Tensor]
"""What a run is conditioned on, by name: "text" [B, L, text_dim]; for i2v and flf2v also "image" [B, 257 or 514,
image_dim], the image encoder's tokens of one or two pictures, and "latents" [B, in_dim - out_dim, F, H, W], the masks
and latents of the given frames."""

Pairs = list[tuple[Tensor, Tensor]]  # keys and values of each block

_ONE_CALL = At(step=0, total=1, sigma=1.0)  # a call that belongs to no run


@dataclass(frozen=True)
class Conditioning:
    """What a run's conditions contribute to every step, per block.

    text: (keys, values), each [B, heads, L, head_dim]; bias [B, 1, 1, L] added to the scores of the text
    keys, or None; image: (keys, values) or None; latents: [B, in_dim - out_dim, F, H, W] in the compute dtype, which
    the noisy latents are concatenated with, or None.
    """

    text: tuple[tuple[Tensor, Tensor], ...]
    bias: Tensor | None
    image: tuple[tuple[Tensor, Tensor], ...] | None = None
    latents: Tensor | None = None

    def attend(self, q: Tensor, i: int) -> Tensor:
        """Cross-attention of block i: q [B, heads, N, head_dim] over the text, plus that over the image."""
        y = biased(q, *self.text[i], self.bias)
        return y if self.image is None else y + biased(q, *self.image[i], None)


@dataclass(frozen=True)
class Lane:
    """One call on its way through the blocks. block: (x, i, tokens, at) -> x."""

    tokens: Tokens
    at: At
    block: Callable[[Tensor, int, Tokens, At], Tensor]


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

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """x [B,N,d] in the compute dtype -> [B,N,d]; attend: queries [B,heads,N,head_dim] over the conditions."""
        q = _heads(self.norm_q(self.q(x)).to(x.dtype), self.num_heads)
        return self.o(attend(q).transpose(1, 2).flatten(2))


def _modulation(rows: int, dim: int) -> nn.Parameter:
    """[1, rows, dim]. To draw numbers on the meta device has torch import its compiler: seconds of every start."""
    numbers = torch.empty(1, rows, dim)
    return nn.Parameter(numbers if numbers.is_meta else numbers.normal_().div_(dim**0.5))


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
        self.modulation = _modulation(6, config.dim)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        rope: Tensor,
        attention: Attention,
        cross_attention: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """x [B,N,d] fp32, time [1|B,6,d] fp32 -> [B,N,d] fp32."""
        dtype = self.self_attn.q.bias.dtype  # the weight may be packed
        shift_sa, scale_sa, gate_sa, shift_ff, scale_ff, gate_ff = (
            self.modulation.float() + time
        ).chunk(6, dim=1)
        y = _modulated(x, shift_sa, scale_sa, self.eps)
        x = torch.addcmul(x, self.self_attn(y.to(dtype), rope, attention).float(), gate_sa)
        x = x + self.cross_attn(self.norm3(x).to(dtype), cross_attention)
        y = _modulated(x, shift_ff, scale_ff, self.eps)
        return torch.addcmul(x, self.ffn(y.to(dtype)).float(), gate_ff)


class Head(nn.Module):
    def __init__(self, config: WanDiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, math.prod(config.patch_size) * config.out_dim)
        self.modulation = _modulation(2, config.dim)

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
    """The transformer."""

    def __init__(self, config: WanDiTConfig) -> None:
        super().__init__()
        self.config = config
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
        self.swap: Swap | None = None  # where not all blocks stay on their device

    @property
    def num_bytes(self) -> int:
        """What it takes of its device now."""
        held = [each for each in self.parameters() if each.device.type != "meta"]
        slots = [] if self.swap is None else self.swap.slots
        return sum(each.nbytes for each in [*held, *slots])

    def at_work(self) -> AbstractContextManager[None]:
        """From here to its end the model may be called: what brings blocks that are swapped is at work."""
        return nullcontext() if self.swap is None else self.swap.at_work()

    def prepare(self, conditions: Conditions, *, lengths: Tensor | None = None) -> Conditioning:
        """Everything that the conditions contribute, once per run; as `prepare_each`."""
        return self.prepare_each([conditions], lengths=[lengths])[0]

    def prepare_each(
        self, several: Sequence[Conditions], *, lengths: Sequence[Tensor | None] | None = None
    ) -> list[Conditioning]:
        """What each of several conditions contributes, block by block, so that a block that is swapped comes once for
        all of them.

        several: each as of `Conditions`. Of the text, L <= text_len, all-zero rows at the end of a prompt and the rows
        missing up to text_len are padding, which the published model attends to (see `padding`).
        lengths: [B] int64 each, real rows per prompt where the caller knows them (then nothing is inspected).
        Raises ValueError on conditions that are missing, unknown or do not fit.
        """
        lengths = lengths or [None] * len(several)
        taken = [self._taken(*each) for each in zip(several, lengths, strict=True)]
        pairs: list[tuple[Pairs, Pairs]] = [([], []) for _ in taken]
        for i in range(len(self.blocks)):
            with self._held(i) as block:
                for (text, _, image, _), (of_text, of_image) in zip(taken, pairs, strict=True):
                    of_text.append(block.cross_attn.keys_values(text))
                    if image is not None:
                        of_image.append(block.cross_attn.image_keys_values(image))
        return [
            Conditioning(tuple(of_text), bias, tuple(of_image) or None, latents)
            for (_, bias, _, latents), (of_text, of_image) in zip(taken, pairs, strict=True)
        ]

    def _taken(
        self, conditions: Conditions, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """What no block is needed for: (text [B,L,d], bias of its padding, image [B,tokens,d], latents)."""
        config, dtype = self.config, self.patch_embedding.weight.dtype
        _check_conditions(conditions, config)
        rows, bias = collapse_padding(conditions["text"], lengths, config.text_len, dtype)
        text = self.text_embedding(rows.to(dtype))
        image = self.img_emb(conditions["image"], dtype) if config.has_image_branch else None
        latents = conditions["latents"].to(dtype) if "latents" in conditions else None
        return text, bias, image, latents

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        *,
        attention: Attention = sdpa,
        extensions: Sequence[object] = (),
        at: At = _ONE_CALL,
    ) -> Tensor:
        """The velocity of noisy latents.

        latents: [B, out_dim, F, H, W], H and W multiples of the patch size. timestep: [B] or [1], in [0, 1000].
        conditioning: what `prepare` made.
        attention: the self-attention backend (see `engine.models.attention`). extensions: what is put around the
        seams from `blocks` inwards (see `engine.models.seams`), the first outermost. at: which call of a run this
        is, for them. Returns fp32 [B, out_dim, F, H, W]. Raises ValueError on shapes that do not fit.
        """
        tokens, grid = self._embedded(latents, timestep, conditioning)
        block = self._block(conditioning, attention, extensions)

        def stack(tokens: Tokens, at: At) -> Tensor:
            return self._through([Lane(tokens, at, block)])[0]

        x = around(extensions, "blocks", stack)(tokens, at)
        return self._velocity(x, tokens, grid)

    def in_turns(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditionings: Sequence[Conditioning],
        *,
        attention: Attention = sdpa,
        extensions: Sequence[object] = (),
        ats: Sequence[At],
    ) -> list[Tensor]:
        """What `forward` gives for each of several conditionings, the same bits, but block by block, so that a block
        that is swapped comes once for all of them. Of the extensions none has the seam `blocks`."""
        lanes, grid = [], [0]
        for conditioning, at in zip(conditionings, ats, strict=True):
            tokens, grid = self._embedded(latents, timestep, conditioning)
            lanes.append(Lane(tokens, at, self._block(conditioning, attention, extensions)))
        return [
            self._velocity(x, lane.tokens, grid)
            for x, lane in zip(self._through(lanes), lanes, strict=True)
        ]

    def _embedded(
        self, latents: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> tuple[Tokens, list[int]]:
        """(what runs through the blocks, how many tokens it has along time, height and width)."""
        patch, dtype = self.config.patch_size, self.patch_embedding.weight.dtype
        given = conditioning.latents
        channels = self.config.in_dim - (0 if given is None else given.shape[1])
        if latents.dim() != 5 or latents.shape[1] != channels:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)}, expected [B,{channels},F,H,W]"
            )
        if given is not None:
            if given.shape[2:] != latents.shape[2:]:
                raise ValueError(
                    f"the condition 'latents' has size {tuple(given.shape[2:])}, expected that of the noisy ones, "
                    f"{tuple(latents.shape[2:])}"
                )
            latents = torch.cat(
                [latents.to(dtype), given.expand(len(latents), *given.shape[1:])], dim=1
            )
        grid = [size // p for size, p in zip(latents.shape[2:], patch, strict=True)]
        if [g * p for g, p in zip(grid, patch, strict=True)] != list(latents.shape[2:]):
            raise ValueError(
                f"latents of size {tuple(latents.shape[2:])} are not a multiple of the patch {patch}"
            )

        pt, ph, pw = patch
        x = rearrange(
            latents.to(dtype), "b c (f p) (h q) (w r) -> b (f h w) (c p q r)", p=pt, q=ph, r=pw
        )
        x = F.linear(x, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias).float()
        signal = self.time_embedding(_sinusoid(timestep, self.config.freq_dim).to(x.device))
        time = self.time_projection(signal).unflatten(1, (6, self.config.dim))
        rope = rope_table(*grid, self.config.head_dim, x.device)
        return Tokens(x, time, signal, rope), grid

    def _velocity(self, x: Tensor, tokens: Tokens, grid: Sequence[int]) -> Tensor:
        pt, ph, pw = self.config.patch_size
        return rearrange(
            self.head(x, tokens.signal),
            "b (f h w) (p q r c) -> b c (f p) (h q) (w r)",
            f=grid[0], h=grid[1], w=grid[2], p=pt, q=ph, r=pw,
        )  # fmt: skip

    def _through(self, lanes: Sequence[Lane]) -> list[Tensor]:
        """The x of each lane [B,N,d] fp32 after all blocks."""
        xs = [lane.tokens.x for lane in lanes]
        for i in range(len(self.blocks)):
            with self._held(i):
                for k, lane in enumerate(lanes):
                    xs[k] = lane.block(xs[k], i, lane.tokens, lane.at)
        return xs

    def _block(
        self, conditioning: Conditioning, attention: Attention, extensions: Sequence[object]
    ) -> Callable[[Tensor, int, Tokens, At], Tensor]:
        """One block, (x, i, tokens, at) -> x [B,N,d] fp32, with the extensions around its seams."""

        def attend(q: Tensor, k: Tensor, v: Tensor, i: int, at: At) -> Tensor:
            return attention(q, k, v)

        def attend_across(q: Tensor, i: int, at: At) -> Tensor:
            return conditioning.attend(q, i)

        self_attention = around(extensions, "self_attention", attend)
        cross_attention = around(extensions, "cross_attention", attend_across)

        def one(x: Tensor, i: int, tokens: Tokens, at: At) -> Tensor:
            return self.blocks[i](
                x,
                tokens.time,
                tokens.rope,
                lambda q, k, v: self_attention(q, k, v, i, at),
                lambda q: cross_attention(q, i, at),
            )

        return around(extensions, "block", one)

    @contextmanager
    def _held(self, i: int) -> Iterator[Block]:
        """Block i, which is on its device for as long."""
        with nullcontext() if self.swap is None else self.swap.block(i):
            yield cast(Block, self.blocks[i])


def _check_conditions(conditions: Conditions, config: WanDiTConfig) -> None:
    wanted = {*conditions_of(config.model_type, config.in_dim, config.out_dim)}
    for name in sorted(wanted ^ conditions.keys()):
        verb = "needs the" if name in wanted else "takes no"
        raise ValueError(f"model type {config.model_type} {verb} condition {name!r}")
    shape = conditions["text"].shape
    if len(shape) != 3 or shape[2] != config.text_dim or shape[1] > config.text_len:
        raise ValueError(
            f"the condition 'text' has shape {tuple(shape)}, expected [B, at most {config.text_len}, "
            f"{config.text_dim}]"
        )


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
