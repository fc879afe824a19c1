"""Writing a bundle: runs, what they descend from, and as much of what they made as is asked for.

A bundle appears whole under its name, or not at all. The same runs give the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

import msgspec

from store.blobs import blobs
from store.blobs.files import FULL, sync_file, sync_folder
from store.blobs.leavings import sweep_leavings
from store.bundle.archive import MANIFEST, add_member, blob_name, new_archive
from store.bundle.contents import check_contents
from store.bundle.manifest import (
    FORMAT,
    TEXT,
    VIDEO,
    BlobRow,
    Manifest,
    blob_kinds,
    contents_of,
    encode_manifest,
)
from store.bundle.rows import described, links_of
from store.bundle.strict import BundleRefused
from store.errors import BadRequest, BlobCorrupt, BlobMissing, StoreError, StoreFull
from store.lineage import ancestry, runs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from zipfile import ZipFile

    from store.database.database import Lineage
    from store.lineage.records import RunRecord

ALL = "all"
LAST = "last"
NONE = "none"
# Which tensors go with a run: those of every step, so that it can be branched at any; the final
# latents, so that it can be decoded again; none, so that there is only its video to see.
STEPS = (ALL, LAST, NONE)

# What goes along whatever is asked for.
_ALWAYS = (VIDEO, TEXT)

_HEAD_BYTES = 2 * 1024 * 1024
# What a target in the wrong place meets: it is for whoever named it to name another.
_WRONG_PLACE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written. lost: what is missing or damaged and was left out, one line each.

    num_thinned: how many results of steps the store had not kept.
    """

    path: Path
    num_bytes: int
    runs: tuple[str, ...]
    num_blobs: int
    num_thinned: int
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A blob for the bundle. what: for people. is_claimed: the store says that it has it."""

    what: str
    is_claimed: bool


@dataclass(slots=True)
class _Copied:
    """sizes: of the blobs in the archive, by digest; the rest is of Exported."""

    sizes: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    num_thinned: int = 0


def export_bundle(
    lineage: Lineage,
    run_ids: Sequence[str],
    target: Path,
    *,
    steps: str = ALL,
    with_ancestors: bool = False,
    allow_missing: bool = False,
    made_by: str = "",
) -> Exported:
    """Write runs that are at rest as the new file `target`; steps is one of STEPS.

    made_by: the program and its version. Raises BadRequest where `target` is there already or its
    folder takes no file, StoreError where a blob is missing or damaged, unless allow_missing.
    """
    if steps not in STEPS:
        raise ValueError(f"steps {steps!r}; expected one of {STEPS}")
    records = _records(lineage, run_ids, with_ancestors)
    rows = tuple(described(lineage, record) for record in records)
    manifest = Manifest(
        format=FORMAT, made_by=made_by, runs=rows, links=links_of(lineage, rows), blobs=()
    )
    try:
        kinds = blob_kinds(manifest)
        wanted = _wanted(manifest, steps)
        encode_manifest(_with_blobs(manifest, dict.fromkeys(wanted, 0)))  # before hours of copying
        with _new_file(target) as file, new_archive(file) as archive:
            copied = _copy(lineage.root, archive, wanted, kinds, allow_missing=allow_missing)
            add_member(archive, MANIFEST, encode_manifest(_with_blobs(manifest, copied.sizes)))
    except BundleRefused as error:
        raise StoreError(f"these runs cannot be exported: {error}") from error
    return Exported(
        path=target,
        num_bytes=target.stat().st_size,
        runs=tuple(record.id for record in records),
        num_blobs=len(copied.sizes),
        num_thinned=copied.num_thinned,
        lost=tuple(copied.lost),
    )


def _records(lineage: Lineage, run_ids: Sequence[str], with_ancestors: bool) -> list[RunRecord]:
    """The runs by id, each once; StoreError for one that may still change, or verifies another."""
    found: dict[str, RunRecord] = {}
    for run_id in run_ids:
        found[run_id] = runs.run(lineage, run_id)
        if with_ancestors:
            found.update((record.id, record) for record in ancestry.ancestors(lineage, run_id))
    for record in found.values():
        if record.verifies:
            raise StoreError(
                f"run {record.id} only computed run {record.verifies} again; export that one"
            )
        if not record.is_finished:
            raise StoreError(
                f"run {record.id} is {record.status}; it can be exported when it has ended"
            )
    return [record for _, record in sorted(found.items())]


def _wanted(manifest: Manifest, steps: str) -> dict[str, _Wanted]:
    """What should be in the bundle, by digest.

    What a run saw and no link claims any more was thinned or collected: it goes along if it is
    there.
    """
    named: list[tuple[str, str, bool]] = []
    claimed = {link.digest for link in manifest.links}
    for run in manifest.runs:
        if steps != NONE:
            named.append((run.latents, f"the latents of run {run.id}", True))
        for seen in run.seen:
            if steps == ALL or contents_of(seen.stage) in _ALWAYS:
                what = f"{seen.stage} {seen.index} of run {run.id}"
                named.append((seen.digest, what, seen.digest in claimed))
    for link in manifest.links:
        if steps == ALL or contents_of(link.kind) in _ALWAYS:
            named.append((link.digest, f"the {link.kind} of {link.key}", True))
        if steps == ALL:
            named.append((link.state, f"the keyframe of {link.key}", True))
    wanted: dict[str, _Wanted] = {}
    for digest, what, is_claimed in named:
        if digest:
            known = wanted.setdefault(digest, _Wanted(what, is_claimed))
            wanted[digest] = _Wanted(known.what, known.is_claimed or is_claimed)
    return wanted


def _copy(
    root: Path,
    archive: ZipFile,
    wanted: Mapping[str, _Wanted],
    kinds: Mapping[str, str],
    *,
    allow_missing: bool,
) -> _Copied:
    """Copy the blobs that are wanted, each verified, into an archive."""
    copied = _Copied()
    for digest, want in sorted(wanted.items()):
        try:
            data = blobs.get(root, digest)
        except (BlobMissing, BlobCorrupt) as error:
            if isinstance(error, BlobMissing) and not want.is_claimed:
                copied.num_thinned += 1
            elif allow_missing:
                copied.lost.append(f"{want.what} is left out: {error}")
            else:
                raise StoreError(
                    f"{want.what} cannot be exported: {error}; --allow-missing leaves it out"
                ) from error
        else:
            check_contents(want.what, kinds[digest], bytes(data[:_HEAD_BYTES]), len(data))
            add_member(archive, blob_name(digest), data)
            copied.sizes[digest] = len(data)
    return copied


def _with_blobs(manifest: Manifest, sizes: Mapping[str, int]) -> Manifest:
    """The manifest of these blobs: a link does not promise what is not in the bundle."""
    return msgspec.structs.replace(
        manifest,
        links=tuple(
            msgspec.structs.replace(
                link,
                digest=link.digest if link.digest in sizes else "",
                state=link.state if link.state in sizes else "",
            )
            for link in manifest.links
        ),
        blobs=tuple(BlobRow(digest=digest, size=size) for digest, size in sorted(sizes.items())),
    )


@contextlib.contextmanager
def _new_file(target: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when it is whole and durable, and never takes another's place."""
    if os.path.lexists(target):
        raise _taken(target)
    if not os.path.isdir(target.parent):
        raise BadRequest(f"there is no folder {target.parent}; make it, or name another")
    sweep_leavings(target.parent)
    draft = target.parent / f".modiff-{uuid.uuid4().hex}"
    try:
        with open(draft, "x+b") as file:
            yield file
        sync_file(draft)
        try:
            os.link(draft, target)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if os.path.lexists(target):
                raise _taken(target) from None
            os.rename(draft, target)
        sync_folder(target.parent)
    except FileExistsError:
        raise _taken(target) from None
    except OSError as error:
        if error.errno in FULL:
            raise StoreFull(f"no space left for {target} ({error.strerror}); free some") from error
        kind = BadRequest if error.errno in _WRONG_PLACE else StoreError
        raise kind(f"cannot write {target} ({error.strerror}); name another") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _taken(target: Path) -> BadRequest:
    return BadRequest(f"{target} is there already; name another, nothing is overwritten")
