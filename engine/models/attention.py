"""Attention backends: one signature, several kernels.

All take q, k, v of shape [B, heads, N, head_dim] and return the same shape. "plain" is the written-out
formula, the yardstick of the others. Which of them run here is found out by trying (`modiff doctor`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √head_dim) v with the softmax in fp32; needs memory for the [N, N] scores."""
    scores = (q @ k.transpose(-2, -1)).float() * q.shape[-1] ** -0.5
    return scores.softmax(dim=-1).to(v.dtype) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's fused attention, the kernel of its own choice."""
    return F.scaled_dot_product_attention(q, k, v)


def _sdpa_with(kernel: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(kernel):
        return F.scaled_dot_product_attention(q, k, v)


def sage(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """SageAttention (arXiv:2410.02367): 8-bit q and k; CUDA only, approximate."""
    from sageattention import sageattn  # an optional package, imported where it is asked for

    # it makes the card of q the current one, and leaves it so
    with torch.cuda.device(q.device):
        return sageattn(q, k, v, tensor_layout="HND")


BACKENDS: dict[str, Attention] = {
    "plain": plain,
    "sdpa": sdpa,
    "sdpa-flash": partial(_sdpa_with, SDPBackend.FLASH_ATTENTION),
    "sdpa-efficient": partial(_sdpa_with, SDPBackend.EFFICIENT_ATTENTION),
    "sdpa-cudnn": partial(_sdpa_with, SDPBackend.CUDNN_ATTENTION),
    "sage": sage,
}


def get_attention(name: str) -> Attention:
    """The backend of that name. Raises ValueError naming the known ones."""
    try:
        return BACKENDS[name]
    except KeyError:
        raise ValueError(
            f"unknown attention backend {name!r}; known: {', '.join(BACKENDS)}"
        ) from None


def biased(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Attention with an additive bias on the scores, broadcastable to [B, heads, N, M]: for the short
    cross-attention, where only PyTorch's kernels take a bias."""
    return F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype))


def has_kernel(name: str, device: torch.device) -> bool:
    """Whether it is worth trying this backend on that device at all."""
    return device.type == "cuda" or name not in ("sdpa-cudnn", "sage")
