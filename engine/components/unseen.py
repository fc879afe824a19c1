"""What published models are before any of their files is here: for plans, never for a run. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.checkpoints.known import catalogue, expected
from engine.components.memory.holding import in_memory
from engine.components.protocols import Description
from engine.components.providers.wan_dit import facts_of_pictures
from engine.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.checkpoints.known.expected import Shapes
    from engine.graph import Plain

    Describe = Callable[[str, Any], Description]


class Published:
    """Describes components as `describe` does; those that it cannot find, by what was published under their names.

    Nothing is stored under the keys that follow from these: a plan finds the runs of the real files only once they
    are here.
    """

    def __init__(self, describe: Describe) -> None:
        self._describe = describe

    def __call__(self, kind: str, part: Any) -> Description:
        """Raises CheckpointError for what is neither here nor published, ComponentError as `describe` does."""
        try:
            return self._describe(kind, part)
        except CheckpointError:
            about = published(kind, part)
            if about is None:
                raise
            return about


def published(kind: str, part: Any) -> Description | None:
    """By a spec's name of the catalogue and the dtype that it asks for; None where nothing is named so."""
    model = catalogue.model(part.checkpoint, kind)
    found = None if model is None else _shapes_and_facts(kind, model)
    if found is None:
        return None
    shapes, facts = found
    on_cpu, off_cpu = (in_memory(part, kind, shapes, {}, device) for device in ("cpu", "cuda"))
    return Description(
        identity={"published": part.checkpoint},
        facts=facts,
        resident="",
        num_bytes=on_cpu.num_bytes,
        packed=on_cpu.packed,
        moved_bytes=on_cpu.moved_bytes,
        off_cpu=None if off_cpu == on_cpu else off_cpu,
    )


def _shapes_and_facts(
    kind: str, model: catalogue.Model
) -> tuple[Shapes, Mapping[str, Plain]] | None:
    if kind == "text_encoder":
        return expected.umt5(expected.UMT5Shape()), {"text_dim": expected.UMT5Shape().dim}
    if kind == "image_encoder":
        clip = expected.CLIPShape()
        return expected.clip(clip), {"image_dim": clip.width, "image_tokens": clip.tokens}
    if kind == "vae":
        return expected.taehv() if model.name == "taew2.1" else expected.vae(), {
            "latent_channels": 16,
            "latent_stride": [4, 8, 8],
            "latents_of": "wan2.1",
        }
    shape = expected.PUBLISHED.get(model.variants[-1]) if kind == "denoiser" else None
    if shape is None:
        return None
    facts: dict[str, Plain] = {
        "text_dim": shape.text_dim,
        "latent_channels": shape.out_dim,
        "patch_size": list(shape.patch_size),
        "num_blocks": shape.num_layers,
        "dim": shape.dim,
        "model": model.variants[-1],
    }
    return expected.dit(shape), facts | facts_of_pictures(shape)
