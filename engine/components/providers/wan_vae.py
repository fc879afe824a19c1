"""Wan's causal video autoencoder in this process, from files of any published layout. Torch comes in with `load`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from engine.checkpoints.known.expected import is_taehv, vae_dim
from engine.checkpoints.locate import is_builtin, locate
from engine.checkpoints.opened import layout_at
from engine.components.protocols import Description
from engine.components.providers.files import absolute, checked_layout, description
from engine.errors import CheckpointError
from presets.spec.components import VAESpec

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from engine.checkpoints.layout import Layout
    from engine.checkpoints.library import Found
    from engine.models.vae.wanvae import Part, WanVAE, WanVAEConfig
    from store.index.index import Index


def describe(spec: VAESpec, index: Index) -> Description:
    path = locate("vae", spec.checkpoint)
    source, layout = checked_layout("vae", path)
    if is_taehv(layout.entries):
        raise CheckpointError(
            f"{path} is a TAEHV, a tiny autoencoder; choose it with components.vae.name=taehv, or take the "
            "Wan 2.1 VAE",
            key="components.vae.checkpoint",
        )
    facts = {
        "latent_channels": layout.entries["conv2.weight"].shape[0],
        "latent_stride": [4, 8, 8],
        # whose colours its latents have, for previews
        "latents_of": "micro" if is_builtin(spec.checkpoint) else "wan2.1",
    }
    described = description(spec, index, layout, source.files, facts)
    if not spec.tile_size:
        return described
    # what was stored of tiles that were blended is not what tiles come to now
    return replace(described, identity={**described.identity, "tiles": 2})


def settle(spec: VAESpec, scan: Callable[[], Sequence[Found]]) -> VAESpec:
    """With absolute paths. Raises CheckpointError."""
    path = absolute(spec.checkpoint, lambda: locate("vae", spec.checkpoint, scan))
    return msgspec.structs.replace(spec, checkpoint=path)


def load(spec: VAESpec, about: Description | None = None) -> WanVAE:
    """Raises CheckpointError."""
    import torch

    from engine.checkpoints.load import Weights, fill
    from engine.dtypes import torch_device, torch_dtype
    from engine.models.vae.wanvae import WanVAE

    path = locate("vae", spec.checkpoint)
    _, layout = layout_at(path)
    with torch.device("meta"):
        model = WanVAE(vae_config(path, layout))
    with Weights(layout.entries) as weights:
        fill(
            model,
            weights,
            path=path,
            device=torch_device(spec.device),
            dtype=torch_dtype(spec.dtype),
        )
    return model.channels_last().eval()


def use(model: WanVAE, spec: VAESpec) -> LocalVAE:
    from engine.dtypes import torch_device

    return LocalVAE(
        model, torch_device(spec.device), spec.chunk_frames, spec.tile_size, spec.tile_overlap
    )


@dataclass(frozen=True)
class LocalVAE:
    model: WanVAE
    device: torch.device
    chunk_frames: int
    tile_size: int
    tile_overlap: int

    def encode(self, video: Tensor) -> Tensor:
        """As of `VAE`."""
        return self.model.encode(video, **self._memory_options())

    def encode_parts(self, part: Part, shape: Sequence[int]) -> Tensor:
        """As of `VAE`."""
        return self.model.encode_parts(part, shape, **self._memory_options())

    def decode(
        self, latents: Tensor, *, on_chunk: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[Tensor]:
        """As of `VAE`."""
        return self.model.decode_chunks(
            latents.to(self.device), **self._memory_options(), on_chunk=on_chunk
        )

    def _memory_options(self) -> dict[str, int]:
        return {
            "chunk_frames": self.chunk_frames,
            "tile_size": self.tile_size,
            "tile_overlap": self.tile_overlap,
        }


def vae_config(path: Path, layout: Layout) -> WanVAEConfig:
    """The configuration of a VAE, from its shapes. Raises CheckpointError where it is not a Wan 2.1 VAE."""
    from engine.models.vae.wanvae import WanVAEConfig

    try:
        return WanVAEConfig(
            dim=vae_dim({name: entry.shape for name, entry in layout.entries.items()})
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
