"""What a stage runs on: protocols in terms of tensors, silent about where a component runs.

Torch-free to import. Tensors are on the component's own device; whoever calls moves them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KINDS = ("text_encoder", "denoiser", "vae")


class TextEncoder(Protocol):
    def fingerprint(self) -> str:
        """What the numbers depend on, as a short text; cheap, and without loading weights."""
        ...

    def encode(self, prompt: str) -> Tensor:
        """prompt -> token states [L, text_dim], real tokens only, in the encoder's dtype."""
        ...


class Denoiser(Protocol):
    device: torch.device
    latent_channels: int

    def fingerprint(self) -> str: ...

    def prepare(self, contexts: Sequence[Tensor]) -> Any:
        """Token states [L_i, text_dim] of a batch of prompts -> their conditioning, once per run."""
        ...

    def velocity(self, latents: Tensor, timestep: Tensor, conditioning: Any) -> Tensor:
        """latents fp32 [B,C,F,H,W], timestep [1] in [0,1000] -> velocity fp32 [B,C,F,H,W]."""
        ...


class VAE(Protocol):
    device: torch.device
    latent_channels: int

    def fingerprint(self) -> str: ...

    def encode(self, video: Tensor) -> Tensor:
        """video [B,3,4n+1,H,W] in [-1,1] -> normalised latents fp32 [B,C,1+n,H/8,W/8]."""
        ...

    def decode(
        self, latents: Tensor, *, on_chunk: Callable[[int, int], None] = lambda done, total: None
    ) -> Tensor:
        """normalised latents [B,C,F,h,w] -> video fp32 [B,3,4F-3,8h,8w] in [-1,1].

        on_chunk: called after every chunk with how many of how many are done; may raise to stop.
        """
        ...
