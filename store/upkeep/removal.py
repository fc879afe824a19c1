"""What a clean-up removes, and in which order: a pure function over plain rows.

Never: whatever a pinned, queued, running or paused run and its ancestors need, what is small of
runs that exist (token states), and, unless asked for, their videos and final latents. First goes
what no row needs, then what no run has any more, then what only saves work, then the steps of runs,
last step first because a step is of use only while all before it are there; last the keyframes.
What gives much space for little computing and was not used for long goes first.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from store.upkeep.needs import (
    BUDGETED,
    KEYFRAME,
    NOT_NEEDED,
    OUTPUT,
    STEP,
    chains,
    classify,
    is_claim,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from store.upkeep.contents import Contents, SetAside
    from store.upkeep.needs import Chains, Stored

# A blob may wait so long for the row that names it.
GRACE_NS = 3600 * 10**9
# So long what is damaged can be looked at where nobody says otherwise.
ASIDE_NS = 30 * 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class Policy:
    """What to remove beside what nobody needs.

    budget_bytes: all above it of steps, keyframes, what only saves work and what no run has any more. older_than_ns:
    all of it that was not used for so long, what was set aside as damaged so long ago, and weights that were quantised
    as they were loaded and not used for so long (by default a month). outputs:
    videos and final latents count as well.
    """

    budget_bytes: int | None = None
    older_than_ns: int | None = None
    outputs: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a clean-up removes, in this order, and what becomes of the rows.

    changes: (digest, state, bytes, key) of links that lose something; dropped: keys of links of
    which nothing is left and that no run names. left_bytes: what will be there of that which a
    budget is for. aside: what goes of that which was set aside as damaged, and of
    quantised weights.
    """

    removals: tuple[Stored, ...]
    changes: tuple[tuple[str, str, int, str], ...]
    dropped: tuple[str, ...]
    left_bytes: int
    aside: tuple[SetAside, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.removals or self.aside)

    @property
    def freed_bytes(self) -> int:
        of_blobs = sum(each.num_bytes for each in self.removals)
        return of_blobs + sum(each.num_bytes for each in self.aside)

    @property
    def seconds(self) -> float:
        """What it would take to compute again what is removed."""
        return sum(each.seconds for each in self.removals)


def make_plan(
    contents: Contents, policy: Policy, *, now_ns: int, aside: Sequence[SetAside] = ()
) -> Plan:
    """What the policy removes from these contents; decides by what it is given and nothing else."""
    known = chains(contents)
    stored = classify(contents, known)
    removals = [
        each
        for each in stored.values()
        if each.need == NOT_NEEDED and not each.is_protected and now_ns - each.used_ns > GRACE_NS
    ]
    removals.sort(key=lambda each: (-each.num_bytes, each.digest))
    counted = (*BUDGETED, OUTPUT) if policy.outputs else BUDGETED
    covered = {digest: each for digest, each in stored.items() if each.need in counted}
    total = sum(each.num_bytes for each in covered.values())
    chosen = list(_chosen(covered, _befores(contents, known), policy, total, now_ns))
    removals += chosen
    changes, dropped = _row_changes(contents, known, {each.digest for each in removals}, now_ns)
    left_bytes = total - sum(each.num_bytes for each in chosen)
    limit_ns = ASIDE_NS if policy.older_than_ns is None else policy.older_than_ns
    old = tuple(each for each in aside if now_ns - each.ns > limit_ns)
    return Plan(tuple(removals), tuple(changes), tuple(dropped), left_bytes, old)


def _chosen(
    covered: Mapping[str, Stored],
    befores: Mapping[str, set[str]],
    policy: Policy,
    total: int,
    now_ns: int,
) -> Iterator[Stored]:
    """What goes of that which the policy covers, in order; befores: the steps before each step."""
    num_after: dict[str, int] = defaultdict(int)
    for earlier in befores.values():
        for digest in earlier:
            num_after[digest] += 1
    waiting = {digest: each for digest, each in covered.items() if not each.is_protected}
    ready = [
        (_rank(each, now_ns), digest) for digest, each in waiting.items() if not num_after[digest]
    ]
    heapq.heapify(ready)
    while ready or waiting:
        if not ready:
            # Steps that are each other's predecessors, which only forged rows can be.
            if policy.budget_bytes is None or total <= policy.budget_bytes:
                return
            ready = [(_rank(each, now_ns), digest) for digest, each in waiting.items()]
            heapq.heapify(ready)
        _, digest = heapq.heappop(ready)
        each = waiting.pop(digest, None)
        if each is None:
            continue
        is_over = policy.budget_bytes is not None and total > policy.budget_bytes
        is_old = policy.older_than_ns is not None and now_ns - each.used_ns > policy.older_than_ns
        if not (is_over or is_old):
            continue
        total -= each.num_bytes
        yield each
        for before in befores.get(digest, ()):
            num_after[before] -= 1
            if not num_after[before] and before in waiting:
                heapq.heappush(ready, (_rank(waiting[before], now_ns), before))


def _rank(stored: Stored, now_ns: int) -> tuple[int, bool, float]:
    """What is removed first has the lowest."""
    age_seconds = max(0, now_ns - stored.used_ns) / 1e9 + 60
    bytes_per_second = stored.num_bytes / (stored.seconds + 1e-3)
    return stored.need, stored.kind == KEYFRAME, -bytes_per_second * age_seconds


def _befores(contents: Contents, known: Chains) -> dict[str, set[str]]:
    """The stored results of the steps right before each stored result of a step."""
    results: dict[str, set[str]] = defaultdict(set)
    for link in contents.links:
        if link.kind == STEP and link.digest in contents.blobs:
            results[link.key].add(link.digest)
    for row in contents.run_links:
        is_there = row.stage == STEP and row.digest in contents.blobs
        if is_there and is_claim(row, known.links.get(row.key)):
            results[row.key].add(row.digest)
    befores: dict[str, set[str]] = defaultdict(set)
    for key, digests in results.items():
        earlier = results.get(known.parents.get(key, ""), set())
        for digest in digests:
            befores[digest] |= earlier - {digest}
    return befores


def _row_changes(
    contents: Contents, known: Chains, removed: set[str], now_ns: int
) -> tuple[list[tuple[str, str, int, str]], list[str]]:
    """How the links change, and which of them go: see Plan."""
    changes: list[tuple[str, str, int, str]] = []
    empty: list[str] = []
    needed: set[str] = set()  # keys with something stored, or with such a step after them
    for link in contents.links:
        digest = "" if link.digest in removed else link.digest
        state = "" if link.state in removed else link.state
        is_changed = (digest, state) != (link.digest, link.state)
        names = {digest, state, link.latents} - removed
        if not any(name in contents.blobs for name in names):
            if link.key not in known.named and (is_changed or now_ns - link.used_ns > GRACE_NS):
                empty.append(link.key)
        else:
            key = link.key
            while key and key not in needed:
                needed.add(key)
                key = known.parents.get(key, "")
        if is_changed:
            left = [contents.blobs[name] for name in {digest, state} if name in contents.blobs]
            changes.append((digest, state, sum(blob.num_bytes for blob in left), link.key))
    dropped = [key for key in empty if key not in needed]
    gone = set(dropped)
    return [change for change in changes if change[-1] not in gone], dropped
