"""What was quantised as it was loaded, kept in the store: the next start reads the small file.

It is an ordinary file under the original names, as ComfyUI's notes have it, with a scale for each row in fp8 too. What
is broken, or is not what would be made now, is made again; where it cannot be written, nothing is kept.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoints.convert.squeezing import note_of
from engine.checkpoints.convert.writers import (
    Planned,
    dtype_name,
    whole_or_nothing,
    write_safetensors,
)
from engine.checkpoints.formats.holes import check_no_holes
from engine.checkpoints.held.holding import ROUNDED, Holding, is_large
from engine.checkpoints.held.packed import rounded_entry
from engine.checkpoints.layout import Entry
from engine.checkpoints.load import Weights, natural_dtype
from engine.checkpoints.opened import layout_at
from engine.checkpoints.packing.notes import NOTE
from engine.errors import CheckpointError
from store.breaker import Breaker
from store.locks import HeldLock, try_use
from store.upkeep.space import free_bytes, reserve_bytes

_CLEAN_UP_SECONDS = 5.0

CPU = torch.device("cpu")
_SAYS = "modiff.quantised"  # of what it was made for, in its metadata


class InUse:
    """The kept file is not removed by a clean-up as long as this lives."""

    def __init__(self, held: HeldLock) -> None:
        weakref.finalize(self, held.release)


def kept(
    entries: Mapping[str, Entry], holding: Holding, path: Path | None, device_type: str
) -> tuple[Mapping[str, Entry], Holding, InUse | None]:
    """What to load in the place of `entries`, and how to hold it: the same bits, quantised already; and what is to live
    as long as that is read from, None where it is `entries`.

    path: where it is kept, or is to be; None, and what asks for no quantisation, changes nothing. Raises
    CheckpointError where numbers cannot be quantised.
    """
    if path is None or not holding.quantise:
        return entries, holding, None
    found = _used(path, entries, holding.quantise)
    if found is None:
        with suppress(
            CheckpointError, OSError
        ):  # such as a full disk; what cannot be rounded is told by who loads
            _write(path, entries, holding.quantise)
        found = _used(path, entries, holding.quantise)
    if found is None:
        return entries, holding, None
    unpack = "call" if holding.unpacks_at_call(device_type) else "load"
    return found[0], replace(holding, quantise="", unpack=unpack), found[1]


def _used(
    path: Path, entries: Mapping[str, Entry], quantise: str
) -> tuple[Mapping[str, Entry], InUse] | None:
    """As of `_read`, in use from before it is looked at."""
    # a clean-up looks for a moment whether it is
    held = Breaker(_CLEAN_UP_SECONDS).wait(lambda: try_use(path)) if path.exists() else None
    if held is None:
        return None
    in_use, found = InUse(held), _read(path, entries, quantise)
    return None if found is None else (found, in_use)


def _read(path: Path, entries: Mapping[str, Entry], quantise: str) -> Mapping[str, Entry] | None:
    """What is kept; None where it is broken or something else."""
    try:
        source, layout = layout_at(path)
        check_no_holes(source.tensors)
    except CheckpointError:
        return None
    is_whole = (
        not (layout.faults or layout.foreign)
        and source.metadata.get(_SAYS) == _made_for(entries, quantise)
        and {name: entry.shape for name, entry in layout.entries.items()}
        == {name: entry.shape for name, entry in entries.items()}
    )
    return layout.entries if is_whole else None


def _write(path: Path, entries: Mapping[str, Entry], quantise: str) -> None:
    """Raises CheckpointError, OSError."""
    planned: list[Planned] = []
    scales: dict[str, Tensor] = {}
    note = note_of(quantise)
    large = {name for name, entry in entries.items() if is_large(name, entry.shape)}
    for name, entry in entries.items():
        if name not in large:
            planned.append(Planned(name, dtype_name(natural_dtype(entry)), entry.shape))
            continue
        layer = name.removesuffix(".weight")
        planned += [
            Planned(name, ROUNDED[quantise], entry.shape),
            Planned(f"{layer}.weight_scale", "F32", (entry.shape[0], 1)),
            Planned(f"{layer}{NOTE}", "U8", tuple(note.shape)),
        ]
    root = path.parent.parent
    if free_bytes(root) - sum(each.num_bytes for each in planned) < reserve_bytes(root):
        raise CheckpointError(f"{path}: no room to keep quantised weights")
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)

    with whole_or_nothing(path) as draft, Weights(entries) as weights:

        def read(name: str) -> Tensor:
            if name in large:
                made = rounded_entry(weights, name, quantise)
                scales[f"{name}_scale"] = made["weight_scale"]
                return made["weight"]
            if name.endswith(NOTE):
                return note
            return scales[name] if name in scales else weights.tensor(name, device=CPU)

        # a matrix is read once, and gives its scale too
        later = {each.name for each in planned if each.name.endswith(".weight_scale")}
        metadata = {_SAYS: _made_for(entries, quantise)}
        write_safetensors(draft, planned, read, metadata=metadata, later=later)


def _made_for(entries: Mapping[str, Entry], quantise: str) -> str:
    names = "\n".join(sorted(entries))
    return f"{quantise} of {hashlib.sha256(names.encode()).hexdigest()[:16]}"
