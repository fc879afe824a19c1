"""Where the store lives and how its folder is laid out.

Layout: lineage.db (runs, events), store.json (marks a store in use), blobs/ab/cd/<sha256>,
tmp/ (writes in flight), quarantine/ (damaged blobs), locks/, logs/, quantised/ (weights as they
were quantised when they were loaded, made again where they are gone). Everything is on one local
filesystem, so that a rename inside the store is atomic. Folders are made with mode 0700; a
folder that already existed keeps its mode.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from store.errors import StoreUnwritable

MOVED_TO = ("blobs", "quarantine", "backup")
QUANTISED = "quantised"
FOLDERS = ("blobs", "tmp", "quarantine", "locks", "logs")


def store_root() -> Path:
    """The store of this user: $MODIFF_STORE if set, otherwise the user data folder."""
    chosen = os.environ.get("MODIFF_STORE", "")
    if chosen:
        return absolute_root(chosen)
    return Path(platformdirs.user_data_dir("modiff")) / "store"


def absolute_root(chosen: Path | str) -> Path:
    """The store's folder as it was named, absolute; StoreUnwritable for a home that is not known."""
    try:
        return Path(chosen).expanduser().absolute()
    except RuntimeError as error:  # such as ~nobody-here
        raise StoreUnwritable(
            f"the store cannot be at {chosen}: there is no such home folder; "
            "set MODIFF_STORE to a folder"
        ) from error


def engine_log(root: Path, pid: int) -> Path:
    """The log of the engine process `pid` of the store at `root`."""
    return root / "logs" / f"engine-{pid}.log"


def prepare(root: Path) -> None:
    """Create the folders of a store that are not there yet, those above it too, for this user alone.

    Raises StoreUnwritable where they cannot be made, or are not on one disk.
    """
    try:
        # `parents=True` would make those above for everybody
        for missing in [each for each in root.parents if not each.exists()][::-1]:
            missing.mkdir(mode=0o700, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
        for name in FOLDERS:
            (root / name).mkdir(mode=0o700, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise StoreUnwritable(
            f"the store cannot be at {root}: {error.filename} is not a folder; "
            "set MODIFF_STORE to a folder"
        ) from error
    except OSError as error:
        raise StoreUnwritable(
            f"the store cannot be made at {root}: {error.strerror}; "
            "set MODIFF_STORE to a folder that you can write"
        ) from error
    _refuse_other_disks(root)


def _refuse_other_disks(root: Path) -> None:
    """StoreUnwritable where a folder that files are moved to from tmp/ is on another disk, as behind a link."""
    disk = (root / "tmp").stat().st_dev
    for name in MOVED_TO:
        folder = root / name
        if folder.exists() and folder.stat().st_dev != disk:
            raise StoreUnwritable(
                f"the store cannot be at {root}: {name} (at {os.path.realpath(folder)}) is on another disk than tmp "
                f"(at {os.path.realpath(root / 'tmp')}); move all of the store to one, and set MODIFF_STORE to it"
            )
