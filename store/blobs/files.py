"""Whole files: `write_durably` for the store's own, `written_whole` for those that people asked for.

After `write_durably` returns, the bytes are there through a power cut.

The order is the invariant: write, fsync the file, rename, fsync the folder. A rename without the
first fsync can leave a file of the right size full of zeros; without the second, no file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import sys
import time
import uuid
from typing import TYPE_CHECKING

from store.blobs.leavings import STALE_SECONDS, sweep_leavings
from store.errors import FileTooLarge, StoreFailing, StoreFull, StoreUnwritable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from store.errors import StoreError

SLICE_BYTES = 8 * 1024 * 1024

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
FULL_ADVICE = "the disk is full: let `modiff store gc` give space back, or free some and try again"
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}


def disk_error(error: OSError, path: Path) -> StoreError:
    """The StoreError that says in one line what the system refused to do with `path`."""
    if error.errno in FULL:
        return StoreFull(f"no space left for {path} ({error.strerror}); {FULL_ADVICE}")
    if error.errno == errno.EFBIG:
        return too_large(path, str(error.strerror))
    if error.errno in _UNWRITABLE:
        return StoreUnwritable(
            f"cannot write {path} ({error.strerror}); check the rights on its folder, "
            "or set MODIFF_STORE to another"
        )
    return StoreFailing(f"reading or writing {path} failed ({error.strerror})")


def too_large(path: Path, reason: str) -> FileTooLarge:
    return FileTooLarge(
        f"{path} is larger than files may be here ({reason}); see `ulimit -f`, or set MODIFF_STORE to a folder on "
        "another disk"
    )


def write_durably(
    root: Path,
    target: Path | Callable[[], Path | None],
    *parts: bytes | bytearray | memoryview,
    mode: int,
) -> None:
    """Write the parts, one after the other, as the file `target` inside the store `root`, whole or not at all.

    target: or what tells it once the bytes are on the disk, None if they are not wanted after all.
    """
    draft = root / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
    path = root if callable(target) else target
    try:
        _write_draft(draft, [memoryview(part).cast("B") for part in parts], mode)
        if callable(target):
            named = target()
            if named is None:
                return
            path = named
        _make_folders(path.parent, root)
        os.rename(draft, path)
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(draft)


@contextlib.contextmanager
def draft_folder(root: Path) -> Iterator[Path]:
    """A folder in tmp/ for drafts that take long to make: nobody sweeps it while the block lasts, and at its end it is
    gone with what is left in it. To be entered while nobody can sweep: inside `store.upkeep.gc.writing`."""
    folder = root / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
    os.mkdir(folder, 0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextlib.contextmanager
def written_whole(path: Path, *, replaces: bool = True) -> Iterator[Path]:
    """A draft beside `path`, to be written to by its name; at the end of the block it becomes `path`, whole and on
    the disk, and on an error nothing of it is left.

    It is as public as any new file, since the system itself applies the umask. Raises FileExistsError where the name
    is taken and it may not replace that, other OSErrors as they come.
    """
    sweep_leavings(path.parent)
    draft = path.with_name(f".modiff-{uuid.uuid4().hex}{path.suffix}")
    _create(draft)
    try:
        yield draft
        sync_file(draft)
        if replaces:
            os.replace(draft, path)
        else:
            _take_name(draft, path)
        with contextlib.suppress(OSError):  # a share that cannot do it has the file all the same
            sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Make the bytes of a file that something else wrote durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def sweep_drafts(root: Path) -> int:
    """Remove what writers that are gone left in tmp/; returns how many files that was."""
    num_removed = 0
    for draft in (root / "tmp").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(draft).st_mode):
                num_removed += _sweep_folder(draft)
            elif not _is_being_written(draft):
                draft.unlink()
                num_removed += 1
    return num_removed


def _sweep_folder(folder: Path) -> int:
    """Remove a folder that nobody holds; returns how many files were in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        num_files = len(os.listdir(folder))
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return 0
    finally:
        os.close(descriptor)
    return num_files


def _take_name(draft: Path, path: Path) -> None:
    """Give a draft a name that nothing has; FileExistsError where something has it by now."""
    try:
        os.link(draft, path)  # unlike a rename, refuses a name that is taken
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        _create(path)
        os.replace(draft, path)


def _create(path: Path) -> None:
    """An empty file that was not there before."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    os.close(os.open(path, flags, 0o666))


def _write_draft(draft: Path, parts: Sequence[memoryview], mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(draft, flags, 0o600)
    try:
        for part in parts:
            for start in range(0, len(part), SLICE_BYTES):
                unwritten = part[start : start + SLICE_BYTES]
                while unwritten:
                    unwritten = unwritten[os.write(descriptor, unwritten) :]
        _sync(descriptor)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _make_folders(folder: Path, root: Path) -> None:
    missing = []
    while folder != root and not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for child in reversed(missing):
        child.mkdir(mode=0o700, exist_ok=True)
        sync_folder(child.parent)


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":  # fsync there leaves the drive's own cache unwritten
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def _is_being_written(draft: Path) -> bool:
    if time.time() - draft.stat().st_mtime > STALE_SECONDS:
        return False
    pid, _, _ = draft.name.partition("-")
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True
