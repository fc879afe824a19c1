"""What takes space in a store, for whom, and what it would cost to make it again."""

from __future__ import annotations

import shutil
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from store.database.database import rows
from store.paths import QUANTISED
from store.upkeep.contents import file_bytes, folder_bytes
from store.upkeep.needs import (
    BUDGETED,
    LEFTOVER,
    NOT_NEEDED,
    chains,
    classify,
    need_of_result,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from store.database.database import Lineage
    from store.upkeep.contents import Contents, RunRow
    from store.upkeep.needs import Chains, Stored

MAX_BUDGET_BYTES = 50 * 10**9
FREE_SHARE = 5  # of the free space: one part of so many
# What a clean-up that nobody asked for leaves free on the disk: one part of so many of all of it,
# within these. On a large disk so small a part is still enough for the next runs.
RESERVE_SHARE = 50
MIN_RESERVE_BYTES = 1 << 30
MAX_RESERVE_BYTES = 10 << 30
DAY_NS = 86_400 * 10**9
_AGES = (("day", DAY_NS), ("week", 7 * DAY_NS), ("month", 30 * DAY_NS))


@dataclass(slots=True)
class Share:
    """Some blobs together."""

    num_blobs: int = 0
    num_bytes: int = 0
    seconds: float = 0.0

    def add(self, stored: Stored) -> None:
        self.num_blobs += 1
        self.num_bytes += stored.num_bytes
        self.seconds += stored.seconds


@dataclass(slots=True)
class RunShare:
    """What one run takes: alone, and shared with other runs; seconds: to compute all of it."""

    run: RunRow
    alone_bytes: int = 0
    shared_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Overview:
    """All that is in a store. files: bytes of what is no blob. leftover: what no run has any more, be it
    removed or, with another video now, taken to its end.

    protected: what a clean-up may not touch. budgeted: what a budget is for.
    """

    root: Path
    num_runs: int
    num_pinned: int
    num_blobs: int
    num_bytes: int
    free_bytes: int
    budget_bytes: int
    budgeted_bytes: int
    leftover_bytes: int
    protected_bytes: int
    kinds: Mapping[str, Share]
    files: Mapping[str, int]


def survey(root: Path, contents: Contents) -> Overview:
    """Everything that takes space in the store at `root`."""
    stored = classify(contents, chains(contents)).values()
    files = files_beside(root)
    return Overview(
        root=root,
        num_runs=sum(not run.verifies for run in contents.runs),
        num_pinned=sum(run.is_pinned for run in contents.runs),
        num_blobs=len(stored),
        num_bytes=sum(each.num_bytes for each in stored) + sum(files.values()),
        free_bytes=free_bytes(root),
        budget_bytes=default_budget(root),
        budgeted_bytes=sum(each.num_bytes for each in stored if each.need in BUDGETED),
        leftover_bytes=sum(each.num_bytes for each in stored if each.need == LEFTOVER),
        protected_bytes=sum(each.num_bytes for each in stored if each.is_protected),
        kinds=by_kind(stored),
        files=files,
    )


def by_kind(stored: Iterable[Stored]) -> dict[str, Share]:
    """The blobs together by kind, the largest first."""
    return _grouped(stored, lambda each: each.kind)


def by_age(stored: Iterable[Stored], now_ns: int) -> dict[str, Share]:
    """The blobs together by when they were last used: in the last day, week, month, or longer ago."""

    def age(each: Stored) -> str:
        ns = now_ns - each.used_ns
        return next((name for name, limit in _AGES if ns < limit), "longer")

    found = _grouped(stored, age)
    names = [*(name for name, _ in _AGES), "longer"]
    return {name: found[name] for name in names if name in found}


def by_run(contents: Contents, known: Chains, stored: Mapping[str, Stored]) -> list[RunShare]:
    """What each run of the user's takes, the largest alone first."""
    of_people = [run for run in contents.runs if not run.verifies]
    digests: dict[str, set[str]] = {run.id: {run.latents} for run in of_people}
    shares = {run.id: RunShare(run) for run in of_people}
    for row in contents.run_links:
        if row.run not in shares:  # removed while we looked, or of a run that verifies another
            continue
        link = known.links.get(row.key)
        digests[row.run] |= {row.digest, row.latents}
        if link is not None:
            digests[row.run] |= {link.digest, link.latents, link.state}
        shares[row.run].seconds += row.seconds if link is None else link.seconds
    num_users: dict[str, int] = defaultdict(int)
    for of_run in digests.values():
        for digest in of_run:
            num_users[digest] += 1
    for run_id, of_run in digests.items():
        for digest in of_run:
            if digest in stored and stored[digest].need != NOT_NEEDED:
                if num_users[digest] == 1:
                    shares[run_id].alone_bytes += stored[digest].num_bytes
                else:
                    shares[run_id].shared_bytes += stored[digest].num_bytes
    return sorted(shares.values(), key=lambda share: (-share.alone_bytes, -share.shared_bytes))


def files_beside(root: Path) -> dict[str, int]:
    """The bytes of everything in the store that is no blob, by what it is."""
    database = sum(file_bytes(root / f"lineage.db{end}") for end in ("", "-wal", "-shm"))
    folders = ("index", "previews", "backup", "quarantine", QUANTISED, "logs", "tmp")
    return {"database": database, **{name: folder_bytes(root / name) for name in folders}}


def free_bytes(root: Path) -> int:
    """What is left for this user on the store's disk."""
    return shutil.disk_usage(root).free


def default_budget(root: Path) -> int:
    """What the steps of runs may take when nobody says: 50 GB, or a fifth of what is free now."""
    return min(MAX_BUDGET_BYTES, free_bytes(root) // FREE_SHARE)


def reserve_bytes(root: Path) -> int:
    """With less than this the store's disk counts as nearly full: 2 % of it, 1 to 10 GiB."""
    total = shutil.disk_usage(root).total
    return min(MAX_RESERVE_BYTES, max(MIN_RESERVE_BYTES, total // RESERVE_SHARE))


def steps_bytes(lineage: Lineage) -> int:
    """About what the steps of runs and what only saves work take, without a look at any blob."""
    found = rows(lineage, "SELECT kind, keep, sum(bytes) FROM links GROUP BY kind, keep")
    return sum(
        num_bytes for kind, keep, num_bytes in found if need_of_result(kind, keep) in BUDGETED
    )


def _grouped(stored: Iterable[Stored], name_of: Callable[[Stored], str]) -> dict[str, Share]:
    shares: dict[str, Share] = defaultdict(Share)
    for each in stored:
        shares[name_of(each)].add(each)
    return dict(sorted(shares.items(), key=lambda item: -item[1].num_bytes))
