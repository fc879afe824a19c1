"""How the numbers of weights are stored: what lies beside a weight and says so. Torch-free.

A weight is multiplied by its scales; in some files it was rotated before it was rounded. Beside other weights lies what
nothing here computes with: such a file is refused by the name of its format, since without what lies beside them its
numbers are others. Nothing beside a weight is ever passed over because it is not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from engine.checkpoints.formats.reading import shortened
from engine.checkpoints.formats.table import BLOCKS, PAIRS, TensorInfo
from engine.checkpoints.packing.notes import NOTE, Note, read_notes
from engine.checkpoints.source import Source

# The mark of ComfyUI's first scaled fp8 files
MARK = "scaled_fp8"

# The endings by which the scale of a weight is called; it multiplies the stored numbers.
_SCALES = (".scale_weight", ".weight_scale")
# One number by which the scales of blocks are multiplied.
_SECOND = ".weight_scale_2"
# Scales of activations, for matrix products in fp8, which are not made here: no weight depends on them.
_OF_ACTIVATIONS = (".scale_input", ".input_scale", ".output_scale")
# quanto's names of a weight and its scale -> ours
_QUANTO = {".weight._data": ".weight", ".weight._scale": ".weight_scale"}
_QUANTO_ENDINGS = tuple(_QUANTO)
# All that lies beside a weight and is read.
BESIDE = (*_SCALES, _SECOND, *_OF_ACTIVATIONS, NOTE)

# Numbers by themselves, as the blocks of GGUF are; integers and pairs are numbers with their scale only.
_NUMBERS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")
_FLOATS = ("F32", "BF16", "F16")
# the shape of the tiles in which tensor cores read the scales of blocks
_TILE_ROWS, _TILE_COLUMNS = 128, 4


class _Format(NamedTuple):
    """dtype: of the weight. scale: what its scale is stored as. means: the dtype that the scale's bytes are, where
    they may be stored as bytes. columns: that share a scale, whose scales lie in tiles; 0: the scale's shape says."""

    dtype: str
    scale: tuple[str, ...] = _FLOATS
    means: str = ""
    columns: int = 0


# What a note calls a format. The first of each kind are ComfyUI's own; rows and blocks are convert_to_quant's.
_FORMATS = {
    "float8_e4m3fn": _Format("F8_E4M3"),
    "float8_e5m2": _Format("F8_E5M2"),
    "int8_tensorwise": _Format("I8"),
    "mxfp8": _Format("F8_E4M3", ("F8_E8M0", "U8"), "F8_E8M0", 32),
    "nvfp4": _Format("U8", ("F8_E4M3", "U8"), "F8_E4M3", 16),
    "float8_e4m3fn_rowwise": _Format("F8_E4M3"),
    "float8_e4m3fn_blockwise": _Format("F8_E4M3"),
    "float8_e4m3fn_block3d": _Format("F8_E4M3"),
    "int8_blockwise": _Format("I8"),
}
# What a note says for products in fp8, or repeats of the tensors.
_HARMLESS = ("full_precision_matrix_mult", "orig_dtype", "orig_shape", "per_row", "format_version")
_ROTATION, _ROTATION_GROUP = "convrot", "convrot_groupsize"
_ROTATED = "int8_tensorwise"
_BLOCK = "group_size"
DEFAULT_ROTATION = 256

# How names end that only one foreign format has -> its name in the field. The more particular first.
_FOREIGN = {
    "._shift": "quanto's int4 or int2",
    "._data._data": "quanto's int4 or int2",
    ".weight_global_scale": "NVFP4 of LightX2V",
    ".input_global_scale": "NVFP4 of LightX2V",
    ".weight_s_rel": "asym_w4a8_int8 of ComfyUI",
    ".weight_codebook": "asym_w4a8_int8 of ComfyUI",
    ".weight_zeros": "awq_w4a16 of ComfyUI",
    ".pre_quant_scale": "AWQ of ModelOpt (pre_quant_scale)",
    ".weight_scale_inv": "fp8 in blocks of 128 by 128 (weight_scale_inv)",
    ".bitsandbytes__nf4": "bitsandbytes' NF4",
    ".bitsandbytes__fp4": "bitsandbytes' FP4",
    ".weight.absmax": "bitsandbytes' 4 bits",
    ".SCB": "bitsandbytes' LLM.int8",
    ".weight_packed": "compressed-tensors",
    ".weight_zero_point": "compressed-tensors",
    ".wscales": "SVDQuant, of nunchaku",
    ".wtscale": "SVDQuant, of nunchaku",
    ".qweight": "GPTQ or AWQ",
    ".biases": "MLX",
    ".svd_up": "SDNQ",
    ".zero_point": "SDNQ",
}
_FOREIGN_ENDINGS = tuple(_FOREIGN)
# What of a model to take where what there is cannot be read.
INSTEAD = "take a file of this model in bf16, fp16, fp8, int8 or GGUF, or ComfyUI's mxfp8 or nvfp4"


@dataclass(frozen=True, slots=True)
class Packing:
    """How the numbers of a tensor become those of a weight: times their scale, then rotated back.

    scale: one number for each block, in the order of the blocks, whatever its axes, unless `is_tiled`. rotation: how
    many columns are rotated together, 0 for none. block: rows and columns that share a number, 0 for all of them:
    (0, 0) one for the tensor, (1, 0) one for each row. second_scale: one number, by which `scale` is multiplied.
    is_tiled: whether the scales, padded to whole tiles of 128 rows and 4 columns, lie tile by tile as tensor cores
    read them: in the tile, 32 rows of 4 times 4, row r and column c at (r % 32, 4 * (r // 32) + c).
    """

    scale: TensorInfo
    rotation: int = 0
    block: tuple[int, int] = (0, 0)
    second_scale: TensorInfo | None = None
    is_tiled: bool = False


@dataclass(frozen=True, slots=True)
class Weights:
    """weights: without what lies beside them. packings: by the name of the weight, of those that are packed.
    faults: names that make no sense together, each with the reason. foreign: the format of the numbers, in the words
    of the field, where nothing here reads it, else empty."""

    weights: dict[str, TensorInfo]
    packings: dict[str, Packing] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    foreign: str = ""


def without_quanto(name: str) -> str:
    """A name as other files have it: quanto puts the parts of a weight below its name."""
    if not is_of_quanto(name):
        return name
    end = next(end for end in _QUANTO if name.endswith(end))
    return name.removesuffix(end) + _QUANTO[end]


def is_of_quanto(name: str) -> bool:
    """Whether a name is that of a part of a weight."""
    return name.endswith(_QUANTO_ENDINGS)


def read_quantised(source: Source, tensors: Mapping[str, TensorInfo], prefix: str) -> Weights:
    """What of `tensors`, those of a source without their prefix, are weights, and how each is stored.

    Raises CheckpointError where a note cannot be read from its file.
    """
    notes, faults = read_notes(source, tensors, prefix)
    foreign = _foreign(tensors, notes)
    if foreign:
        return Weights(dict(tensors), foreign=foreign)
    weights = {name: info for name, info in tensors.items() if not name.endswith(BESIDE)}
    found = Weights(weights, faults=faults)
    for layer, note in notes.items():
        _take_note(found, f"{layer}.weight", note)
    for name, info in tensors.items():
        layer, _, ending = name.rpartition(".")
        if f".{ending}" in _SCALES:
            _take_scale(found, name, info, f"{layer}.weight", notes.get(layer, {}))
    for layer, note in notes.items():
        _take_rest(found, tensors, layer, note)
    marked = any(name.rpartition(".")[2] == MARK for name in source.tensors)
    _check_fp8(found, "the file says that it is scaled" if marked else "", notes)
    return found


def dtype_fault(part: TensorInfo, packing: Packing | None) -> str:
    """Why the numbers of a weight cannot be told from what is stored, empty where they can."""
    if part.dtype in BLOCKS or part.dtype in _NUMBERS:
        return ""
    if packing is None:
        return f"stored as {part.dtype} without a scale"
    return (
        ""
        if part.dtype in ("I8", PAIRS)
        else f"stored as {part.dtype}, which nothing here computes with"
    )


def _take_note(found: Weights, weight: str, note: Note) -> None:
    """What a note says of its weight; of two numbers in a byte, the weight gets the dtype and the shape."""
    info, kind = found.weights.get(weight), str(note["format"])
    unknown = note.keys() - {"format", _ROTATION, _ROTATION_GROUP, _BLOCK, *_HARMLESS}
    if info is None:
        found.faults[weight] = "is not in the file, which has a note on how it is stored"
    elif info.dtype != _FORMATS[kind].dtype:
        found.faults[weight] = f"is stored as {info.dtype}, but its note says {kind}"
    elif unknown:
        found.faults[weight] = (
            f"has a note that says {shortened(min(unknown))!r}, which is not known here"
        )
    elif type(note.get(_ROTATION, False)) is not bool:
        found.faults[weight] = f"has a note whose {_ROTATION} is neither true nor false"
    elif note.get(_ROTATION) and kind != _ROTATED:
        found.faults[weight] = f"is rotated ({_ROTATION}), which is known of {_ROTATED} only"
    elif _FORMATS[kind].columns and (len(info.shape) != 2 or info.strides is not None):
        found.faults[weight] = f"is {list(info.shape)}; expected a matrix, as its note says {kind}"
    elif kind == "nvfp4":
        rows, num_bytes = info.shape
        found.weights[weight] = replace(info, dtype=PAIRS, shape=(rows, 2 * num_bytes))


def _take_scale(found: Weights, name: str, info: TensorInfo, weight: str, note: Note) -> None:
    scaled = found.weights.get(weight)
    if scaled is None:
        found.faults[name] = f"scales {weight}, which is not in the file"
        return
    if weight in found.faults:
        return  # one reason is enough
    form = _FORMATS[str(note["format"])] if note else _Format(scaled.dtype)
    expected = _tiled_shape(scaled.shape, form.columns) if form.columns else ()
    block = (1, form.columns) if form.columns else _block(info.shape, scaled.shape)
    if weight in found.packings:
        found.faults[weight] = f"has two scales, {name} is one of them"
    elif info.dtype not in form.scale:
        found.faults[weight] = (
            f"has a scale of {info.dtype}, expected {', '.join(form.scale[:-1])} or {form.scale[-1]}"
        )
    elif form.columns and scaled.shape[1] % form.columns:
        found.faults[weight] = (
            f"is {list(scaled.shape)}, of which blocks of {form.columns} columns do not make whole rows"
        )
    elif form.columns and (info.shape not in (expected, (math.prod(expected),)) or info.strides):
        found.faults[weight] = (
            f"is {list(scaled.shape)} and its scale {list(info.shape)}, expected {list(expected)}"
        )
    elif block is None:
        found.faults[weight] = (
            f"is {list(scaled.shape)} and its scale {list(info.shape)}; expected one number, one for each row, or one "
            "for each block of a row or square"
        )
    else:
        scale = replace(info, dtype=form.means) if form.means else info
        found.packings[weight] = Packing(scale, block=block, is_tiled=bool(form.columns))


def _block(scale: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, int] | None:
    """Rows and columns of a weight that share one number of a scale, by the shapes; None where these do not tell.

    Published are: one number; [rows], [rows, 1] and so on; of a matrix also [rows, blocks], [rows, blocks, 1] (musubi)
    and [rows / n, columns / n].
    """
    if math.prod(scale) == 1:
        return (0, 0)
    rows = weight[0] if weight else 1
    if scale[0] == rows and math.prod(scale) == rows:
        return (1, 0)
    if len(weight) != 2 or len(scale) not in (2, 3) or scale[2:] not in ((), (1,)):
        return None
    down, across = scale[:2]
    if not down * across or rows % down or weight[1] % across:
        return None
    height, width = rows // down, weight[1] // across
    is_known = across > 1 if height == 1 else down > 1 and height == width
    return (height, width) if is_known else None


def _tiled_shape(weight: tuple[int, ...], columns: int) -> tuple[int, int]:
    """The shape of the scales of blocks of `columns` in a row, padded to whole tiles."""
    rows, blocks = weight[0], -(-weight[-1] // columns)
    return (
        -(-rows // _TILE_ROWS) * _TILE_ROWS,
        -(-blocks // _TILE_COLUMNS) * _TILE_COLUMNS,
    )


def _take_rest(found: Weights, tensors: Mapping[str, TensorInfo], layer: str, note: Note) -> None:
    """What a note says of the scale: it is there, of the size that it has, with its second, and rotated or not."""
    weight, kind = f"{layer}.weight", str(note["format"])
    if weight in found.faults:
        return
    packing, second = found.packings.get(weight), tensors.get(f"{layer}{_SECOND}")
    if packing is None:
        found.faults[weight] = f"is {kind} without its scale"
    elif _BLOCK in note and note[_BLOCK] != (packing.block[1] or found.weights[weight].shape[-1]):
        found.faults[weight] = (
            f"has a note that says blocks of {shortened(repr(note[_BLOCK]))}, but a scale for blocks of "
            f"{packing.block[1] or 'all columns'}"
        )
    elif kind == "nvfp4" and (
        second is None or second.dtype not in _FLOATS or math.prod(second.shape) != 1
    ):
        told = "none" if second is None else f"{second.dtype} {list(second.shape)}"
        found.faults[weight] = f"needs one number as second scale ({_SECOND}), got {told}"
    elif kind != "nvfp4" and second is not None:
        found.faults[weight] = f"has a second scale ({_SECOND}), which {kind} has not"
    elif second is not None:
        found.packings[weight] = replace(packing, second_scale=second)
    elif note.get(_ROTATION):
        _take_rotation(found, weight, packing, note.get(_ROTATION_GROUP, DEFAULT_ROTATION))


def _take_rotation(found: Weights, weight: str, packing: Packing, group: object) -> None:
    shape = found.weights[weight].shape
    columns = shape[-1] if len(shape) == 2 else 0
    if not _is_power_of_4(group) or not columns or columns % int(str(group)):
        found.faults[weight] = (
            f"is {list(shape)} and rotated in groups of {shortened(repr(group))}; expected a matrix and "
            "a power of 4 that divides its columns"
        )
    else:
        found.packings[weight] = replace(packing, rotation=int(str(group)))


def _is_power_of_4(number: object) -> bool:
    return (
        type(number) is int
        and number >= 4
        and number.bit_count() == 1
        and number.bit_length() % 2 == 1
    )


def _check_fp8(found: Weights, reason: str, notes: Mapping[str, Note]) -> None:
    """Where fp8 is scaled without notes, be it that a mark says so or that there are scales, all of it is: fp8 without
    a scale has lost it."""
    fp8 = [
        name
        for name, info in found.weights.items()
        if info.dtype.startswith("F8") and name.removesuffix(".weight") not in notes
    ]
    if not reason and any(name in found.packings for name in fp8):
        reason = "other fp8 of the file has one"
    for name in fp8 if reason else ():
        if name not in found.packings and len(found.weights[name].shape) == 2:
            found.faults.setdefault(name, f"is fp8 whose scale is missing: {reason}")


def _foreign(tensors: Mapping[str, TensorInfo], notes: Mapping[str, Note]) -> str:
    kinds = {str(note.get("format", "a format without a name")) for note in notes.values()}
    kinds -= _FORMATS.keys()
    if kinds:
        return shortened(min(kinds))
    odd = [name for name in tensors if name.endswith(_FOREIGN_ENDINGS)]
    for ending, words in _FOREIGN.items():
        if any(name.endswith(ending) for name in odd):
            return words
    found = (_foreign_scale(name, info, tensors, notes) for name, info in tensors.items())
    return next(filter(None, found), "")


def _foreign_scale(
    name: str, info: TensorInfo, tensors: Mapping[str, TensorInfo], notes: Mapping[str, Note]
) -> str:
    """What has such a scale and no note: in which order these scales and numbers lie, nothing tells."""
    layer, _, ending = name.rpartition(".")
    if layer in notes:
        return ""
    if f".{ending}" == _SECOND:
        return "NVFP4 without ComfyUI's notes"
    weight = tensors.get(f"{layer}.weight")
    if ending == "scale" and weight is not None and weight.dtype not in _FLOATS:
        return "SDNQ"
    if f".{ending}" not in _SCALES or info.dtype not in ("F8_E8M0", "F8_E4M3", "U8"):
        return ""
    kind = "MXFP8" if weight is not None and weight.dtype == "F8_E4M3" else "MXFP4, MXFP6 or NVFP4"
    return f"{kind} without ComfyUI's notes"
