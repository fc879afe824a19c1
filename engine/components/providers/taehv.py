"""TAEHV in place of Wan's video autoencoder: approximate, at a small part of its cost, for drafts. Torch comes in with
`load`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from engine.checkpoints.known.expected import is_taehv
from engine.checkpoints.locate import locate
from engine.checkpoints.opened import layout_at
from engine.checkpoints.places import models_folder
from engine.components.protocols import Description
from engine.components.providers.files import absolute, checked_layout, description
from engine.errors import CheckpointError, ComponentError
from presets.spec.components import VAESpec

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from engine.checkpoints.library import Found
    from engine.models.vae.taehv import TAEHV
    from engine.models.vae.wanvae import Part
    from store.index.index import Index


# Where one lies that steps are shown with, seen from the models folder; ComfyUI has a folder for such files, and
# `modiff models get` makes one.
PREVIEW_FILES = (
    "taew2_1.safetensors",
    "taew2_1.pth",
    "vae_approx/taew2_1.safetensors",
    "vae_approx/taew2_1.pth",
    "taew2_1/taew2_1.safetensors",
)


def describe(spec: VAESpec, index: Index) -> Description:
    if spec.tile_size:
        raise ComponentError(
            f"got {spec.tile_size}, but taehv takes whole frames, with little memory; set it to 0",
            key="components.vae.tile_size",
        )
    path = locate("vae", spec.checkpoint)
    source, layout = checked_layout("vae", path)
    if not is_taehv(layout.entries):
        raise CheckpointError(
            f"{path} is a whole VAE, no TAEHV; choose taew2.1 (`modiff models get taew2.1`) or a file of one, or "
            "components.vae.name=wan-vae",
            key="components.vae.checkpoint",
        )
    facts = {"latent_channels": 16, "latent_stride": [4, 8, 8], "latents_of": "wan2.1"}
    return description(spec, index, layout, source.files, facts)


def settle(spec: VAESpec, scan: Callable[[], Sequence[Found]]) -> VAESpec:
    """With absolute paths. Raises CheckpointError."""
    path = absolute(spec.checkpoint, lambda: locate("vae", spec.checkpoint, scan))
    return msgspec.structs.replace(spec, checkpoint=path)


def load(spec: VAESpec, about: Description | None = None) -> TAEHV:
    """Raises CheckpointError."""
    from engine.dtypes import torch_device, torch_dtype

    return read_taehv(
        locate("vae", spec.checkpoint), torch_device(spec.device), torch_dtype(spec.dtype)
    )


def read_taehv(path: Path, device: torch.device, dtype: torch.dtype) -> TAEHV:
    """The TAEHV of a file. Raises CheckpointError."""
    import torch

    from engine.checkpoints.load import Weights, fill
    from engine.models.vae.taehv import TAEHV

    _, layout = layout_at(path)
    with torch.device("meta"):
        model = TAEHV()
    with Weights(layout.entries) as weights:
        fill(model, weights, path=path, device=device, dtype=dtype)
    return model.eval().requires_grad_(False)


def for_previews() -> TAEHV | None:
    """The one that lies where steps look for it, on the CPU; None where none does. Raises CheckpointError where it is
    damaged, or something else."""
    import torch

    path = next(
        (file for name in PREVIEW_FILES if (file := models_folder() / name).is_file()), None
    )
    if path is None:
        return None
    _, layout = checked_layout("vae", path)
    if not is_taehv(layout.entries):
        raise CheckpointError(f"{path} is a whole VAE, no TAEHV")
    return read_taehv(path, torch.device("cpu"), torch.float32)


def use(model: TAEHV, spec: VAESpec) -> LocalTAEHV:
    return LocalTAEHV(model, spec.chunk_frames)


@dataclass(frozen=True)
class LocalTAEHV:
    model: TAEHV
    chunk_frames: int

    def encode(self, video: Tensor) -> Tensor:
        """As of `VAE`."""
        return self.encode_parts(lambda start, stop: video[:, :, start:stop], tuple(video.shape))

    def encode_parts(self, part: Part, shape: Sequence[int]) -> Tensor:
        """As of `VAEOfParts`."""
        return self.model.encode_parts(part, shape, chunk_frames=self.chunk_frames)

    def decode(
        self, latents: Tensor, *, on_chunk: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[Tensor]:
        """As of `VAE`."""
        return self.model.decode_chunks(latents, chunk_frames=self.chunk_frames, on_chunk=on_chunk)
