"""What is in a store at one moment: the blobs on the disk, and the rows that say what they are for.

Blobs are looked at before rows: a blob that is written meanwhile is then not seen at all, rather
than seen without the row that will name it. Files that are no blobs are never touched.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from store.blobs.files import disk_error
from store.database.database import Lineage, rows
from store.lineage import engines
from store.paths import QUANTISED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_PREFIX = re.compile(r"[0-9a-f]{2}")
_A_LINK = ("", "", "", "", "", 0, 0.0, 0, "", "")
_A_RUN_LINK = ("", "", 0, "", "", "", 0.0)
_A_RUN = ("", "", 0, 0, "", "", "", 0, "")
_NAME = re.compile(r"[0-9a-f]{64}")
_WEIGHTS = re.compile(r"[0-9a-f]{64}\.safetensors")
# of a blob or an index with the reason why, and of rows
_ASIDE = re.compile(r"(?:\w+\.|rows-)([0-9]{18,19})(?:\.\w+)?")


class Blob(NamedTuple):
    """A file in blobs/; modified_ns is when it was last written, or asked to be."""

    num_bytes: int
    modified_ns: int


class SetAside(NamedTuple):
    """Something in quarantine/, a file or a folder, and when it was brought there; or weights in quantised/, and when
    they were last used."""

    path: Path
    num_bytes: int
    ns: int


class LinkRow(NamedTuple):
    """A row of `links`; parent is the key of the step before it where no run tells, else empty.

    keep: as of LinkRecord.
    """

    key: str
    kind: str
    digest: str
    latents: str
    state: str
    num_bytes: int
    seconds: float
    used_ns: int
    parent: str = ""
    keep: str = ""


class RunLinkRow(NamedTuple):
    """A row of `run_links`."""

    run: str
    stage: str
    idx: int
    key: str
    digest: str
    latents: str
    seconds: float


class RunRow(NamedTuple):
    """A row of `runs`; the status of a paused run is "interrupted" here, and is_paused set, and that of a running one
    whose engine is dead is "interrupted" also while nobody could write so.

    verifies: as of RunRecord; such a row is no run of the user's.
    """

    id: str
    status: str
    is_paused: bool
    is_pinned: bool
    parent: str
    latents: str
    preset: str
    created_ns: int
    verifies: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """Blobs by digest, and all rows that may speak of them; run_links by run, stage and index."""

    blobs: Mapping[str, Blob]
    links: Sequence[LinkRow]
    run_links: Sequence[RunLinkRow]
    runs: Sequence[RunRow]


def look(lineage: Lineage) -> Contents:
    """All that is in the store now."""
    blobs, _ = scan_blobs(lineage.root)
    return read_rows(lineage, blobs)


def read_rows(lineage: Lineage, blobs: Mapping[str, Blob]) -> Contents:
    """The rows as they are now, beside blobs that were found before."""
    # what a step goes on from: an input by its key, "state/KEY"; "parent" in rows of before a run was a graph
    links = rows(
        lineage,
        "SELECT key, kind, digest, latents, state, bytes, seconds, used_ns, "
        "CASE WHEN kind='step' AND json_valid(facts) "
        "AND NOT EXISTS (SELECT 1 FROM run_links WHERE run_links.key=links.key) "
        "THEN coalesce(substr(json_extract(facts, '$.inputs.before'), length('state/') + 1), "
        "json_extract(facts, '$.parent'), '') ELSE '' END, keep FROM links",
    )
    run_links = rows(
        lineage,
        "SELECT run_id, stage, idx, key, digest, latents, seconds FROM run_links "
        "ORDER BY run_id, stage, idx",
    )
    runs = rows(
        lineage,
        "SELECT id, status, is_paused, pinned, parent, latents, preset, created_ns, verifies "
        "FROM runs ORDER BY seq",
    )
    orphans = engines.orphans(lineage)
    return Contents(
        blobs=blobs,
        links=[LinkRow._make(row) for row in _readable(links, _A_LINK)],
        run_links=[RunLinkRow._make(row) for row in _readable(run_links, _A_RUN_LINK)],
        runs=[
            RunRow(run_id, "interrupted" if run_id in orphans else status, *rest)
            for run_id, status, *rest in _readable(runs, _A_RUN)
        ],
    )


def _readable(found: Sequence[tuple[Any, ...]], like: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The rows, with nothing in the place of each damaged value: whatever else a row names stays needed."""
    kinds = tuple(map(type, like))
    for row in found:
        if tuple(map(type, row)) == kinds:
            yield row
        else:
            yield tuple(
                value if type(value) is type(empty) else empty
                for value, empty in zip(row, like, strict=True)
            )


def scan_blobs(root: Path) -> tuple[dict[str, Blob], list[Path]]:
    """The blobs by digest, and everything else that lies among them."""
    blobs: dict[str, Blob] = {}
    strays: list[Path] = []
    for first in _entries(root / "blobs", _PREFIX, strays):
        for second in _entries(Path(first.path), _PREFIX, strays):
            for file in _entries(Path(second.path), _NAME, strays, of_files=True):
                if not file.name.startswith(first.name + second.name):
                    strays.append(Path(file.path))
                    continue
                try:
                    status = file.stat(follow_symlinks=False)
                except FileNotFoundError:  # collected meanwhile
                    continue
                blobs[f"sha256:{file.name}"] = Blob(status.st_size, status.st_mtime_ns)
    return blobs, strays


def scan_quarantine(root: Path) -> list[SetAside]:
    """What was set aside as damaged, the oldest first; only what has a name of ours, which says when."""
    found = []
    strays: list[Path] = []
    for kind in (False, True):
        for entry in _entries(root / "quarantine", _ASIDE, strays, of_files=kind):
            path = Path(entry.path)
            num_bytes = file_bytes(path) if kind else folder_bytes(path)
            ns = int(_ASIDE.fullmatch(entry.name)[1])  # type: ignore[index]  # as it was found by
            found.append(SetAside(path, num_bytes, ns))
    return sorted(found, key=lambda each: each.ns)


def scan_quantised(root: Path) -> list[SetAside]:
    """Weights as they were quantised when they were loaded, the longest unused first."""
    found = []
    for entry in _entries(root / QUANTISED, _WEIGHTS, [], of_files=True):
        status = entry.stat(follow_symlinks=False)
        # where a disk does not write down when it is read, what it takes is to make them again
        used_ns = max(status.st_atime_ns, status.st_mtime_ns)
        found.append(SetAside(Path(entry.path), status.st_size, used_ns))
    return sorted(found, key=lambda each: each.ns)


def folder_bytes(folder: Path) -> int:
    """What the files below a folder take; 0 when there is none."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            total += file_bytes(Path(path, name))
    return total


def file_bytes(path: Path) -> int:
    """The size of a file; 0 when there is none."""
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise disk_error(error, path) from error


def _entries(
    folder: Path, name: re.Pattern[str], strays: list[Path], *, of_files: bool = False
) -> list[os.DirEntry[str]]:
    """The folders (or files) of that kind of name in a folder; others are added to `strays`."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise disk_error(error, folder) from error
    fitting = []
    for entry in entries:
        is_kind = entry.is_file if of_files else entry.is_dir
        if name.fullmatch(entry.name) and is_kind(follow_symlinks=False):
            fitting.append(entry)
        else:
            strays.append(Path(entry.path))
    return fitting
