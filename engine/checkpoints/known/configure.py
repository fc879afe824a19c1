"""The configurations that models are built with, from what a checkpoint holds. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from engine.checkpoints.formats.reading import refusal
from engine.checkpoints.known import expected
from engine.checkpoints.layout import Layout
from engine.checkpoints.source import Source, read_config
from engine.errors import CheckpointError
from engine.models.diffusion.config import WanDiTConfig
from engine.models.image_encoders.config import CLIPConfig

_PUBLISHED_WIDTHS = {shape.dim for shape in expected.PUBLISHED.values()}
_HEAD_DIM = 128  # of every published DiT
_FIELDS = [field.name for field in fields(WanDiTConfig)]
# what the tensors tell
_TOLD = [name for name in _FIELDS if hasattr(expected.DiTShape, name)]


def dit_config(source: Source, layout: Layout) -> WanDiTConfig:
    """The configuration of a DiT: sizes from its tensors, and what they do not tell (the number of heads) from
    the `config.json` that came with it, original or diffusers', or from the published models: at their widths a
    configuration that is damaged or of something else does not count.

    Raises CheckpointError where the tensors are not those of a Wan DiT, or nothing tells the heads.
    """
    try:
        shape = expected.dit_shape({name: entry.shape for name, entry in layout.entries.items()})
    except ValueError as error:
        raise refusal(source.path, str(error)) from None
    sizes: dict[str, Any] = {
        **{name: getattr(shape, name) for name in _TOLD},
        "qk_norm": "blocks.0.self_attn.norm_q.weight" in layout.entries,
        "cross_attn_norm": "blocks.0.norm3.weight" in layout.entries,
    }
    is_published = shape.dim in _PUBLISHED_WIDTHS
    try:
        said = _original_fields(read_config(source))
    except CheckpointError:
        # a config.json of something else, or a damaged one, may well lie in a folder of many models
        if not is_published:
            raise
        said = {}
    contradicted = [
        name
        for name in ("dim", "ffn_dim", "num_layers")
        if said.get(name, sizes[name]) != sizes[name]
    ]
    if contradicted and not is_published:
        name = contradicted[0]
        raise refusal(
            source.config_file or source.path,
            f"says {name} {said[name]}, but the tensors of {source.path.name} have {sizes[name]}; put the "
            "config.json of this model beside it",
        )
    if "num_heads" not in said and not is_published:
        raise refusal(
            source.path,
            f"its width {shape.dim} is of no published model, so the number of heads is not known; "
            "put its config.json beside it",
        )
    if "num_heads" in said and not contradicted:
        told = {name: value for name, value in said.items() if name in _FIELDS}
        try:
            return WanDiTConfig(**told | sizes)
        except ValueError as error:
            if not is_published:
                reason = f"not the configuration of a Wan DiT ({error})"
                raise refusal(source.config_file or source.path, reason) from None
    try:
        return WanDiTConfig(**sizes, num_heads=shape.dim // _HEAD_DIM)
    except ValueError as error:
        raise refusal(source.path, f"not a Wan DiT: {error}") from None


def published_config(shape: expected.DiTShape) -> WanDiTConfig:
    """The configuration of a published DiT, from its sizes."""
    sizes = {name: getattr(shape, name) for name in _TOLD}
    return WanDiTConfig(**sizes, num_heads=shape.dim // _HEAD_DIM)


def clip_config(shapes: expected.Shapes) -> CLIPConfig:
    """The configuration of an image encoder. Raises ValueError where its tensors are not those of CLIP's tower, or
    do not fit each other."""
    return CLIPConfig(**asdict(expected.clip_shape(shapes)))


def _original_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json in the original spelling, whichever it came in; empty where it is no DiT's."""
    if "num_attention_heads" in config and "ffn_dim" in config:
        said = {"num_heads": config["num_attention_heads"], "ffn_dim": config["ffn_dim"]}
        head_dim = config.get("attention_head_dim")
        if isinstance(head_dim, int) and isinstance(said["num_heads"], int):
            said["dim"] = head_dim * said["num_heads"]
        return said | {name: config[name] for name in ("num_layers", "eps") if name in config}
    if {"dim", "ffn_dim", "num_heads", "num_layers"} <= config.keys():
        return {name: value for name, value in config.items() if not name.startswith("_")}
    return {}
