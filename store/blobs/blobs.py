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
from queue import SimpleQueue
from typing import TYPE_CHECKING, Self, TypeVar

from store.blobs.files import SLICE_BYTES, disk_error, sync_folder, write_durably
from store.errors import BlobCorrupt, BlobMissing, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

Memory = TypeVar("Memory", bytearray, memoryview)

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


def is_digest(text: str) -> bool:
    """Whether a text could be the name of a blob."""
    return _DIGEST.fullmatch(text) is not None


def blob_path(root: Path, digest: str) -> Path:
    """Where the blob of that digest is, or would be."""
    if not _DIGEST.fullmatch(digest):
        raise StoreError(f"{digest!r} is not a digest; expected sha256: and 64 hexadecimal digits")
    name = digest.removeprefix("sha256:")
    return root / "blobs" / name[:2] / name[2:4] / name


def is_stored(root: Path, digest: str) -> bool:
    """Whether there is a blob of that digest, "" being none; its bytes are not read."""
    return bool(digest) and blob_path(root, digest).is_file()


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
    with _HashingAside() as hashing:
        for part in parts:
            hashing.update(part)

        def target() -> Path | None:
            digest = hashing.digest()
            return None if _is_refreshed(root, digest) else blob_path(root, digest)

        write_durably(root, target, *parts, mode=0o400)
    return hashing.digest()


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
    return get_into(root, digest, bytearray)


def get_into(root: Path, digest: str, allocate: Callable[[int], Memory]) -> Memory:
    """As `get`, in memory of the caller's choice. allocate: gives so many bytes of it."""
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
        data, found = _read_and_hash(descriptor, allocate)
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


def _read_and_hash(descriptor: int, allocate: Callable[[int], Memory]) -> tuple[Memory, str]:
    num_bytes = os.fstat(descriptor).st_size
    data = allocate(num_bytes)
    if num_bytes < HASHED_ASIDE_BYTES:
        sha256 = hashlib.sha256()
        _read(descriptor, memoryview(data), sha256.update)
        return data, f"sha256:{sha256.hexdigest()}"
    with _HashingAside() as hashing:
        _read(descriptor, memoryview(data), hashing.update)
    return data, hashing.digest()


def _read(descriptor: int, data: memoryview, each: Callable[[memoryview], object]) -> None:
    """Fill `data` from a file, and hand each slice over as it comes."""
    filled = 0
    while filled < len(data):
        num_read = os.readv(descriptor, [data[filled : filled + SLICE_BYTES]])
        if num_read == 0:  # cut short since fstat: the digest will not match
            break
        each(data[filled : filled + num_read])
        filled += num_read


class _HashingAside:
    """A digest made in a thread of its own, while the caller is at the disk; use it in a `with`."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._parts: SimpleQueue[bytes | bytearray | memoryview | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._hash, name="hashing", daemon=True)

    def update(self, part: bytes | bytearray | memoryview) -> None:
        """Hash these bytes after those before; nothing may change them until `digest`."""
        self._parts.put(part)

    def digest(self) -> str:
        """The digest of all that was given, once that is hashed; nothing can be added after it."""
        self._parts.put(None)
        self._thread.join()
        return f"sha256:{self._sha256.hexdigest()}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.digest()

    def _hash(self) -> None:
        while (part := self._parts.get()) is not None:
            self._sha256.update(part)


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
