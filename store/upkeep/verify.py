"""Every row and every blob read again: what is damaged is set aside and forgotten, what is missing is forgotten.

Damaged rows are only told, and mended or set aside when that is asked for.

After it the rows promise only what is there. Blobs that cannot be read (rights, a failing disk)
are told and left alone, because that may pass.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from store.blobs import blobs
from store.database.database import Misplaced, check, check_places
from store.errors import BlobCorrupt, BlobMissing, StoreError, StoreFull, StoreUnwritable
from store.lineage import links
from store.upkeep.contents import read_rows, scan_blobs
from store.upkeep.needs import NOT_NEEDED, chains, classify
from store.upkeep.repair import damaged_rows, repair
from store.upkeep.space import Share

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from store.database.database import Lineage
    from store.upkeep.contents import Contents
    from store.upkeep.repair import DamagedRow

DAMAGED = "damaged"
MISSING = "missing"
UNREADABLE = "unreadable"
# Of all that are missing; others write in between.
FORGOTTEN_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """A blob that is not as it should be: damaged, missing or unreadable, and what became of it."""

    digest: str
    what: str
    note: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found. read: the blobs that were read; present: all; unreferenced: of those.

    rows: those that are damaged; indexes: what is wrong with the database's, in SQLite's words; is_repaired: whether
    both were dealt with.
    strays: what lies in blobs/ and is no blob. num_without_latents: finished runs whose final
    latents are not stored, be it that a clean-up was asked to take them.
    """

    problems: tuple[Problem, ...]
    read: Share
    present: Share
    unreferenced: Share
    strays: tuple[Path, ...]
    num_without_latents: int
    rows: tuple[DamagedRow, ...] = ()
    indexes: tuple[str, ...] = ()
    is_repaired: bool = False

    @property
    def is_sound(self) -> bool:
        return not (self.problems or self.rows or self.indexes)


def verify(
    lineage: Lineage,
    *,
    quick: bool = False,
    repairs: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verdict:
    """Check the database, then every blob; rows forget those that are damaged or missing.

    repairs: damaged rows are mended or set aside, and indexes made anew. quick: presence and size, and only blobs of an
    odd size are read. on_progress gets the bytes done and those to do. Raises StoreDamaged for the database itself.
    """
    misplaced = Misplaced((), ())
    if quick:
        check(lineage)
    else:
        misplaced = check_places(lineage)
    damaged = damaged_rows(lineage)
    is_repaired = repairs and bool(damaged or misplaced.indexes or misplaced.tables)
    if is_repaired:
        damaged = repair(lineage, damaged, misplaced.tables)
    found, strays = scan_blobs(lineage.root)
    contents = read_rows(lineage, found)
    chosen = _odd_sized(contents) if quick else found
    total = sum(found[digest].num_bytes for digest in chosen)
    problems: list[Problem] = []
    read = Share()
    for digest in chosen:
        problems += _problem(lineage, digest)
        read.num_blobs += 1
        read.num_bytes += found[digest].num_bytes
        on_progress(read.num_bytes, total)
    problems += _missing(lineage, [digest for digest in _promised(contents) if digest not in found])
    lost = {problem.digest for problem in problems}
    stored = [
        each for each in classify(contents, chains(contents)).values() if each.digest not in lost
    ]
    present, unreferenced = Share(), Share()
    for each in stored:
        present.add(each)
        if each.need == NOT_NEEDED:
            unreferenced.add(each)
    num_without = sum(
        run.status == "done"
        and not run.verifies
        and bool(run.latents)
        and (run.latents not in found or run.latents in lost)
        for run in contents.runs
    )
    return Verdict(
        problems=tuple(problems),
        read=read,
        present=present,
        unreferenced=unreferenced,
        strays=tuple(strays),
        num_without_latents=num_without,
        rows=tuple(damaged),
        indexes=misplaced.indexes + tuple(f"{table} is out of order" for table in misplaced.tables),
        is_repaired=is_repaired,
    )


def _missing(lineage: Lineage, digests: Sequence[str]) -> list[Problem]:
    """What is wrong with blobs that were not found, after the rows forgot them; some may have come since."""
    problems: list[Problem] = []
    absent = []
    for digest in digests:
        if os.path.lexists(blobs.blob_path(lineage.root, digest)):
            problems += _problem(lineage, digest)
        else:
            absent.append(digest)
    for start in range(0, len(absent), FORGOTTEN_AT_ONCE):
        # A clean-up may have taken some while we read others: then nothing speaks of them.
        forgotten = _forgotten(lineage, absent[start : start + FORGOTTEN_AT_ONCE])
        problems += [Problem(digest, MISSING, note) for digest, note in forgotten.items()]
    return problems


def _problem(lineage: Lineage, digest: str) -> list[Problem]:
    """What is wrong with a blob, after the rows forgot it where it is lost; nothing if all is well."""
    try:
        blobs.get(lineage.root, digest)
    except BlobMissing:
        # A clean-up may have taken it while we were reading others: then nothing speaks of it.
        forgotten = _forgotten(lineage, [digest])
        return [Problem(digest, MISSING, note) for note in forgotten.values()]
    except BlobCorrupt as error:
        note = str(error).removeprefix(f"{digest} ")
        told = _forgotten(lineage, [digest]).get(digest, "no link spoke of it")
        return [Problem(digest, DAMAGED, f"{note}; {told}")]
    except StoreError as error:
        return [Problem(digest, UNREADABLE, str(error))]
    return []


def _forgotten(lineage: Lineage, digests: Sequence[str]) -> dict[str, str]:
    """Have the links forget these blobs; what became of each that a link spoke of."""
    try:
        found = links.forget_blobs(lineage, digests)
    except (StoreFull, StoreUnwritable) as error:
        return dict.fromkeys(digests, f"no link could forget it: {error}")
    return {
        digest: f"{num_links} {'link' if num_links == 1 else 'links'} forgot it"
        for digest, num_links in found.items()
        if num_links
    }


def _promised(contents: Contents) -> list[str]:
    """The digests whose bytes a link says are stored; its latents need not be. What a damaged row says is none."""
    named = (name for link in contents.links for name in (link.digest, link.state))
    return [name for name in dict.fromkeys(named) if blobs.is_digest(name)]


def _odd_sized(contents: Contents) -> list[str]:
    """Blobs that are empty, or of links that do not take the bytes that they should."""
    odd = dict.fromkeys(digest for digest, blob in contents.blobs.items() if not blob.num_bytes)
    for link in contents.links:
        names = {link.digest, link.state} - {""}
        if all(name in contents.blobs for name in names):
            num_bytes = sum(contents.blobs[name].num_bytes for name in names)
            if num_bytes != link.num_bytes:
                odd.update(dict.fromkeys(names))
    return list(odd)
