"""Whether the bytes of weight files are still those that were there, compared by SHA-256, and whether what they hold
are numbers. Torch-free to import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.checkpoints.digests import (
    claimed_digest,
    full_digest,
    identity,
    last_digest,
    remember_digest,
    remembered,
)
from engine.checkpoints.opened import layout_at
from store.index.index import Index

OK, NEW, CHANGED, DAMAGED = "ok", "new", "CHANGED", "DAMAGED"


@dataclass(frozen=True, slots=True)
class Verdict:
    """status: `ok`; `new`, where nothing was known to compare with; `CHANGED`, where another file is in its
    place; `DAMAGED`, where the bytes are not what they are known to be. note: one line, what that means."""

    path: Path
    status: str
    sha256: str
    note: str = ""


def verify_file(
    index: Index, path: Path, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Verdict:
    """Reads all of a file and compares it with what was remembered of it and with the name that the Hugging Face
    cache gives it; remembers what is new. on_progress(bytes read, bytes of the file).

    Raises CheckpointError where it cannot be read.
    """
    before = identity(path)
    known, last, claimed = remembered(index, path), last_digest(index, path), claimed_digest(path)
    sha256 = full_digest(path, on_progress=on_progress)
    if sha256 is None:
        return Verdict(path, CHANGED, "", "was written to while it was read; verify it again")
    if claimed is not None and claimed != sha256:
        note = (
            f"the Hugging Face cache has it as {claimed[:12]}..., it is {sha256[:12]}...; "
            "delete it and download it again"
        )
        return Verdict(path, DAMAGED, sha256, note)
    if known is not None and known.sha256 not in (None, sha256):
        # What was remembered stays, so that it is told again until the file is replaced.
        note = "its bytes changed though nobody wrote to it; check the disk, and download it again"
        return Verdict(path, DAMAGED, sha256, note)
    remember_digest(index, path, sha256, of=before)
    if last is not None and last != sha256:
        return Verdict(
            path, CHANGED, sha256, "another file than the one that was here; results will differ"
        )
    if last is None and claimed is None:
        return Verdict(path, NEW, sha256, "remembered from now on")
    return Verdict(path, OK, sha256)


def verify_numbers(path: Path) -> Verdict | None:
    """What is wrong with the numbers of a checkpoint, which are read whole; None where all are finite. Torch comes in.

    Raises CheckpointError where it cannot be read.
    """
    from engine.checkpoints.finite import no_numbers

    bad = no_numbers(*layout_at(path))
    if bad is None:
        return None
    note = f"its tensor {bad.name} holds {bad.what}; delete it and download it again"
    return Verdict(bad.file, DAMAGED, "", note)
