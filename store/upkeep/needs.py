"""What each blob of a store is, and who needs it: pure functions over plain rows.

A blob is needed by the rows that name it: by a link (its result, keyframe or latents), by what a
run saw, or as a run's final latents. One exception: once the link of a key was thinned, what a
run saw of it is knowledge, no claim; unless the link now stands for another result than it saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from store.lineage.records import QUEUED, RUNNING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from store.upkeep.contents import Contents, LinkRow, RunLinkRow, RunRow

# Kinds of blobs beside those that links name: "text", "step", "video", "latents" and later ones.
KEYFRAME = "keyframe"
LATENTS = "latents"
STEP = "step"
UNREFERENCED = "unreferenced"
VIDEO = "video"

# How much a blob is needed, in rising order: by no row; by links that no run names (any more); to
# save work that can be done again at any time; to go back to a step of a run; as what a run was
# made for; as what is small and dear to make.
NOT_NEEDED, LEFTOVER, CACHE, CHAIN, OUTPUT, KEPT = range(6)
# What a budget is for.
BUDGETED = (LEFTOVER, CACHE, CHAIN)

# How much the result of a link is needed by the runs that name it: by the link's own `keep`, and
# where it has none by its kind. A class or a kind that is not known here can be made again.
_CACHE = "cache"
_NEEDS = {"small": KEPT, "output": OUTPUT, "chain": CHAIN, _CACHE: CACHE}
_KEEP_OF_KIND = {"text": "small", STEP: "chain", VIDEO: "output", LATENTS: "output"}


@dataclass(slots=True)
class Stored:
    """One blob and the claims on it. seconds: to make again what would be lost without it.

    used_ns: when it was last made or reused. is_protected: of a run that a clean-up may not touch.
    """

    digest: str
    num_bytes: int
    used_ns: int
    kind: str = UNREFERENCED
    need: int = NOT_NEEDED
    seconds: float = 0.0
    is_protected: bool = False


@dataclass(frozen=True, slots=True)
class Chains:
    """The rows in the shapes that questions about chains need.

    named: the keys that some run names. parents: the step before a step, by key. saved: the
    seconds of a step and of the steps since the last stored one before it, by key.
    """

    links: Mapping[str, LinkRow]
    named: frozenset[str]
    parents: Mapping[str, str]
    saved: Mapping[str, float]


@dataclass(slots=True)
class _Claims:
    """Collects the claims on each blob that is there."""

    stored: dict[str, Stored]

    def add(self, digest: str, kind: str, need: int, *, used_ns: int, seconds: float = 0.0) -> None:
        found = self.stored.get(digest)
        if found is None:  # nothing is named, or it is not there
            return
        if found.need == NOT_NEEDED:  # when it was written matters only while no row speaks of it
            found.used_ns = used_ns
        if need > found.need or (need == found.need and kind == KEYFRAME):
            found.need, found.kind = need, kind
        found.used_ns = max(found.used_ns, used_ns)
        found.seconds += seconds

    def recall(self, digest: str, used_ns: int) -> None:
        """A row remembers this blob but has no claim on it."""
        found = self.stored.get(digest)
        if found is not None and found.need == NOT_NEEDED:
            found.used_ns = max(found.used_ns, used_ns)


def chains(contents: Contents) -> Chains:
    """How the links of the store hang together."""
    links = {link.key: link for link in contents.links}
    parents = {link.key: link.parent for link in contents.links if link.parent}
    saved: dict[str, float] = {}
    for steps in _chains_of_runs(contents.run_links, links):
        parents.update((after.key, before.key) for before, after in pairwise(steps))
        seconds = 0.0
        for step in steps:
            link = links.get(step.key)
            seconds += step.seconds if link is None else link.seconds
            names = (step.digest,) if link is None else (link.digest, link.state)
            if any(name in contents.blobs for name in names):
                saved[step.key] = max(seconds, saved.get(step.key, 0.0))
                seconds = 0.0
    return Chains(links, frozenset(row.key for row in contents.run_links), parents, saved)


def classify(contents: Contents, known: Chains) -> dict[str, Stored]:
    """Every blob that is there, by digest, with what it is and how much it is needed."""
    claims = _Claims(
        {
            digest: Stored(digest, blob.num_bytes, blob.modified_ns)
            for digest, blob in contents.blobs.items()
        }
    )
    for link in contents.links:
        is_named, used_ns = link.key in known.named, link.used_ns
        result = need_of_result(link.kind, link.keep) if is_named else LEFTOVER
        rest = CHAIN if is_named else LEFTOVER
        seconds = known.saved.get(link.key, link.seconds)
        # Where both are stored, it is the keyframe that saves the steps.
        cost = 0.0 if link.state in contents.blobs else seconds
        claims.add(link.digest, link.kind, result, used_ns=used_ns, seconds=cost)
        claims.add(link.state, KEYFRAME, rest, used_ns=used_ns, seconds=seconds)
        claims.add(link.latents, LATENTS, rest, used_ns=used_ns)
    _claim_for_runs(claims, contents, known)
    for digest in _protected_digests(contents, known.links):
        if found := claims.stored.get(digest):
            found.is_protected = True
    return claims.stored


def protected_runs(runs: Sequence[RunRow]) -> frozenset[str]:
    """The runs that a clean-up may not touch: those that are pinned, or not over yet, and what
    they were branched from or verify.

    A paused run is not over. Of a run that waits the database does not know the links yet; its
    parent's are the ones that it goes on from.
    """
    by_id = {run.id: run for run in runs}
    waiting = [
        run.id for run in runs if run.is_pinned or run.is_paused or run.status in (QUEUED, RUNNING)
    ]
    found: set[str] = set()
    while waiting:
        run_id = waiting.pop()
        if run_id in by_id and run_id not in found:
            found.add(run_id)
            waiting += [by_id[run_id].parent, by_id[run_id].verifies]
    return frozenset(found)


def is_claim(row: RunLinkRow, link: LinkRow | None) -> bool:
    """Whether a run alone vouches for what it saw: the link of its key is of other bytes, or gone.

    A link that was thinned says by its latents what it was of.
    """
    if link is None:
        return True
    if link.digest:
        return link.digest != row.digest
    return bool(link.latents and row.latents and link.latents != row.latents)


def need_of_result(kind: str, keep: str) -> int:
    """How much the result of a link is needed by the runs that name it."""
    return _NEEDS.get(keep_of(kind, keep), CACHE)


def keep_of(kind: str, keep: str = "") -> str:
    """What a clean-up makes of the result of a link: "small", "output", "chain" or "cache"."""
    return keep or _KEEP_OF_KIND.get(kind, _CACHE)


def _claim_for_runs(claims: _Claims, contents: Contents, known: Chains) -> None:
    """What runs saw: other bytes than the link's, or those of a link that is not known here."""
    created = {run.id: run.created_ns for run in contents.runs}
    counted: set[tuple[str, str]] = set()
    thinned: list[tuple[str, int]] = []
    for row in contents.run_links:
        link = known.links.get(row.key)
        kind, keep, used_ns = row.stage, "", created.get(row.run, 0)
        if link is not None:
            kind, keep, used_ns = link.kind, link.keep, link.used_ns
        claims.add(row.latents, LATENTS, CHAIN, used_ns=used_ns)
        if is_claim(row, link):
            is_new = (row.key, row.digest) not in counted
            counted.add((row.key, row.digest))
            seconds = known.saved.get(row.key, row.seconds) if is_new else 0.0
            need = need_of_result(kind, keep)
            claims.add(row.digest, kind, need, used_ns=used_ns, seconds=seconds)
        elif link is not None and not link.digest:
            thinned.append((row.digest, used_ns))
    for run in contents.runs:
        claims.add(run.latents, LATENTS, OUTPUT, used_ns=run.created_ns)
    for digest, used_ns in thinned:
        claims.recall(digest, used_ns)


def _chains_of_runs(
    run_links: Sequence[RunLinkRow], links: Mapping[str, LinkRow]
) -> Iterator[list[RunLinkRow]]:
    """The steps of each run in order, cut where one is not known."""
    for _, group in groupby(run_links, key=lambda row: (row.run, row.stage)):
        chain: list[RunLinkRow] = []
        for row in group:
            kind = links[row.key].kind if row.key in links else row.stage
            if kind != STEP:
                break
            if chain and row.idx != chain[-1].idx + 1:
                yield chain
                chain = []
            chain.append(row)
        if chain:
            yield chain


def _protected_digests(contents: Contents, links: Mapping[str, LinkRow]) -> set[str]:
    protected = protected_runs(contents.runs)
    digests = {run.latents for run in contents.runs if run.id in protected}
    for row in contents.run_links:
        if row.run in protected:
            digests |= {row.digest, row.latents}
            if row.key in links:
                link = links[row.key]
                digests |= {link.digest, link.latents, link.state}
    return digests
