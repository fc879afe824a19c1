"""The notes of ComfyUI's files: what is said of each layer, in JSON beside its weight or in the file's metadata.

Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from engine.checkpoints.formats.reading import bytes_of, refusal, shortened, without_repeats
from engine.checkpoints.formats.table import TensorInfo
from engine.checkpoints.names import unwrapped
from engine.checkpoints.source import Source

# JSON in a tensor beside each weight, or for all layers in the file's metadata
NOTE = ".comfy_quant"
METADATA = "_quantization_metadata"
MAX_NOTE_BYTES = 4096

Note = dict[str, object]


def read_notes(
    source: Source, tensors: Mapping[str, TensorInfo], prefix: str
) -> tuple[dict[str, Note], dict[str, str]]:
    """(what is said of layers, by their names without prefix; faults by the names of weights). What qualifies a
    format stands beside it, also where a writer put it into a table of its own.

    Raises CheckpointError where a note cannot be read.
    """
    faults: dict[str, str] = {}
    notes = {
        name.removesuffix(NOTE): _flat(_json(source, name, _bytes(source, name, info)))
        for name, info in tensors.items()
        if name.endswith(NOTE)
    }
    if METADATA not in source.metadata:
        return notes, faults
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
    return notes, faults


def _flat(note: Note) -> Note:
    params = note.get("params")
    rest = {key: value for key, value in note.items() if key != "params"}
    return rest | (params if isinstance(params, dict) else {})


def _json(source: Source, name: str, data: bytes | str) -> Note:
    try:
        said = json.loads(data, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise refusal(source.path, f"{shortened(name)} is damaged JSON ({error})") from None
    if not isinstance(said, dict):
        raise refusal(source.path, f"{shortened(name)} is not a JSON object")
    return said


def _bytes(source: Source, name: str, info: TensorInfo) -> bytes:
    if info.dtype != "U8" or info.stop - info.start > MAX_NOTE_BYTES or info.strides is not None:
        raise refusal(
            source.path,
            f"{shortened(name)} is {info.dtype} of {info.stop - info.start:,} bytes, expected a text of at most "
            f"{MAX_NOTE_BYTES:,} as U8",
        )
    return bytes_of(info)
