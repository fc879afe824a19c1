"""Which code this is, so that an engine and whoever asks it for runs can tell whether they are of one. Torch-free."""

from __future__ import annotations

import contextlib
import hashlib
import os
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# All that an engine executes; the faces may differ.
PACKAGES = ("engine", "presets", "store")
_NUM_DIGITS = 12


def installed_version() -> str:
    """The package's version and 12 digits of what its source files hold, as they lie on the disk at this moment.

    Of the content, not the times: two installations of one release are one version, and a tree under development is
    another one with every edit. Some hundred small files, which are read again (15 ms) only where one of them was
    touched; to look whether takes 3 ms, so this is not to be asked at every turn of a loop.
    """
    try:
        number = version("modiff")
    except PackageNotFoundError:  # run from a tree that was never installed
        number = "0"
    return f"{number}+{_digest(Path(__file__).resolve().parents[2])}"


def _digest(root: Path) -> str:
    return _digest_of(root, _files(root))


def _files(root: Path) -> tuple[tuple[str, int, int, int], ...]:
    """(path below `root`, inode, when it was written, when it was touched) of every source file. The last time no
    program can set: whoever writes to a file or puts another in its place changes what is told here."""
    found = []
    for package in PACKAGES:
        for folder, _, names in os.walk(root / package):
            below = os.path.relpath(folder, root)
            for name in names:
                if not name.endswith(".py"):
                    continue
                with contextlib.suppress(FileNotFoundError):  # replaced while we look
                    told = os.stat(os.path.join(folder, name))
                    path = os.path.join(below, name)
                    found.append((path, told.st_ino, told.st_mtime_ns, told.st_ctime_ns))
    return tuple(sorted(found))


@lru_cache(maxsize=1)
def _digest_of(root: Path, files: tuple[tuple[str, int, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for below, *_ in files:
        with contextlib.suppress(FileNotFoundError):
            content = hashlib.sha256((root / below).read_bytes()).digest()
            digest.update(Path(below).as_posix().encode() + b"\0" + content)
    return digest.hexdigest()[:_NUM_DIGITS]
