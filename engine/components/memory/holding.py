"""What a component's settings say of how its weights are held, and what they take then. Torch-free."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.checkpoints.held.holding import (
    VERSION,
    Holding,
    held_bytes,
    is_large,
    packed_matrices,
    rounded,
)
from engine.checkpoints.layout import quantisation
from engine.components.memory import swapping
from engine.components.protocols import InMemory
from engine.errors import ComponentError
from engine.models.diffusion.config import keeps_fp32
from store.keys import canonical
from store.paths import QUANTISED

if TYPE_CHECKING:
    from pathlib import Path

    from engine.checkpoints.held.holding import Packed
    from engine.checkpoints.layout import Entry, Layout

    Shapes = Mapping[str, Sequence[int]]

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_WORDS = {"I8": "int8", "F8_E4M3": "fp8", "F8_E5M2": "fp8_e5m2"}


def holding_of(spec: Any) -> Holding:
    """Of components that have no such settings, what is the same for them."""
    return Holding(
        getattr(spec, "quantise", ""),
        getattr(spec, "unpack", "auto"),
        getattr(spec, "activations", "plain") == "quantised",
    )


def check_holding(spec: Any, layout: Layout) -> None:
    """Refuses what cannot be done with the weights of a layout. Raises ComponentError."""
    holding, key = holding_of(spec), f"components.{layout.component}"
    _check_swap(spec, layout)
    stored = quantisation(layout)
    if holding.quantise and stored:
        raise ComponentError(
            f"got {holding.quantise}, but {spec.checkpoint} is quantised already ({stored}); leave it empty, or take a "
            "file in bf16, fp16 or fp32",
            key=f"{key}.quantise",
        )
    if not holding.rounds_activations:
        return
    if holding.unpack == "load":
        raise ComponentError(
            "got load, but quantised activations are multiplied with packed weights; set it to auto or call",
            key=f"{key}.unpack",
        )
    packed = packed_matrices(layout.entries, holding, "cpu")
    if not any(each.scheme.rounds_activations for each in packed.values()):
        raise ComponentError(
            f"got quantised, but the weights of {spec.checkpoint} are {stored or 'not quantised'}; expected int8 or "
            f"fp8 with a scale for each tensor or row: set {key}.quantise to int8 or fp8 for a file that is not "
            "quantised, or take plain",
            key=f"{key}.activations",
        )


def _check_swap(spec: Any, layout: Layout) -> None:
    shapes = {name: entry.shape for name, entry in layout.entries.items()}
    types = {"cpu": ("cpu",), "auto": ("cpu", "cuda")}.get(spec.device, ("cuda",))
    if getattr(spec, "resident_blocks", "all") == "all":
        return
    refusals = [
        swapping.refusal(spec, _sizes(spec, layout.component, shapes, layout.entries, each)[0])
        for each in types
    ]
    # of two devices that it may be on, one that does is enough
    if all(refusals):
        raise ComponentError(refusals[-1], key=swapping.KEY)


def told_apart(spec: Any, layout: Layout) -> dict[str, Any]:
    """What of these settings makes two loaded models differ that are of the same files."""
    holding = holding_of(spec)
    found: dict[str, Any] = {}
    if holding.quantise:
        found["quantise"] = holding.quantise
    if holding.rounds_activations:
        found["activations"] = "quantised"
    elif holding.quantise or quantisation(layout):
        found["unpack"] = holding.unpack
    if getattr(spec, "resident_blocks", "all") != "all":
        found["resident_blocks"] = spec.resident_blocks
    return found


def kept_at(spec: Any, root: Path, fingerprint: str) -> Path | None:
    """Where in the store at `root` weights with that fingerprint are kept as they are quantised."""
    quantise = holding_of(spec).quantise
    if not quantise:
        return None
    made_of = canonical({"weights": fingerprint, "quantise": quantise, "version": VERSION})
    return root / QUANTISED / f"{hashlib.sha256(made_of).hexdigest()}.safetensors"


def in_memory(
    spec: Any, kind: str, shapes: Shapes, entries: Mapping[str, Entry], device_type: str
) -> InMemory:
    """What a component of these shapes takes of a device. entries: of its files, none where they are not here."""
    sizes, packed = _sizes(spec, kind, shapes, entries, device_type)
    num_bytes, moved_bytes = swapping.device_bytes_of(spec, sizes)
    return InMemory(num_bytes, _most_of(packed), moved_bytes)


def _sizes(
    spec: Any, kind: str, shapes: Shapes, entries: Mapping[str, Entry], device_type: str
) -> tuple[dict[str, int], Mapping[str, Packed]]:
    """(by name of a weight, what it takes; those that are packed)."""
    holding = holding_of(spec)
    packed: Mapping[str, Packed] = packed_matrices(entries, holding, device_type)
    if not entries and holding.quantise and holding.unpacks_at_call(device_type):
        packed = {
            name: rounded(shape, holding.quantise)
            for name, shape in shapes.items()
            if is_large(name, shape)
        }
    keeps = keeps_fp32 if kind == "denoiser" else lambda name: False
    return held_bytes(shapes, packed, BYTES[spec.dtype], keeps), packed


def _most_of(packed: Mapping[str, Packed]) -> str:
    """What most of these weights are held as."""
    counts: dict[str, int] = {}
    for each in packed.values():
        codes = each.tensors["weight"]
        word = _word(each)
        counts[word] = counts.get(word, 0) + math.prod(codes.shape)
    return max(counts, key=lambda word: counts[word], default="")


def _word(packed: Packed) -> str:
    if packed.scheme.blocks or packed.scheme.pairs:
        return packed.scheme.blocks or "nvfp4"
    return _WORDS[packed.tensors["weight"].dtype]
