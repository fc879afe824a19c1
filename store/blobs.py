"""Immutable blobs: files named by the SHA-256 of their bytes, durable before they are named.

A blob is never changed: writing the same bytes again is a no-op, and every read verifies. Bytes
that do not match their name are moved to quarantine and raise, so that they are computed again;
they are read into private memory, never mapped, because a truncated map kills the process.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import threading
import time
from typing import TYPE_CHECKING

from store.errors import BlobCorrupt, BlobMissing, StoreError
from store.files import SLICE_BYTES, disk_error, sync_folder, write_durably

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# From here on a thread to hash in costs less than it saves.
HASHED_ASIDE_BYTES = 4 * 1024 * 1024

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# What open(2) answers for a symbolic link (O_NOFOLLOW) and for a socket or device without a driver.
_NOT_A_FILE = {errno.ELOOP, errno.ENXIO, errno.ENODEV}


def digest_of(*parts: bytes | bytearray | memoryview) -> str:
    """The name of these bytes, the parts one after the other: "sha256:" and 64 hexadecimal digits."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(part)
    return f"sha256:{sha256.hexdigest()}"


def blob_path(root: Path, digest: str) -> Path:
    """Where the blob of that digest is, or would be."""
    if not _DIGEST.fullmatch(digest):
        raise StoreError(f"{digest!r} is not a digest; expected sha256: and 64 hexadecimal digits")
    name = digest.removeprefix("sha256:")
    return root / "blobs" / name[:2] / name[2:4] / name


def put(root: Path, *parts: bytes | bytearray | memoryview) -> str:
    """Store the bytes, the parts one after the other, durably and return their digest; only then may a row speak
    of them."""
    if sum(memoryview(part).nbytes for part in parts) >= HASHED_ASIDE_BYTES:
        return _put_large(root, parts)
    digest = digest_of(*parts)
    if not _is_refreshed(root, digest):
        write_durably(root, blob_path(root, digest), *parts, mode=0o400)
    return digest


def _put_large(root: Path, parts: Sequence[bytes | bytearray | memoryview]) -> str:
    """Hashed while they are written: the name is needed only once they are on the disk, and bytes that turn out to be
    stored already cost no more than a write."""
    found: list[str] = []
    hashing = threading.Thread(target=lambda: found.append(digest_of(*parts)), name="hashing")
    hashing.start()

    def target() -> Path | None:
        hashing.join()
        return None if _is_refreshed(root, found[0]) else blob_path(root, found[0])

    try:
        write_durably(root, target, *parts, mode=0o400)
    finally:
        hashing.join()
    return found[0]


def _is_refreshed(root: Path, digest: str) -> bool:
    """Whether the blob is stored; if so it counts as written just now."""
    if not _is_stored(root, digest):
        return False
    target = blob_path(root, digest)
    with contextlib.suppress(OSError):  # freshness only matters to a later clean-up
        os.utime(target)
    try:
        # Whoever wrote it may have died between its rename and its folder's fsync.
        sync_folder(target.parent)
    except OSError as error:
        raise disk_error(error, target) from error
    return True


def get(root: Path, digest: str) -> bytearray:
    """The bytes of a blob, verified; BlobMissing or BlobCorrupt when they cannot be had."""
    path = blob_path(root, digest)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BlobMissing(f"{digest} is not in the store at {root}") from None
    except OSError as error:
        if error.errno in _NOT_A_FILE:
            raise _quarantined(root, digest, "type") from error
        raise disk_error(error, path) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _quarantined(root, digest, "type")
        data, found = _read_and_hash(descriptor)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        os.close(descriptor)
    if found != digest:
        raise _quarantined(root, digest, "hash")
    return data


def _is_stored(root: Path, digest: str) -> bool:
    try:
        get(root, digest)
    except (BlobMissing, BlobCorrupt):
        return False
    return True


def _read_and_hash(descriptor: int) -> tuple[bytearray, str]:
    data = bytearray(os.fstat(descriptor).st_size)
    view = memoryview(data)
    sha256 = hashlib.sha256()
    filled = 0
    while filled < len(data):
        num_read = os.readv(descriptor, [view[filled : filled + SLICE_BYTES]])
        if num_read == 0:  # cut short since fstat: the digest will not match
            break
        sha256.update(view[filled : filled + num_read])
        filled += num_read
    return data, f"sha256:{sha256.hexdigest()}"


def _quarantined(root: Path, digest: str, reason: str) -> BlobCorrupt:
    path = blob_path(root, digest)
    aside = root / "quarantine" / f"{path.name}.{time.time_ns()}.{reason}"
    try:
        os.rename(path, aside)
    except FileNotFoundError:  # another reader was first
        pass
    except OSError as error:
        return BlobCorrupt(
            f"{digest} is damaged and cannot be set aside ({error.strerror}); remove {path}"
        )
    return BlobCorrupt(f"{digest} was damaged ({reason}); it was moved to {aside}")
