"""UMT5, the text encoder of Wan, in plain torch under the names of the published checkpoint.

Source: Wan 2.1, `wan/modules/t5.py`; arithmetic as of transformers' `UMT5EncoderModel`, bit for bit, held by the tests.

Only the real tokens run. In the published pipeline prompts are padded to 512 tokens, masked inside the
encoder and cut back to the real ones afterwards; a masked key has softmax weight exactly zero, so leaving
the padding out changes nothing but the time (8 to 17 times less).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EOS_ID = 1
MAX_DISTANCE = 128
"""From here on all distances between tokens share a bucket."""
EPS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class UMT5Config:
    """Sizes. inner: width of all attention heads together; buckets: of distances, half of them for each direction."""

    vocab: int
    dim: int
    ffn: int
    layers: int
    heads: int
    buckets: int
    inner: int


class RMSNorm(nn.Module):
    """x * rsqrt(mean(x²) + eps) in fp32, then weight, in its dtype (arXiv:1910.07467)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + EPS)).to(self.weight.dtype)


class GELU(nn.Module):
    """By tanh, written out as published: torch's own rounds otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
        return 0.5 * x * (1.0 + torch.tanh(inner))


class Attention(nn.Module):
    """Of all tokens to all tokens, without a scale; bias [1|B,heads,L,L] is added to the scores."""

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.q = nn.Linear(config.dim, config.inner, bias=False)
        self.k = nn.Linear(config.dim, config.inner, bias=False)
        self.v = nn.Linear(config.dim, config.inner, bias=False)
        self.o = nn.Linear(config.inner, config.dim, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            each(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (self.q, self.k, self.v)
        )
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.o(found.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(config.dim, config.ffn, bias=False), GELU())
        self.fc1 = nn.Linear(config.dim, config.ffn, bias=False)
        self.fc2 = nn.Linear(config.ffn, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.gate(x) * self.fc1(x))


class RelativePositions(nn.Module):
    """A bias for each head and each bucket of distances."""

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.embedding = _embedding(config.buckets, config.heads)

    def forward(self, buckets: Tensor) -> Tensor:
        """buckets: int64 [L,L] -> [heads,L,L]."""
        return self.embedding(buckets).permute(2, 0, 1).contiguous()


class Block(nn.Module):
    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.dim)
        self.attn = Attention(config)
        self.pos_embedding = RelativePositions(config)
        self.norm2 = RMSNorm(config.dim)
        self.ffn = FeedForward(config)

    def forward(self, x: Tensor, buckets: Tensor, is_real: Tensor | None) -> Tensor:
        bias = self.pos_embedding(buckets)[None]
        if is_real is not None:
            bias = torch.where(is_real[:, None, None], bias, torch.finfo(bias.dtype).min)
        x = _finite(x + self.attn(self.norm1(x), bias))
        return _finite(x + self.ffn(self.norm2(x)))


def _embedding(rows: int, dim: int) -> nn.Embedding:
    """As nn.Embedding(rows, dim), which on the meta device has torch import its compiler: seconds of every start."""
    numbers = torch.empty(rows, dim)
    return nn.Embedding.from_pretrained(
        numbers if numbers.is_meta else numbers.normal_(), freeze=False
    )


class UMT5Encoder(nn.Module):
    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = _embedding(config.vocab, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim)

    def forward(self, ids: Tensor, is_real: Tensor | None = None) -> Tensor:
        """Token ids int64 [B,L] -> states [B,L,dim]. is_real: bool [B,L], False for padding, which nothing attends
        to; None where there is none."""
        x = self.token_embedding(ids)
        buckets = distance_buckets(ids.shape[1], self.config.buckets, ids.device)
        for block in self.blocks:
            x = block(x, buckets, is_real)
        return self.norm(x)


def distance_buckets(length: int, num_buckets: int, device: torch.device | str = "cpu") -> Tensor:
    """Which bucket the distance from token i to token j is in, int64 [L,L]: one each for the near ones, then wider by
    the logarithm, up to MAX_DISTANCE (arXiv:1910.10683, appendix)."""
    positions = torch.arange(length, device=device)
    distance = positions[None, :] - positions[:, None]
    half = num_buckets // 2
    near = half // 2
    far = torch.log(distance.abs().float() / near) / math.log(MAX_DISTANCE / near) * (half - near)
    far = (near + far.to(torch.long)).clamp(max=half - 1)
    return (distance > 0).long() * half + torch.where(distance.abs() < near, distance.abs(), far)


def build(config: UMT5Config) -> UMT5Encoder:
    """The encoder on the current default device, not yet filled (use under `torch.device("meta")`)."""
    return UMT5Encoder(config).eval().requires_grad_(False)


class UMT5:
    """Prompt -> token states. tokenize: prompt -> token ids, cleaned and cut as published."""

    def __init__(self, model: UMT5Encoder, tokenize: Callable[[str], Sequence[int]]) -> None:
        self.model = model
        self.tokenize = tokenize

    @torch.no_grad()
    def encode(self, prompt: str) -> Tensor:
        """prompt -> [L, dim] in the model's dtype and on its device, one row a real token, the
        end-of-sequence token included; 1 <= L <= 512."""
        device = self.model.norm.weight.device
        states: Tensor = self.model(torch.tensor([self.tokenize(prompt)], device=device))[0]
        return states


def _finite(x: Tensor) -> Tensor:
    """In fp16 without infinities, as transformers clamps them; else x."""
    if x.dtype != torch.float16:
        return x
    most = torch.finfo(x.dtype).max
    limit = torch.where(torch.isinf(x).any(), most - 1000, most)
    return torch.clamp(x, min=-limit, max=limit)
