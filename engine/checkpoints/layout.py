"""From the names of a file to the published original names: which tensors make which. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.checkpoints.formats.table import BLOCKS, PAIRS, TensorInfo
from engine.checkpoints.names import (
    MARKERS,
    component_of,
    is_buffer,
    naming_of,
    prefix_of,
    to_original,
    unwrapped,
)
from engine.checkpoints.packing.quantised import (
    Packing,
    dtype_fault,
    is_of_quanto,
    read_quantised,
    without_quanto,
)
from engine.checkpoints.source import Source

# one table under two names in Hugging Face's encoders; a file may hold it under either
_TIED = "encoder.embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor under its original name. parts: what to join along the first axis, mostly one. shape: of the
    whole. packings: how the numbers of each part are those of the weight, None where they are as they lie; empty
    where all are."""

    parts: tuple[TensorInfo, ...]
    shape: tuple[int, ...]
    packings: tuple[Packing | None, ...] = ()

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """entries: by original name. naming: whose names the file uses. prefix: what they begin with.
    faults: names that make no sense together, each with the reason. left_out: buffers, which are no weights.
    foreign: the format of the numbers where nothing here reads it. is_quanto: whether the names are those of quanto.
    """

    component: str
    naming: str
    prefix: str
    entries: Mapping[str, Entry]
    faults: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    foreign: str = ""
    is_quanto: bool = False


def lay_out(source: Source) -> Layout:
    """Every tensor of a source under its original name; what is not part of the component is left out, and
    what nobody knows stays under its own name."""
    tensors, prefix, twice = _bare(source)
    component = component_of(tensors)
    stored = read_quantised(source, tensors, prefix)
    packings, faults = stored.packings, twice | stored.faults
    weights = {name: info for name, info in stored.weights.items() if not is_buffer(name)}
    left_out = tuple(name for name in stored.weights if name not in weights)
    if component == "text_encoder" and "shared.weight" not in weights and _TIED in weights:
        weights["shared.weight"] = weights.pop(_TIED)
        if _TIED in packings:
            packings["shared.weight"] = packings.pop(_TIED)
    if component == "denoiser" and source.format == "gguf":
        weights = _unflattened(weights)
    naming = naming_of(component, weights)
    if component in ("unknown", "lora"):
        entries = {name: Entry((info,), info.shape) for name, info in weights.items()}
        return Layout(component, "", prefix, entries, faults, left_out, stored.foreign)
    parts: dict[str, dict[int, tuple[TensorInfo, Packing | None]]] = {}
    for name, info in weights.items():
        target = to_original(component, naming, name)
        if target is None:
            continue
        original, index = target
        pieces = parts.setdefault(original, {})
        if index in pieces:
            faults[name] = f"makes {original}, which another tensor of the file makes too"
        packing = packings.get(name)
        pieces[index] = info, packing
        if not stored.foreign and (fault := dtype_fault(info, packing)):
            faults.setdefault(name, fault)
    entries = {}
    for name, pieces in parts.items():
        joined, of_parts = zip(*(pieces[index] for index in sorted(pieces)), strict=True)
        if len(joined) > 1 and len({part.shape[1:] for part in joined}) > 1:
            faults[name] = "is to be joined of tensors of different widths"
        entries[name] = Entry(joined, _joined_shape(joined), of_parts if any(of_parts) else ())
    is_quanto = any(is_of_quanto(name) for name in source.tensors)
    return Layout(component, naming, prefix, entries, faults, left_out, stored.foreign, is_quanto)


def _bare(source: Source) -> tuple[dict[str, TensorInfo], str, dict[str, str]]:
    """(tensors without what wrappers and files put before their names, that prefix, faults)."""
    named = [name for name in source.tensors if name.rpartition(".")[2] not in MARKERS]
    plain = {name: unwrapped(name) for name in named}
    prefix = prefix_of(plain.values())
    tensors: dict[str, TensorInfo] = {}
    faults: dict[str, str] = {}
    for name in named:
        bare = without_quanto(plain[name].removeprefix(prefix))
        if bare in tensors:
            faults[name] = f"is {bare}, which another tensor of the file is too"
        tensors[bare] = source.tensors[name]
    return tensors, prefix, faults


def quantisation(layout: Layout) -> str:
    """What most of the numbers that were squeezed were squeezed into, in the words of the field; empty where nothing
    was."""
    counts: dict[str, int] = {}
    for entry in layout.entries.values():
        packings = entry.packings or (None,) * len(entry.parts)
        for part, packing in zip(entry.parts, packings, strict=True):
            word = _packed_as(part.dtype, packing, layout.is_quanto)
            counts[word] = counts.get(word, 0) + math.prod(part.shape)
    counts.pop("", None)
    return max(counts, key=lambda word: counts[word], default="")


_SQUEEZED = {"F8_E4M3": "fp8_e4m3fn", "F8_E5M2": "fp8_e5m2", "I8": "int8"}


def _packed_as(dtype: str, packing: Packing | None, is_quanto: bool) -> str:
    if dtype in BLOCKS:
        return f"GGUF {dtype}"
    if dtype == PAIRS:
        return "nvfp4"
    if packing is not None and packing.scale.dtype == "F8_E8M0":
        return "mxfp8"
    word = _SQUEEZED.get(dtype, "")
    if not word or packing is None:
        return word
    if is_quanto:
        return f"{word} (quanto)"
    rows, columns = packing.block
    scaled = (
        "scaled" if packing.block == (0, 0)
        else "scaled by row" if packing.block == (1, 0)
        else f"scaled in blocks of {columns}" if rows == 1
        else f"scaled in blocks of {rows} by {columns}"
    )  # fmt: skip
    return f"{word} {scaled}{' and rotated' if packing.rotation else ''}"


def _unflattened(weights: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """GGUF has at most four axes, and some converters say nowhere what the fifth was. Patches are 1x2x2 in every
    published model, and the bias has the width."""
    whole = dict(weights)
    for name in ("patch_embedding", "vace_patch_embedding"):
        info, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        width = math.prod(bias.shape) if bias is not None else 0
        if info is None or len(info.shape) == 5 or not width or math.prod(info.shape) % (4 * width):
            continue
        channels = math.prod(info.shape) // (4 * width)
        whole[f"{name}.weight"] = replace(info, shape=(width, channels, 1, 2, 2))
    return whole


def _joined_shape(parts: tuple[TensorInfo, ...]) -> tuple[int, ...]:
    first = parts[0].shape
    if len(parts) == 1 or not first:
        return first
    return (sum(part.shape[0] for part in parts if part.shape), *first[1:])
