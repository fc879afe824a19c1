"""CLIP's image tower in this process, from files of any published layout. Torch comes in with `load`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from engine.checkpoints.known.configure import clip_config
from engine.checkpoints.locate import locate
from engine.checkpoints.opened import layout_at
from engine.components.protocols import Description
from engine.components.providers.files import absolute, checked_layout, description
from engine.errors import CheckpointError
from presets.spec.components import ImageEncoderSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from engine.checkpoints.library import Found
    from engine.graph import Plain
    from engine.models.image_encoders.clip import CLIP
    from store.index.index import Index


def describe(spec: ImageEncoderSpec, index: Index) -> Description:
    path = locate("image_encoder", spec.checkpoint)
    source, layout = checked_layout("image_encoder", path)
    config = clip_config({name: entry.shape for name, entry in layout.entries.items()})
    facts: dict[str, Plain] = {"image_dim": config.width, "image_tokens": config.tokens}
    return description(spec, index, layout, source.files, facts)


def settle(spec: ImageEncoderSpec, scan: Callable[[], Sequence[Found]]) -> ImageEncoderSpec:
    """With absolute paths. Raises CheckpointError."""
    path = absolute(spec.checkpoint, lambda: locate("image_encoder", spec.checkpoint, scan))
    return msgspec.structs.replace(spec, checkpoint=path)


def load(spec: ImageEncoderSpec, about: Description | None = None) -> CLIP:
    """Raises CheckpointError."""
    import torch

    from engine.checkpoints.load import Weights, fill
    from engine.dtypes import torch_device, torch_dtype
    from engine.models.image_encoders.clip import CLIP

    path = locate("image_encoder", spec.checkpoint)
    _, layout = layout_at(path)
    try:
        config = clip_config({name: entry.shape for name, entry in layout.entries.items()})
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    with torch.device("meta"):
        model = CLIP(config)
    with Weights(layout.entries) as weights:
        fill(
            model,
            weights,
            path=path,
            device=torch_device(spec.device),
            dtype=torch_dtype(spec.dtype),
        )
    return model.eval()


def use(model: CLIP, spec: ImageEncoderSpec) -> LocalImageEncoder:
    from engine.dtypes import torch_device

    return LocalImageEncoder(model, torch_device(spec.device), spec.fit)


@dataclass(frozen=True)
class LocalImageEncoder:
    model: CLIP
    device: torch.device
    fit: str

    def encode(self, pictures: Sequence[Tensor]) -> Tensor:
        """As of `ImageEncoder`."""
        return self.model.encode(pictures, fit=self.fit)
