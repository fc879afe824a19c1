"""Where a denoiser can be wrapped: the seams, and how extensions are put around what they name.

An extension is any object whose class has methods named as seams. Each is given `next`, what it wraps, and then
what `next` takes; it may call it once, several times or not at all:

    step(next, state, velocity, at)            the solver's step
    guide(next, predict, x, scale, at)         guidance over the branches; predict(branch) is a velocity
    model(next, x, timestep, at)               one branch through the model, for some or all latent frames
    blocks(next, tokens, at)                   the stack of blocks; returns x
    block(next, x, i, tokens, at)              block i; returns x
    self_attention(next, q, k, v, i, at)       of block i, after the rotation; [B,heads,N,head_dim]
    cross_attention(next, q, i, at)            of block i over the conditions; [B,heads,N,head_dim]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

SEAMS = ("step", "guide", "model", "blocks", "block", "self_attention", "cross_attention")

Inner = TypeVar("Inner", bound=Callable[..., Any])


@dataclass(frozen=True)
class At:
    """Which call this is.

    step: counted from 0, of `total`. sigma: the noise level it starts from. branch: which of the guidance's
    predictions ("positive", "negative", or what a guidance names); "" where one batch holds several.
    window: the latent frames that are seen, None for all.
    """

    step: int
    total: int
    sigma: float
    branch: str = ""
    window: tuple[int, ...] | None = None


class Tokens(NamedTuple):
    """What runs through the blocks.

    x: fp32 [B,N,d]. time: fp32 [1|B,6,d], what the blocks are modulated by. signal: fp32 [1|B,d], the time
    embedding that `time` is projected from. rope: complex64 [N,1,head_dim/2].
    """

    x: Tensor
    time: Tensor
    signal: Tensor
    rope: Tensor


def around(extensions: Sequence[object], seam: str, inner: Inner) -> Inner:
    """`inner` wrapped by the extensions that have this seam, the first listed outermost; `inner` itself where none
    has it."""
    wrapped: Any = inner
    for extension in reversed(extensions):
        # of the class: an attribute of the object may well be called as a seam is ("model", "blocks")
        method = getattr(type(extension), seam, None)
        if method is not None:
            wrapped = partial(method, extension, wrapped)
    return wrapped
