"""What is remembered of weight files, so that an unchanged one is never read again to know what it is.

Of each file the store's index keeps a sample (engine.checkpoints.fingerprint) and, once somebody has read all
of it, its SHA-256; both count as long as the file's identity is the same. What its name in keys follows from is in
the store's database, since results are kept by it (store.lineage.weights). Torch-free.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.checkpoints.fingerprint import combined, sample_of
from engine.errors import CheckpointError
from store.database.database import Lineage, open_as_it_is, open_lineage
from store.index.index import Index
from store.lineage import weights

SLICE_BYTES = 8 << 20
BUSY_SECONDS = 10.0
# A change within one tick of the file system's clock (at most 10 ms) leaves the times as they are.
_TICK_NS = 20_000_000
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Identity:
    """What the system says of a file. ctime_ns changes with every write, and cannot be set back as mtime can."""

    realpath: str
    dev: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def facts(self) -> tuple[int, int, int, int, int]:
        return self.dev, self.inode, self.size, self.mtime_ns, self.ctime_ns


class Remembered(msgspec.Struct, frozen=True):
    """What is known of a file with these facts. sampled: its sample. sha256: of all of it, None until somebody
    read it. mark: what its SHA-256 adds to its name in keys. when: nanoseconds since 1970 at which the latter of
    sample and SHA-256 was found out."""

    facts: tuple[int, int, int, int, int]
    sampled: str
    sha256: str | None
    mark: str
    when: int


def identity(path: Path) -> Identity:
    """The identity of the file at `path`, links followed. Raises CheckpointError where there is none."""
    try:
        status = path.stat()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise CheckpointError(f"{path}: {reason}") from None
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: not a file")
    return Identity(
        os.path.realpath(path),
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def remembered(index: Index, path: Path) -> Remembered | None:
    """What is known of the file, None where that is nothing or the file is gone or was changed since."""
    try:
        return _known(index, identity(path))
    except CheckpointError:
        return None


def fingerprint_of(index: Index, files: Sequence[Path]) -> str:
    """`wf1:<hex>` of a component's files, as `fingerprint` has it but without reading what is remembered.

    For each file whose SHA-256 differs from the first one that was recorded for its sample, `+` and 16 digits of
    it follow: two files that the sample takes for one are told apart once both are digested, and from then on, be
    the index lost: one of that sample whose digest is not known is read in full here. A fingerprint that was given
    out for the first of them never changes. Raises CheckpointError as `sampled` does, StoreError.
    """
    found = [_known(index, identity(path)) or _sample(index, path) for path in files]
    if any(known.sha256 is None for known in found):
        shared = _shared_samples(index)
        found = [
            _read_whole(index, path) if known.sha256 is None and known.sampled in shared else known
            for path, known in zip(files, found, strict=True)
        ]
    return combined([known.sampled for known in found]) + "".join(known.mark for known in found)


def full_digest(
    path: Path,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> str | None:
    """The SHA-256 of a whole file in 64 hex digits; None when asked to stop, or the file changed meanwhile.

    on_progress(bytes read, bytes of the file) and should_stop() are called between slices of 8 MiB.
    Raises CheckpointError where the file cannot be read.
    """
    before = _settled(path)
    digest = hashlib.sha256()
    num_read = 0
    piece = memoryview(bytearray(min(SLICE_BYTES, before.size + 1)))
    try:
        with path.open("rb", buffering=0) as file:
            while not should_stop():
                count = file.readinto(piece)
                if not count:
                    return digest.hexdigest() if identity(path) == before else None
                digest.update(piece[:count])
                num_read += count
                on_progress(num_read, before.size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    return None


def remember_digest(
    index: Index, path: Path, sha256: str, *, of: Identity | None = None
) -> Remembered | None:
    """Remember the SHA-256 of a file; returns what is known of it now.

    of: the identity that the file had before it was read; nothing is remembered when it has another now.
    Raises CheckpointError where the file cannot be read, StoreError.
    """
    now = identity(path)
    if of is not None and of != now:
        return None
    known = _known(index, now) or _sample(index, path)
    if known.facts != now.facts:  # it changed while it was sampled
        return None
    name = known.sampled
    if index.root.is_dir():
        with _lineage(index) as lineage:
            name = weights.name_of(lineage, known.sampled, sha256)
    mark = name.removeprefix(known.sampled)
    known = msgspec.structs.replace(known, sha256=sha256, mark=mark, when=time.time_ns())
    index.put(_file_key(now), msgspec.json.encode(known))
    return known


def last_digest(index: Index, path: Path) -> str | None:
    """The SHA-256 of what was last read at this path, whether or not the file is still the same."""
    row = index.get(_file_key(identity(path)))
    try:
        return None if row is None else msgspec.json.decode(row, type=Remembered).sha256
    except msgspec.MsgspecError:
        return None


def claimed_digest(path: Path) -> str | None:
    """The SHA-256 that the Hugging Face cache names a file by, which nobody has verified; None elsewhere."""
    if not path.is_symlink():
        return None
    blob = Path(os.path.realpath(path))
    folder = blob.parent
    is_cached = folder.name == "blobs" and folder.parent.name.startswith("models--")
    return blob.name if is_cached and _HEX_DIGEST.fullmatch(blob.name) else None


def _known(index: Index, now: Identity) -> Remembered | None:
    row = index.get(_file_key(now))
    try:
        known = None if row is None else msgspec.json.decode(row, type=Remembered)
    except msgspec.MsgspecError:
        return None
    return known if known is not None and known.facts == now.facts else None


def _read_whole(index: Index, path: Path) -> Remembered:
    """What is known of a file once its SHA-256 is."""
    before = identity(path)
    sha256 = full_digest(path)
    found = None if sha256 is None else remember_digest(index, path, sha256, of=before)
    if found is None:
        raise CheckpointError(f"{path}: was written to while it was read; try again")
    return found


def _shared_samples(index: Index) -> frozenset[str]:
    if not (index.root / "lineage.db").exists():
        return frozenset()
    with closing(open_as_it_is(index.root, busy_seconds=BUSY_SECONDS)) as lineage:
        return weights.shared_samples(lineage)


def _lineage(index: Index) -> closing[Lineage]:
    return closing(open_lineage(index.root, busy_seconds=BUSY_SECONDS))


def _sample(index: Index, path: Path) -> Remembered:
    """Sample a file, and remember that unless it changed meanwhile."""
    before = _settled(path)
    found = Remembered(before.facts, sample_of(path), None, "", time.time_ns())
    if identity(path) == before:
        index.put(_file_key(before), msgspec.json.encode(found))
    return found


def _settled(path: Path) -> Identity:
    """The identity of a file, once it is old enough for every later change to show in it."""
    found = identity(path)
    age = time.time_ns() - found.ctime_ns
    if 0 <= age < _TICK_NS:
        time.sleep((_TICK_NS - age) / 1e9)
        return identity(path)
    return found


def _file_key(now: Identity) -> str:
    return f"weights/file/{hashlib.sha256(os.fsencode(now.realpath)).hexdigest()}"
