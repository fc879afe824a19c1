"""What the built-in components share: weights in files, looked at through their headers. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.checkpoints.digests import fingerprint_of
from engine.checkpoints.formats.holes import check_no_holes
from engine.checkpoints.formats.reading import facts_at
from engine.checkpoints.known.recognise import describe, recognise
from engine.checkpoints.layout import Layout
from engine.checkpoints.locate import is_builtin
from engine.checkpoints.opened import layout_at
from engine.components.memory.holding import check_holding, in_memory, kept_at, told_apart
from engine.components.protocols import Description
from engine.errors import CheckpointError, ComponentError
from presets.identity import counting
from store.keys import canonical

if TYPE_CHECKING:
    from engine.checkpoints.source import Source
    from engine.graph import Plain
    from store.index.index import Index


def checked_layout(kind: str, path: Path) -> tuple[Source, Layout]:
    """The weights at `path` by their headers. Raises CheckpointError for what is not this kind of component, or not
    whole, be it by its length or by what of it was written."""
    source, layout = layout_at(path)
    found = recognise(source, layout)
    wanted = kind.replace("_", " ")
    if found.component != kind:
        what = found.component.replace("_", " ")
        told = (
            f"not a {wanted} ({found.note})"
            if what == "unknown"
            else f"a {what} ({found.variant or found.note})"
        )
        raise CheckpointError(
            f"{path} is {told}; choose the file of a {wanted}",
            key=f"components.{kind}.checkpoint",
        )
    if not found.supported:
        counted = describe(found.missing, found.unexpected, found.misshapen)
        faults = "; ".join(part for part in (found.note, counted) if part)
        raise CheckpointError(
            f"{path} cannot be used as {found.variant or kind}: {faults}",
            key=f"components.{kind}.checkpoint",
        )
    check_no_holes(source.tensors)
    return source, layout


def description(
    spec: Any, index: Index, layout: Layout, files: Sequence[Path], facts: dict[str, Plain]
) -> Description:
    """The description of a component that is read from files: its numbers depend on their bytes and on the options
    that count."""
    if spec.options:
        raise ComponentError(
            f"{spec.name} has no options of its own, got {', '.join(sorted(spec.options))}; remove them"
        )
    check_holding(spec, layout)
    held = {"files": [[*facts_at(path)] for path in files], "dtype": spec.dtype}
    held |= told_apart(spec, layout)
    shapes = {name: entry.shape for name, entry in layout.entries.items()}
    on_cpu, off_cpu = (
        in_memory(spec, layout.component, shapes, layout.entries, device)
        for device in ("cpu", "cuda")
    )
    identity = {**counting(spec), "weights": fingerprint_of(index, files)}
    packings = {packing for entry in layout.entries.values() for packing in entry.packings}
    if any(packing is not None and packing.rotation for packing in packings):
        identity["rotated"] = (
            True  # what was stored under these weights before they were turned back is wrong
        )
    return Description(
        identity=identity,
        facts=facts,
        resident=canonical({"name": spec.name, **held}).decode(),
        num_bytes=on_cpu.num_bytes,
        files=tuple(files),
        packed=on_cpu.packed,
        moved_bytes=on_cpu.moved_bytes,
        off_cpu=None if off_cpu == on_cpu else off_cpu,
        kept=kept_at(spec, index.root, identity["weights"]),
    )


def absolute(given: str, find: Callable[[], Path]) -> str:
    """A path that means the same in every folder; what is built in stays as it is."""
    found = find()
    return given if is_builtin(given) else str(found.absolute())
