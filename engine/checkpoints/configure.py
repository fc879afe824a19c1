"""The configurations that models are built with, from what a checkpoint holds. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from engine.checkpoints import expected
from engine.checkpoints.layout import Layout
from engine.checkpoints.source import Source, read_config
from engine.errors import CheckpointError
from engine.models.diffusion.config import WanDiTConfig

_PUBLISHED_WIDTHS = {shape.dim for shape in expected.PUBLISHED.values()}
_HEAD_DIM = 128  # of every published DiT


def dit_config(source: Source, layout: Layout) -> WanDiTConfig:
    """The configuration of a DiT: sizes from its tensors, and what they do not tell (the number of heads) from
    the `config.json` that came with it, original or diffusers', or from the published models.

    Raises CheckpointError where the tensors are not those of a Wan DiT, or nothing tells the heads.
    """
    try:
        shape = expected.dit_shape({name: entry.shape for name, entry in layout.entries.items()})
    except ValueError as error:
        raise CheckpointError(f"{source.path}: {error}") from None
    kind = "flf2v" if shape.emb_pos else "i2v" if shape.image_branch else "t2v"
    sizes: dict[str, Any] = {
        "model_type": kind,
        "patch_size": shape.patch_size,
        "in_dim": shape.in_dim,
        "out_dim": shape.out_dim,
        "dim": shape.dim,
        "ffn_dim": shape.ffn_dim,
        "freq_dim": shape.freq_dim,
        "text_dim": shape.text_dim,
        "num_layers": shape.num_layers,
        "image_dim": shape.image_dim,
    }
    said = _original_fields(read_config(source))
    contradicted = [
        name
        for name in ("dim", "ffn_dim", "num_layers")
        if said.get(name, sizes[name]) != sizes[name]
    ]
    is_published = shape.dim in _PUBLISHED_WIDTHS
    if is_published and (contradicted or "num_heads" not in said):
        # a config.json of something else may well lie in a folder of many models
        return WanDiTConfig(**sizes, num_heads=shape.dim // _HEAD_DIM)
    if contradicted:
        name = contradicted[0]
        raise CheckpointError(
            f"{source.config_file or source.path}: says {name} {said[name]}, but the tensors of {source.path.name} "
            f"have {sizes[name]}; put the config.json of this model beside it"
        )
    if "num_heads" not in said:
        raise CheckpointError(
            f"{source.path}: its width {shape.dim} is of no published model, so the number of heads is not known; "
            "put its config.json beside it"
        )
    known = {field.name for field in fields(WanDiTConfig)}
    try:
        return WanDiTConfig(
            **{name: value for name, value in said.items() if name in known} | sizes
        )
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{source.config_file or source.path}: not the configuration of a Wan DiT ({error})"
        ) from None


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
