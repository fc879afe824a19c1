"""UMT5 in this process, from files of any published layout. Torch comes in with `load`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.checkpoints.known import catalogue
from engine.checkpoints.known.expected import umt5_shape
from engine.checkpoints.locate import BUILTIN_MICRO, locate, tokenizer_beside
from engine.checkpoints.opened import layout_at
from engine.checkpoints.vocabulary import check_fits
from engine.components.files import absolute, checked_layout, description
from engine.components.protocols import Description
from engine.errors import CheckpointError
from presets.spec import TextEncoderSpec

if TYPE_CHECKING:
    from engine.checkpoints.library import Found
    from engine.models.text_encoders.t5 import UMT5
    from store.index.index import Index

    Scan = Callable[[], Sequence[Found]]


def describe(spec: TextEncoderSpec, index: Index) -> Description:
    source, layout = checked_layout("text_encoder", locate("text_encoder", spec.checkpoint))
    rows, width = layout.entries["token_embedding.weight"].shape
    tokenizer = tokenizer_file(spec)
    check_fits(tokenizer, rows)
    files = (*source.files, tokenizer)
    return description(spec, index, layout, files, {"text_dim": width})


def settle(spec: TextEncoderSpec, scan: Scan) -> TextEncoderSpec:
    """With absolute paths; CheckpointError, with a line for each file that is not there."""
    absent = []
    try:
        checkpoint = absolute(
            spec.checkpoint, lambda: locate("text_encoder", spec.checkpoint, scan)
        )
        spec = msgspec.structs.replace(spec, checkpoint=checkpoint)
    except CheckpointError as error:
        absent.append(str(error))
    if BUILTIN_MICRO not in (spec.tokenizer, spec.tokenizer or spec.checkpoint):
        try:
            file = tokenizer_file(spec, scan)
            spec = msgspec.structs.replace(spec, tokenizer=str(file.absolute()))
        except CheckpointError as error:
            absent.append(str(error))
    if absent:
        raise CheckpointError("\n".join(absent))
    return spec


def tokenizer_file(spec: TextEncoderSpec, scan: Scan | None = None) -> Path:
    """The tokenizer.json of a text encoder: the given one, the one that lies with its weights, or the library's.

    scan: as for `locate`. Raises CheckpointError where there is none.
    """
    if spec.tokenizer:
        return locate("tokenizer", spec.tokenizer, scan)
    if spec.checkpoint == BUILTIN_MICRO:
        return locate("tokenizer", BUILTIN_MICRO)
    is_path = catalogue.model(spec.checkpoint, "text_encoder") is None
    beside = tokenizer_beside(locate("text_encoder", spec.checkpoint)) if is_path else None
    return beside or locate("tokenizer", "umt5-xxl", scan)


def load(spec: TextEncoderSpec, about: Description | None = None) -> UMT5:
    """Raises CheckpointError."""
    import torch

    from engine.checkpoints.load import Weights, fill
    from engine.checkpoints.names import from_original
    from engine.dtypes import torch_device, torch_dtype
    from engine.models.text_encoders import t5
    from engine.prompt import load_tokenizer

    path = locate("text_encoder", spec.checkpoint)
    _, layout = layout_at(path)
    try:
        shape = umt5_shape({name: entry.shape for name, entry in layout.entries.items()})
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    try:
        tokenize = load_tokenizer(tokenizer_file(spec))
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    with torch.device("meta"):
        model = t5.build(t5.config(**asdict(shape)))
    with Weights(layout.entries) as weights:
        fill(
            model,
            weights,
            path=path,
            device=torch_device(spec.device),
            dtype=torch_dtype(spec.dtype),
            rename=lambda name: from_original("text_encoder", "huggingface", name)[0],
        )
    return t5.UMT5(model, tokenize)
