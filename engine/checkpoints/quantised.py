"""How the numbers of weights are stored: what lies beside a weight and says so. Torch-free.

A weight is multiplied by its scale; in some files it was rotated before it was rounded. Beside other weights lies what
nothing here computes with: such a file is refused by the name of its format, since without what lies beside them its
numbers are others. Nothing beside a weight is ever passed over because it is not known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from engine.checkpoints.formats.reading import bytes_of, refusal, shortened, without_repeats
from engine.checkpoints.formats.table import BLOCKS, TensorInfo
from engine.checkpoints.names import unwrapped
from engine.checkpoints.source import Source

# The mark of ComfyUI's first scaled fp8 files, and the notes of its present ones: JSON in a tensor beside each weight,
# or for all layers in the file's metadata.
MARK = "scaled_fp8"
NOTE = ".comfy_quant"
METADATA = "_quantization_metadata"
MAX_NOTE_BYTES = 4096

# The endings by which the scale of a weight is called; it multiplies the stored numbers.
_SCALES = (".scale_weight", ".weight_scale")
# Scales of activations, for matrix products in fp8, which are not made here: no weight depends on them.
_OF_ACTIVATIONS = (".scale_input", ".input_scale")
# Numbers by themselves, as the blocks of GGUF are; integers are numbers with their scale only.
_NUMBERS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")
_FLOATS = ("F32", "BF16", "F16")
# All that lies beside a weight and is read.
BESIDE = (*_SCALES, *_OF_ACTIVATIONS, NOTE)

# a note's format -> the dtype of its weight
_FORMATS = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8_tensorwise": "I8"}
# What a note says for products in fp8, or repeats of the tensors.
_HARMLESS = ("full_precision_matrix_mult", "orig_dtype", "orig_shape", "per_row", "format_version")
_ROTATION, _GROUP = "convrot", "convrot_groupsize"
DEFAULT_GROUP = 256

# How names end that only one foreign format has -> its name in the field. The more particular first.
_FOREIGN = {
    ".weight._data": "quanto, the int8 of WanGP",
    ".weight_global_scale": "NVFP4 of LightX2V",
    ".weight_scale_2": "NVFP4",
    ".weight_s_rel": "asym_w4a8_int8 of ComfyUI",
    ".weight_codebook": "asym_w4a8_int8 of ComfyUI",
    ".weight_zeros": "awq_w4a16 of ComfyUI",
    ".pre_quant_scale": "ModelOpt's AWQ, whose inputs have scales (pre_quant_scale)",
    ".bitsandbytes__nf4": "bitsandbytes' NF4",
    ".bitsandbytes__fp4": "bitsandbytes' FP4",
    ".weight.absmax": "bitsandbytes' 4 bits",
    ".SCB": "bitsandbytes' LLM.int8",
    ".weight_packed": "compressed-tensors",
    ".weight_zero_point": "compressed-tensors",
    ".qweight": "GPTQ or AWQ",
    ".wscales": "SVDQuant, of nunchaku",
}
_INSTEAD = "take a file of this model in bf16, fp16, fp8, fp8_scaled, int8 or GGUF"


@dataclass(frozen=True, slots=True)
class Packing:
    """How the numbers of a tensor become those of a weight: times their scale, then rotated back.

    scale: one number for each block, in the order of the blocks, whatever its axes. rotation: how many columns are
    rotated together, 0 for none. block: rows and columns that share a number, 0 for all of them: (0, 0) one for the
    tensor, (1, 0) one for each row. second_scale: one number, by which `scale` is multiplied.
    """

    scale: TensorInfo
    rotation: int = 0
    block: tuple[int, int] = (0, 0)
    second_scale: TensorInfo | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """weights: without what lies beside them. packings: by the name of the weight, of those that are packed.
    faults: names that make no sense together, each with the reason. foreign: what the numbers are stored as where
    nothing here reads that, in words with what to take instead, else empty."""

    weights: dict[str, TensorInfo]
    packings: dict[str, Packing] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    foreign: str = ""


def read_quantised(source: Source, tensors: Mapping[str, TensorInfo], prefix: str) -> Weights:
    """What of `tensors`, those of a source without their prefix, are weights, and how each is stored.

    Raises CheckpointError where a note cannot be read from its file.
    """
    notes, faults = _notes(source, tensors, prefix)
    foreign = _foreign(source, tensors, notes)
    if foreign:
        return Weights(dict(tensors), foreign=foreign)
    found = Weights({}, faults=faults)
    for name, info in tensors.items():
        ending = next((ending for ending in _SCALES if name.endswith(ending)), None)
        if ending is not None:
            weight = f"{name.removesuffix(ending)}.weight"
            _take_scale(found, name, info, weight, tensors.get(weight))
        elif not name.endswith((*_OF_ACTIVATIONS, NOTE)):
            found.weights[name] = info
    for layer, note in notes.items():
        _take_note(found, f"{layer}.weight", note)
    if any(name.rpartition(".")[2] == MARK for name in source.tensors):
        return _with_all_scales(found)
    return found


def dtype_fault(part: TensorInfo, packing: Packing | None) -> str:
    """Why the numbers of a weight cannot be told from what is stored, empty where they can."""
    if part.dtype in BLOCKS or part.dtype in _NUMBERS:
        return ""
    if packing is None:
        return f"stored as {part.dtype} without a scale"
    return "" if part.dtype == "I8" else f"stored as {part.dtype}, which nothing here computes with"


def _take_scale(
    found: Weights, name: str, info: TensorInfo, weight: str, scaled: TensorInfo | None
) -> None:
    if scaled is None:
        found.faults[name] = f"scales {weight}, which is not in the file"
    elif math.prod(info.shape) not in (1, scaled.shape[0] if scaled.shape else 1):
        found.faults[name] = (
            f"is {list(info.shape)}, expected one number or one for each row of {weight}"
        )
    elif info.dtype not in _FLOATS:
        found.faults[name] = f"has the dtype {info.dtype}, expected F32, BF16 or F16"
    elif weight in found.packings:
        found.faults[name] = f"scales {weight}, which has another scale"
    else:
        by_row = math.prod(info.shape) > 1
        found.packings[weight] = Packing(info, block=(1, 0) if by_row else (0, 0))


def _take_note(found: Weights, weight: str, note: Mapping[str, object]) -> None:
    info = found.weights.get(weight)
    kind = note["format"]
    if info is None:
        found.faults[weight] = "is not in the file, which has a note on how it is stored"
    elif info.dtype != _FORMATS[str(kind)]:
        found.faults[weight] = f"is stored as {info.dtype}, but its note says {kind}"
    elif weight not in found.packings:
        found.faults[weight] = f"is {kind} without its scale"
    elif note.get(_ROTATION):
        group = note.get(_GROUP, DEFAULT_GROUP)
        columns = info.shape[-1] if len(info.shape) == 2 else 0
        if not _is_power_of_4(group) or not columns or columns % int(str(group)):
            found.faults[weight] = (
                f"is {list(info.shape)} and rotated in groups of {shortened(repr(group))}; expected a matrix and "
                "a power of 4 that divides its columns"
            )
        else:
            found.packings[weight] = replace(found.packings[weight], rotation=int(str(group)))


def _is_power_of_4(number: object) -> bool:
    return (
        type(number) is int
        and number >= 4
        and number.bit_count() == 1
        and number.bit_length() % 2 == 1
    )


def _with_all_scales(found: Weights) -> Weights:
    """A file that says of itself that its fp8 is scaled: where it is not, its scale was lost."""
    for name, info in found.weights.items():
        if info.dtype.startswith("F8") and len(info.shape) == 2 and name not in found.packings:
            found.faults.setdefault(
                name, "is fp8 whose scale is missing: the file says that it is scaled"
            )
    return found


def _foreign(
    source: Source, tensors: Mapping[str, TensorInfo], notes: Mapping[str, Mapping[str, object]]
) -> str:
    kinds = {str(note.get("format", "a format without a name")) for note in notes.values()}
    kinds -= _FORMATS.keys()
    if kinds:
        return f"stored as {shortened(min(kinds))}, which modiff does not read; {_INSTEAD}"
    said = source.metadata.get("quantization_format", "")
    found = next((_FOREIGN[end] for end in _FOREIGN if any(n.endswith(end) for n in tensors)), "")
    if found or said == "quanto":
        return f"stored as {found or _FOREIGN['.weight._data']}, which modiff does not read; {_INSTEAD}"
    for name, info in tensors.items():
        if not name.endswith(_SCALES):
            continue
        if info.dtype in ("F8_E8M0", "U8"):
            return f"stored as MXFP8, which modiff does not read; {_INSTEAD}"
        rows = tensors.get(f"{name.rpartition('.')[0]}.weight")
        is_by_block = (
            rows is not None
            and len(rows.shape) == 2
            and len(info.shape) >= 2
            and info.shape[0] in (rows.shape[0], math.ceil(rows.shape[0] / 128))
            and math.prod(info.shape[1:]) > 1
        )
        if is_by_block:
            return f"stored with a scale for each block of a row, which modiff does not read; {_INSTEAD}"
    return ""


def _notes(
    source: Source, tensors: Mapping[str, TensorInfo], prefix: str
) -> tuple[dict[str, dict[str, object]], dict[str, str]]:
    """(what is said of layers, by their names; faults by the names of weights)."""
    faults: dict[str, str] = {}
    notes = {
        name.removesuffix(NOTE): _flat(_json(source, name, _bytes(source, name, info)))
        for name, info in tensors.items()
        if name.endswith(NOTE)
    }
    if METADATA in source.metadata:
        said = _json(source, METADATA, source.metadata[METADATA])
        layers = said.get("layers")
        if not isinstance(layers, dict) or said.keys() - {"layers", "format_version"}:
            raise refusal(
                source.path, f"{METADATA} is not of a known form; get a file of another format"
            )
        for layer, note in layers.items():
            if not isinstance(note, dict):
                raise refusal(source.path, f"{METADATA} says nothing of {shortened(layer)}")
            bare = unwrapped(layer).removeprefix(prefix)
            if notes.get(bare, _flat(note)) != _flat(note):
                faults[f"{bare}.weight"] = "has two notes that differ on how it is stored"
            notes[bare] = _flat(note)
    for layer, note in notes.items():
        unknown = note.keys() - {"format", _ROTATION, _GROUP, *_HARMLESS}
        if unknown and str(note.get("format")) in _FORMATS:
            faults[f"{layer}.weight"] = (
                f"has a note that says {shortened(min(unknown))!r}, which is not known here"
            )
        if type(note.get(_ROTATION, False)) is not bool:
            faults[f"{layer}.weight"] = f"has a note whose {_ROTATION} is neither true nor false"
    return notes, faults


def _flat(note: Mapping[str, object]) -> dict[str, object]:
    """Some writers put what qualifies a format into a table of its own."""
    params = note.get("params")
    rest = {key: value for key, value in note.items() if key != "params"}
    return rest | (params if isinstance(params, dict) else {})


def _json(source: Source, name: str, data: bytes | str) -> dict[str, object]:
    try:
        said = json.loads(data, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise refusal(source.path, f"{shortened(name)} is damaged JSON ({error})") from None
    if not isinstance(said, dict):
        raise refusal(source.path, f"{shortened(name)} is not a JSON object")
    return said


def _bytes(source: Source, name: str, info: TensorInfo) -> bytes:
    """The text of a note. Raises CheckpointError where it is none, or longer than 4096 bytes."""
    if info.dtype != "U8" or info.stop - info.start > MAX_NOTE_BYTES or info.strides is not None:
        raise refusal(
            source.path,
            f"{shortened(name)} is {info.dtype} of {info.stop - info.start:,} bytes, expected a text of at most "
            f"{MAX_NOTE_BYTES:,} as U8",
        )
    return bytes_of(info)
