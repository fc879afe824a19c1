"""The expanded prompt of a run, from its record and the store. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine.expansion.answer import Record, decode_record
from presets.expansion import expands
from store.blobs import blobs
from store.errors import BlobCorrupt, BlobMissing

if TYPE_CHECKING:
    from presets.spec.run import RunSpec
    from store.lineage.records import RunLink, RunRecord
    from store.store import Store


@dataclass(frozen=True, slots=True)
class Expanded:
    """text: what the run reads in place of its prompt; "" where it is lost. is_edited: by hand, or of another run.
    answer: of the language model, as far as it is stored."""

    text: str
    is_edited: bool
    answer: Record | None


def expanded_prompt(store: Store, run: RunRecord, links: Sequence[RunLink]) -> Expanded | None:
    """None where a run has none, or not yet. links: as of `Store.links_of`."""
    table: Any = json.loads(run.spec_json).get("expansion")
    if not isinstance(table, dict) or table.get("enabled") is not True:
        return None
    found = {link.stage: link for link in sorted(links, key=lambda link: link.index)}
    answer = None
    if "expand" in found and (data := _stored(store, found["expand"].digest)):
        answer = decode_record(data)
    if text := table.get("text"):
        return Expanded(str(text), True, answer)
    if "expanded" not in found:
        return None
    return Expanded(_stored(store, found["expanded"].digest).decode(), False, answer)


def expanded_text(store: Store, run_id: str) -> str:
    """What a run reads in place of its prompt, "" where it has none, or not yet. Raises UnknownRun."""
    found = expanded_prompt(store, store.run(run_id), store.links_of(run_id))
    return found.text if found is not None else ""


def with_text(store: Store, run: RunRecord, spec: RunSpec) -> RunSpec:
    """The settings of a run with the prompt that was expanded for it, to travel with what it writes: who has the file
    need ask nobody."""
    if not expands(spec):
        return spec
    found = expanded_prompt(store, run, store.links_of(run.id))
    text = found.text if found is not None else ""
    return replace(spec, expansion=replace(spec.expansion, text=text))


def _stored(store: Store, digest: str) -> bytes | bytearray:
    """The bytes of a result; none where they are not there (any more)."""
    try:
        return blobs.get(store.root, digest) if digest else b""
    except (BlobMissing, BlobCorrupt):
        return b""
