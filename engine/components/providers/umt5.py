"""UMT5 in this process, from files of any published layout. Torch comes in with `load`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.checkpoints.known import catalogue
from engine.checkpoints.known.expected import umt5_shape
from engine.checkpoints.library import scan_places
from engine.checkpoints.locate import BUILTIN_MICRO, SPIECE_FILE, locate, tokenizer_in
from engine.checkpoints.opened import layout_at
from engine.checkpoints.vocabulary.held import (
    check_fits,
    digest_of,
    holds_vocabulary,
    is_within_weights,
)
from engine.components.memory.holding import holding_of
from engine.components.protocols import Description
from engine.components.providers.files import absolute, checked_layout, description
from engine.errors import CheckpointError, together
from presets.spec.components import TextEncoderSpec

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
    files = source.files if tokenizer in source.files else (*source.files, tokenizer)
    about = description(spec, index, layout, files, {"text_dim": width})
    if is_within_weights(tokenizer):
        # a sample of weights does not see all of a vocabulary
        identity = {**about.identity, "vocabulary": digest_of(tokenizer)}
        about = replace(about, identity=identity)
    return about


def settle(spec: TextEncoderSpec, scan: Scan) -> TextEncoderSpec:
    """With absolute paths; CheckpointError, with a line for each file that is not there."""
    absent: list[CheckpointError] = []
    try:
        checkpoint = absolute(
            spec.checkpoint, lambda: locate("text_encoder", spec.checkpoint, scan)
        )
        spec = msgspec.structs.replace(spec, checkpoint=checkpoint)
    except CheckpointError as error:
        absent.append(error)
    if BUILTIN_MICRO not in (spec.tokenizer, spec.tokenizer or spec.checkpoint):
        try:
            file = tokenizer_file(spec, scan)
            spec = msgspec.structs.replace(spec, tokenizer=str(file.absolute()))
        except CheckpointError as error:
            absent.append(error)
    if absent:
        raise together(absent)
    return spec


def tokenizer_file(spec: TextEncoderSpec, scan: Scan | None = None) -> Path:
    """The file with the vocabulary of a text encoder: the given one; else the encoder's own, where it has one inside;
    else what lies in its usual place beside the encoder; else the library's.

    scan: as for `locate`. Raises CheckpointError where there is none.
    """
    if spec.tokenizer:
        return locate("tokenizer", spec.tokenizer, scan)
    if spec.checkpoint == BUILTIN_MICRO:
        return locate("tokenizer", BUILTIN_MICRO)
    scan = cache(scan or scan_places)
    weights = _weights_at(spec, scan)
    if weights is not None and holds_vocabulary(layout_at(weights)[0]):
        return weights
    is_named = catalogue.model(spec.checkpoint, "text_encoder") is not None
    if weights is not None and not is_named:
        folder = weights.parent
        if beside := tokenizer_in(folder) or tokenizer_in(folder, SPIECE_FILE):
            return beside
    return locate("tokenizer", "umt5-xxl", scan)


def _weights_at(spec: TextEncoderSpec, scan: Scan | None) -> Path | None:
    """Of a model that the library knows by name and has not, a tokenizer is still to be told."""
    try:
        return locate("text_encoder", spec.checkpoint, scan)
    except CheckpointError:
        if catalogue.model(spec.checkpoint, "text_encoder") is None:
            raise
        return None


def load(spec: TextEncoderSpec, about: Description | None = None) -> UMT5:
    """Raises CheckpointError."""
    import torch

    from engine.checkpoints.held.kept import kept
    from engine.checkpoints.held.packed import filling
    from engine.checkpoints.load import Weights
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
        model = t5.build(t5.UMT5Config(**asdict(shape)))
    device = torch_device(spec.device)
    entries, holding, _in_use = kept(
        layout.entries, holding_of(spec), None if about is None else about.kept, device.type
    )
    with Weights(entries) as weights:
        of_file = filling(
            model, weights, holding, device.type, path=path, dtype=torch_dtype(spec.dtype)
        )
        of_file.fill(device)
    return t5.UMT5(model, tokenize)
