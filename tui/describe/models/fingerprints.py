"""What is known of a model's files without reading them through: their fingerprint, and whose SHA-256 is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.checkpoints.digests import claimed_digest, fingerprint_of, remembered

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from store.index.index import Index

# A file up to so large is sampled here and now; a larger one when a run or `modiff models verify` comes to it.
CHEAP_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Known:
    """fingerprint: `wf1:...`, "" where it was never computed. digests: of each file its SHA-256, "" where nobody has
    read all of it; claimed: those by which the Hugging Face cache names files, which nobody has checked."""

    fingerprint: str
    digests: tuple[str, ...]
    claimed: tuple[str, ...]


def known_of(index: Index, files: Sequence[Path], num_bytes: int) -> Known:
    """Raises CheckpointError where a file cannot be read."""
    rows = [remembered(index, path) for path in files]
    is_known = bool(files) and (num_bytes <= CHEAP_BYTES or all(row is not None for row in rows))
    return Known(
        fingerprint_of(index, files) if is_known else "",
        tuple((row.sha256 or "") if row is not None else "" for row in rows),
        tuple(claimed_digest(path) or "" for path in files),
    )


def lines(known: Known) -> list[str]:
    """For people, under what `tui.describe.models.files.block` tells."""
    told = known.fingerprint or "not known yet; a run, or `modiff models verify`, computes it"
    rows = [("fingerprint", told)]
    for i, digest in enumerate(known.digests):
        name = f"sha256 {i + 1}" if len(known.digests) > 1 else "sha256"
        if digest:
            rows.append((name, digest))
        elif known.claimed[i]:
            rows.append((name, f"{known.claimed[i]} by its name in the cache, not checked"))
        elif len(known.digests) == 1:
            rows.append((name, "not known; `modiff models verify` reads all of it"))
    return [f"  {name:<13} {value}" for name, value in rows]
