"""How the large matrices of a model are held in memory: as numbers, or packed until they are needed. Torch-free.

Packed are matrices of the blocks alone, those of attention and of the feed-forward layers: they are nearly all of a
model, and what published quantised files quantise. All else is numbers from the start.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from engine.checkpoints.formats.table import BLOCKS, ITEM_BITS, PAIRS, TensorInfo
from engine.checkpoints.layout import Entry
from engine.checkpoints.packing.quantised import Packing
from engine.models.quantised.scheme import Scheme

Shape = tuple[int, ...]

# the dtype of the codes that a plain file is rounded to
ROUNDED = {"fp8": "F8_E4M3", "int8": "I8"}

# of how numbers are rounded: another one makes what was kept of them be made again
VERSION = 1

_LARGE = re.compile(r"(vace_)?blocks\.\d+\.(self_attn|cross_attn|attn|ffn)\.(.+\.)?weight")
_CODES = ("F8_E4M3", "F8_E5M2", "I8")
# what a scale is held as: a power of two is one in bf16 too
_SCALE_DTYPES = {"F8_E4M3": "F8_E4M3", "F8_E8M0": "BF16"}


@dataclass(frozen=True, slots=True)
class Holding:
    """quantise: what the large matrices of a plain file are rounded to as they are loaded, one of ROUNDED or empty.
    unpack: when packed ones become numbers, "load", "call" or "auto". rounds_activations: whether they are multiplied
    with activations that are rounded alike, and so stay packed."""

    quantise: str = ""
    unpack: str = "auto"
    rounds_activations: bool = False

    def unpacks_at_call(self, device_type: str) -> bool:
        """On a device of that type ("cpu", "cuda"). A quantised file is likely there to be smaller in memory, except
        on the CPU, where unpacking costs as much as multiplying."""
        if self.rounds_activations or self.unpack == "call":
            return True
        return self.unpack == "auto" and (bool(self.quantise) or device_type != "cpu")


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor in memory. dtype: as the safetensors format spells it."""

    dtype: str
    shape: Shape

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BITS[self.dtype] // 8


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight in memory as its codes. tensors: by the last part of their names: "weight", and perhaps "weight_scale"
    and "weight_scale_2". part, packing: where they lie in a file and how; None for what is rounded as it is loaded."""

    scheme: Scheme
    tensors: Mapping[str, Held]
    part: TensorInfo | None = None
    packing: Packing | None = None

    @property
    def num_bytes(self) -> int:
        return sum(held.num_bytes for held in self.tensors.values())

    @property
    def can_round_activations(self) -> bool:
        codes = self.tensors["weight"].dtype in ("F8_E4M3", "I8")
        return codes and self.scheme.block in ((0, 0), (1, 0))


def is_large(name: str, shape: Sequence[int]) -> bool:
    """Whether a weight, by its original name, is one of those that may be packed."""
    return len(shape) == 2 and _LARGE.fullmatch(name) is not None


def packed_matrices(
    entries: Mapping[str, Entry], holding: Holding, device_type: str
) -> dict[str, Packed]:
    """The weights that are held packed on a device of that type, by their original names. What is stored in a way that
    is unpacked as it is loaded only is not among them."""
    if not holding.unpacks_at_call(device_type):
        return {}
    found = {}
    for name, entry in entries.items():
        if not is_large(name, entry.shape):
            continue
        packed = rounded(entry.shape, holding.quantise) if holding.quantise else _as_stored(entry)
        if packed is None or not _is_known_on(device_type, packed):
            continue
        if holding.rounds_activations and packed.can_round_activations:
            packed = replace(packed, scheme=replace(packed.scheme, rounds_activations=True))
        found[name] = packed
    return found


def rounded(shape: Sequence[int], quantise: str) -> Packed:
    """A matrix of that shape that is rounded to one of ROUNDED, each row with its scale."""
    tensors = {
        "weight": Held(ROUNDED[quantise], tuple(shape)),
        "weight_scale": Held("F32", (shape[0], 1)),
    }
    return Packed(Scheme(block=(1, 0)), tensors)


def held_bytes(
    shapes: Mapping[str, Sequence[int]],
    packed: Mapping[str, Packed],
    item_bytes: int,
    keeps_fp32: Callable[[str], bool] = lambda name: False,
) -> dict[str, int]:
    """What each of weights of these shapes takes in memory, by name. item_bytes: of a number of what is not packed,
    unless it `keeps_fp32`."""
    return {
        name: packed[name].num_bytes
        if name in packed
        else math.prod(shape) * (4 if keeps_fp32(name) else item_bytes)
        for name, shape in shapes.items()
    }


def _is_known_on(device_type: str, packed: Packed) -> bool:
    """Whether such a device has what it is held as and unpacked with: Apple's has no fp8, and no fp64 to rotate in."""
    if device_type != "mps":
        return True
    has_fp8 = any(held.dtype.startswith("F8") for held in packed.tensors.values())
    return not has_fp8 and not packed.scheme.rotation


def _as_stored(entry: Entry) -> Packed | None:
    """None for what is stored as numbers, or as what is unpacked as it is loaded."""
    if len(entry.parts) != 1 or entry.parts[0].strides is not None:
        return None
    part, packing = entry.parts[0], entry.packings[0] if entry.packings else None
    if part.dtype in BLOCKS:
        return _as_blocks(part)
    if part.dtype not in (*_CODES, PAIRS) or part.shape != entry.shape:
        return None
    rows, columns = part.shape
    is_pairs = part.dtype == PAIRS
    codes = Held("U8", (rows, columns // 2)) if is_pairs else Held(part.dtype, part.shape)
    if packing is None:
        return Packed(Scheme(), {"weight": codes}, part)
    scale = Held(_SCALE_DTYPES.get(packing.scale.dtype, "F32"), _scale_shape(part.shape, packing))
    tensors = {"weight": codes, "weight_scale": scale}
    if packing.second_scale is not None:
        tensors["weight_scale_2"] = Held("F32", (1,))
    scheme = Scheme(pairs=is_pairs, block=packing.block, rotation=packing.rotation)
    return Packed(scheme, tensors, part, packing)


def _as_blocks(part: TensorInfo) -> Packed | None:
    block_bytes, block_weights = BLOCKS[part.dtype]
    if len(part.shape) != 2 or part.shape[1] % block_weights:
        return None
    shape = (part.shape[0], part.shape[1] // block_weights, block_bytes)
    return Packed(Scheme(part.dtype), {"weight": Held("U8", shape)}, part)


def _scale_shape(shape: Shape, packing: Packing) -> Shape:
    """As of `engine.checkpoints.load.Weights.scales`."""
    rows, columns = packing.block
    return -(-shape[0] // rows) if rows else 1, -(-shape[1] // columns) if columns else 1
