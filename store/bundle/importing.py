"""Reading a bundle: it comes in whole, or nothing of it does.

All of it is checked before any of it has a name in the store: the layout of the file, the
manifest, and every blob by its hash and first bytes. That a key leads to a result cannot be
checked without computing it again, so links only enter from a sender who is trusted; but for
those of pictures, whose keys name their pixels.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from store.blobs import blobs
from store.blobs.files import disk_error, draft_folder, sync_file, sync_folder
from store.bundle.archive import MANIFEST, Member, blob_name, read_members, read_slices
from store.bundle.contents import check_contents
from store.bundle.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    blob_kinds,
    decode_manifest,
)
from store.bundle.proven import proven
from store.bundle.rows import ImportedRun, insert_links, insert_runs
from store.bundle.strict import BundleRefused
from store.database.database import immediate
from store.errors import BlobCorrupt, BlobMissing, StoreFull
from store.upkeep.gc import writing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from store.database.database import Lineage

_MAX_REASON = 300


@dataclass(frozen=True, slots=True)
class Imported:
    """What came in. num_blobs, num_bytes: blobs that were not here. num_links: links that were
    added; num_different: that say something else than the store's, which stay."""

    runs: tuple[ImportedRun, ...]
    num_blobs: int
    num_bytes: int
    num_links: int
    num_different: int


def import_bundle(
    lineage: Lineage,
    path: Path,
    *,
    check_spec: Callable[[bytes], object],
    is_trusted: bool = False,
    max_bytes: int,
) -> Imported:
    """Bring a bundle of at most max_bytes into the store.

    check_spec is asked for every spec and raises BundleRefused for one that is not valid.
    is_trusted: all links enter too, so that other runs use what these made. Raises BundleRefused, and
    StoreErrors where the store cannot take it; either way the store is as it was.
    """
    root = lineage.root
    try:
        with _opened(path, max_bytes) as (file, size):
            manifest, members = _read(file, size)
            for run in manifest.runs:
                for spec in [run.spec, *(segment.spec for segment in run.segments)]:
                    check_spec(spec.encode())
            with contextlib.ExitStack() as stack:
                with writing(root):
                    drafts = stack.enter_context(draft_folder(root))
                needed = blob_kinds(manifest, is_trusted=is_trusted)
                lacking = {name for name in needed if not _is_stored(root, name)}
                received = _receive(root, file, manifest, members, lacking, drafts)
                with writing(root):  # not before all is copied: a clean-up need not wait for that
                    gone = {name for name in needed if not _is_here(root, name, received)}
                    received |= _receive(root, file, manifest, members, gone, drafts, only=gone)
                    num_bytes = sum(draft.stat().st_size for draft in received.values())
                    with _placed(root, received), immediate(lineage, durable=True) as connection:
                        imported = insert_runs(lineage, connection, manifest)
                        num_links, num_different = insert_links(
                            connection,
                            manifest if is_trusted else _proven(root, manifest),
                        )
    except BundleRefused as error:
        raise BundleRefused(f"{path} was refused: {_one_line(str(error))}") from error
    except OSError as error:
        raise disk_error(error, root) from error
    return Imported(tuple(imported), len(received), num_bytes, num_links, num_different)


def _proven(root: Path, manifest: Manifest) -> Manifest:
    return msgspec.structs.replace(manifest, links=proven(root, manifest))


@contextlib.contextmanager
def _opened(path: Path, max_bytes: int) -> Iterator[tuple[BinaryIO, int]]:
    """The file and its size, if it is one."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise BundleRefused("it is a symbolic link; name the file itself") from error
        raise BundleRefused(f"it cannot be opened ({error.strerror})") from error
    except ValueError:  # a NUL in the path
        raise BundleRefused("that cannot be the name of a file") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BundleRefused("it is not a file")
        if status.st_size > max_bytes:
            raise BundleRefused(
                f"it has {status.st_size:,} bytes, expected at most {max_bytes:,}; "
                "--max-size allows more"
            )
        with open(descriptor, "rb", closefd=False) as file:
            yield file, status.st_size
    finally:
        os.close(descriptor)


def _read(file: BinaryIO, size: int) -> tuple[Manifest, dict[str, Member]]:
    """The manifest and the members that it names: all that are there, of the sizes that they have."""
    members = read_members(file, size)
    member = members.pop(MANIFEST, None)
    if member is None:
        raise BundleRefused(f"it has no {MANIFEST}")
    if member.size > MAX_MANIFEST_BYTES:
        raise BundleRefused(
            f"its manifest has {member.size:,} bytes, expected at most {MAX_MANIFEST_BYTES:,}"
        )
    manifest = decode_manifest(b"".join(read_slices(file, member)))
    named = {blob_name(blob.digest): blob.size for blob in manifest.blobs}
    if differing := named.keys() ^ members.keys():
        raise BundleRefused(f"{differing.pop()} is only in its directory or only in its manifest")
    for name, num_bytes in named.items():
        if members[name].size != num_bytes:
            raise BundleRefused(f"{name} has {members[name].size} bytes, expected {num_bytes}")
    return manifest, members


def _receive(
    root: Path,
    file: BinaryIO,
    manifest: Manifest,
    members: Mapping[str, Member],
    lacking: Collection[str],
    drafts: Path,
    only: Collection[str] | None = None,
) -> dict[str, Path]:
    """Check every blob, or those of `only`; the drafts in a folder of those that are lacking, by digest.

    Without trust, what only links name is checked and not written: no row would speak of it.
    """
    kinds = blob_kinds(manifest)
    wanted = [blob for blob in manifest.blobs if only is None or blob.digest in only]
    num_bytes = sum(blob.size for blob in wanted if blob.digest in lacking)
    free = shutil.disk_usage(root).free
    if num_bytes > free:
        raise StoreFull(
            f"no space left for the bundle in {root}: it takes {num_bytes:,} bytes, {free:,} are free"
        )
    received: dict[str, Path] = {}
    for blob in wanted:
        draft = None
        if blob.digest in lacking:
            draft = received[blob.digest] = drafts / blob.digest.removeprefix("sha256:")
        _copy(file, members[blob_name(blob.digest)], blob.digest, kinds[blob.digest], draft)
    return received


def _copy(file: BinaryIO, member: Member, digest: str, kind: str, draft: Path | None) -> None:
    """Check one blob, and write it as `draft` if it is wanted."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = None if draft is None else os.open(draft, flags, 0o600)
    try:
        sha256 = hashlib.sha256()
        is_checked = False
        for data in read_slices(file, member):
            if not is_checked:
                check_contents(member.name, kind, data, member.size)
                is_checked = True
            sha256.update(data)
            if descriptor is not None:
                _write(descriptor, data)
        if not is_checked:
            raise BundleRefused(f"{member.name} is empty")
        if f"sha256:{sha256.hexdigest()}" != digest:
            raise BundleRefused(f"{member.name} does not have the hash that is its name")
        if descriptor is not None:
            os.fchmod(descriptor, 0o400)
    finally:
        if descriptor is not None:
            os.close(descriptor)
    if draft is not None:
        sync_file(draft)


@contextlib.contextmanager
def _placed(root: Path, received: Mapping[str, Path]) -> Iterator[None]:
    """Gives the drafts their names, durably; takes them back when the block fails.

    A blob that somebody else asked for in between stays, since a row may speak of it by now. So do
    all when the process is told to end, which may be after the commit; a clean-up finds them.
    """
    placed: dict[Path, int] = {}
    try:
        for digest, draft in received.items():
            target = blobs.blob_path(root, digest)
            for folder in (target.parent.parent, target.parent):
                with contextlib.suppress(FileExistsError):
                    folder.mkdir(mode=0o700)
                    sync_folder(folder.parent)
            is_there = target.exists()
            changed_ns = draft.stat().st_mtime_ns
            os.rename(draft, target)
            if not is_there:
                placed[target] = changed_ns
        for folder in {target.parent for target in placed}:
            sync_folder(folder)
        yield
    except Exception:  # whatever it was, what was placed goes, and it is raised
        for target, changed_ns in placed.items():
            with contextlib.suppress(OSError):
                if target.stat().st_mtime_ns == changed_ns:
                    target.unlink()
        raise


def _is_stored(root: Path, digest: str) -> bool:
    """Whether the blob is here, whole; it then counts as new to a clean-up."""
    try:
        blobs.get(root, digest)
    except (BlobMissing, BlobCorrupt):
        return False
    path = blobs.blob_path(root, digest)
    with contextlib.suppress(OSError):
        os.utime(path)
    sync_folder(path.parent)  # whoever wrote it may have died between its rename and its fsync
    return True


def _is_here(root: Path, digest: str, received: Collection[str]) -> bool:
    """Whether a blob that was there when it was read is still; it then counts as new to a clean-up."""
    if digest in received:
        return True
    try:
        os.utime(blobs.blob_path(root, digest))
    except OSError:
        return False
    return True


def _write(descriptor: int, data: bytes) -> None:
    unwritten = memoryview(data)
    while unwritten:
        unwritten = unwritten[os.write(descriptor, unwritten) :]


def _one_line(reason: str) -> str:
    """A reason that may quote the file, so that a log or a terminal can show it."""
    text = "".join(c if c.isprintable() else "?" for c in reason)
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}..."
