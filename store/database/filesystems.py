"""What can be told of the filesystem that a folder is on: whether this machine has it for itself, whether it is full.

The database's write-ahead log is shared memory between its processes: over a network, two hosts
would each have their own, and the locks that protect it may not hold.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import uuid
from pathlib import Path

from store.blobs.files import FULL
from store.errors import StoreUnwritable

# As much as SQLite asks for at once, for the index of its log.
PROBE_BYTES = 32 * 1024

MOUNTINFO = Path("/proc/self/mountinfo")

# fmt: off
_NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs",
    "pvfs2", "smb2", "smb3", "smbfs", "virtiofs",
}
# The others behind FUSE may be anywhere (sshfs, rclone, s3fs, ...).
_LOCAL_FUSE = {
    "apfs-fuse", "bindfs", "cryfs", "encfs", "exfat", "ext2", "ext4", "fuse-overlayfs",
    "gocryptfs", "mergerfs", "ntfs", "ntfs-3g", "securefs", "unionfs", "veracrypt", "zfs-fuse",
}
# fmt: on
_ESCAPE = re.compile(r"\\([0-7]{3})")


def filesystem_of(folder: Path) -> str:
    """The type of the filesystem that `folder` is on or would be; empty where it cannot be told."""
    real = Path(os.path.realpath(folder))  # first: this makes an automounter mount
    try:
        text = MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # not Linux, or /proc is hidden
        return ""
    found, num_parts = "", 0
    for line in text.split("\n"):
        mount, _, source = line.partition(" - ")
        fields = mount.split(" ")
        if len(fields) < 5 or not source:
            continue
        point = Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        # Of two on one mount point the later covers the earlier.
        if real.is_relative_to(point) and len(point.parts) >= num_parts:
            found, num_parts = source.split(" ")[0], len(point.parts)
    return found


def is_network(filesystem: str) -> bool:
    """Whether a filesystem of this type is, or may be, shared with other machines."""
    if filesystem == "fuse" or filesystem.startswith("fuse."):
        return filesystem.removeprefix("fuse.") not in _LOCAL_FUSE
    return filesystem in _NETWORK


def is_full(folder: Path) -> bool:
    """Whether nothing can be written in `folder` for lack of space or quota, found out by trying to write 32 KiB.

    SQLite tells of most failed writes by "disk I/O error" alone, and of a quota nothing else tells.
    """
    probe = folder / f".modiff-{uuid.uuid4().hex}"
    try:
        with open(probe, "xb", buffering=0) as file:
            return file.write(bytes(PROBE_BYTES)) < PROBE_BYTES
    except OSError as error:
        return error.errno in FULL
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def is_at_limit(path: Path) -> bool:
    """Whether a database, or what SQLite keeps beside it, is as large as this process may make files, or nearly."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    beside = [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))]
    largest = max(each.stat().st_size if each.exists() else 0 for each in beside)
    return limit != resource.RLIM_INFINITY and largest + PROBE_BYTES > limit


def refuse_network(root: Path) -> None:
    """StoreUnwritable when the store at `root` would be on a network filesystem."""
    filesystem = filesystem_of(root)
    if is_network(filesystem):
        raise StoreUnwritable(
            f"the store cannot be at {root}: it is on a network filesystem ({filesystem}), where "
            "the database would not be safe; set MODIFF_STORE to a folder on a local disk"
        )
