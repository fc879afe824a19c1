"""From the names of a file to the published original names: which tensors make which. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.checkpoints.formats.table import BLOCKS, TensorInfo
from engine.checkpoints.names import MARKERS, component_of, naming_of, prefix_of, to_original
from engine.checkpoints.source import Source

# The endings by which a weight's companions are called. A scale multiplies the stored numbers.
_SCALES = (".scale_weight", ".weight_scale")
# Scales of activations, for matrix products in fp8, which we do not do; and what repeats what the dtypes already say.
_IGNORED = (".scale_input", ".input_scale", ".comfy_quant")
# The dtypes that are numbers by themselves, as the blocks of GGUF are; integers are numbers with their scale only.
_NUMBERS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")
# one table under two names in Hugging Face's encoders; a file may hold it under either
_TIED = "encoder.embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor under its original name. parts: what to join along the first axis, mostly one. shape: of the
    whole. scales: what the numbers of each part are multiplied with, one number or one for each row; empty where
    none of them has one."""

    parts: tuple[TensorInfo, ...]
    shape: tuple[int, ...]
    scales: tuple[TensorInfo | None, ...] = ()

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """entries: by original name. naming: whose names the file uses. prefix: what they begin with.
    faults: names that make no sense together, each with the reason."""

    component: str
    naming: str
    prefix: str
    entries: Mapping[str, Entry]
    faults: Mapping[str, str]


def lay_out(source: Source) -> Layout:
    """Every tensor of a source under its original name; what is not part of the component is left out, and
    what nobody knows stays under its own name."""
    named = [name for name in source.tensors if name.rpartition(".")[2] not in MARKERS]
    prefix = prefix_of(named)
    tensors = {name.removeprefix(prefix): source.tensors[name] for name in named}
    component = component_of(tensors)
    weights, scales, faults = _split_scales(tensors)
    if component == "text_encoder" and "shared.weight" not in weights and _TIED in weights:
        weights["shared.weight"] = weights.pop(_TIED)
        if _TIED in scales:
            scales["shared.weight"] = scales.pop(_TIED)
    if component == "denoiser" and source.format == "gguf":
        weights = _unflattened(weights)
    naming = naming_of(component, weights)
    if component in ("unknown", "lora"):
        entries = {name: Entry((info,), info.shape) for name, info in weights.items()}
        return Layout(component, "", prefix, entries, faults)
    parts: dict[str, dict[int, tuple[TensorInfo, TensorInfo | None]]] = {}
    for name, info in weights.items():
        target = to_original(component, naming, name)
        if target is None:
            continue
        original, index = target
        pieces = parts.setdefault(original, {})
        if index in pieces:
            faults[name] = f"makes {original}, which another tensor of the file makes too"
        scale = scales.get(name)
        pieces[index] = info, scale
        if fault := dtype_fault(info, scale):
            faults[name] = fault
    entries = {}
    for name, pieces in parts.items():
        joined, of_parts = zip(*(pieces[index] for index in sorted(pieces)), strict=True)
        if len(joined) > 1 and len({part.shape[1:] for part in joined}) > 1:
            faults[name] = "is to be joined of tensors of different widths"
        entries[name] = Entry(joined, _joined_shape(joined), of_parts if any(of_parts) else ())
    return Layout(component, naming, prefix, entries, faults)


def dtype_fault(part: TensorInfo, scale: TensorInfo | None) -> str:
    """Why the numbers of a weight cannot be told from what is stored, empty where they can."""
    if part.dtype in BLOCKS or part.dtype in _NUMBERS:
        return ""
    if scale is None:
        return f"stored as {part.dtype} without a scale"
    return "" if part.dtype == "I8" else f"stored as {part.dtype}, which nothing here computes with"


def quantisation(entries: Mapping[str, Entry]) -> str:
    """What the numbers were squeezed into, in the words of the field; empty where nothing was."""
    dtypes: dict[str, int] = {}
    for entry in entries.values():
        for part in entry.parts:
            dtypes[part.dtype] = dtypes.get(part.dtype, 0) + math.prod(part.shape)
    blocks = {dtype: count for dtype, count in dtypes.items() if dtype in BLOCKS}
    if blocks:
        return f"GGUF {max(blocks, key=lambda dtype: blocks[dtype])}"
    for dtype, word in (("F8_E4M3", "fp8_e4m3fn"), ("F8_E5M2", "fp8_e5m2"), ("I8", "int8")):
        if dtype in dtypes:
            scales = [scale for entry in entries.values() for scale in entry.scales]
            if not scales:
                return word
            by_row = any(scale is not None and math.prod(scale.shape) > 1 for scale in scales)
            return f"{word} scaled{' by row' if by_row else ''}"
    return ""


def _split_scales(
    tensors: Mapping[str, TensorInfo],
) -> tuple[dict[str, TensorInfo], dict[str, TensorInfo], dict[str, str]]:
    """(weights, the scale of each weight that has one, faults), by the names of the weights."""
    weights: dict[str, TensorInfo] = {}
    scales: dict[str, TensorInfo] = {}
    faults: dict[str, str] = {}
    for name, info in tensors.items():
        ending = next((ending for ending in _SCALES if name.endswith(ending)), None)
        if ending is None:
            if not name.endswith(_IGNORED):
                weights[name] = info
            continue
        weight = f"{name.removesuffix(ending)}.weight"
        if weight not in tensors:
            faults[name] = f"scales {weight}, which is not in the file"
        elif math.prod(info.shape) not in (
            1,
            tensors[weight].shape[0] if tensors[weight].shape else 1,
        ):
            faults[name] = (
                f"is {list(info.shape)}, expected one number or one for each row of {weight}"
            )
        elif info.dtype not in ("F32", "BF16", "F16"):
            faults[name] = f"has the dtype {info.dtype}, expected F32, BF16 or F16"
        else:
            scales[weight] = info
    return weights, scales, faults


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
