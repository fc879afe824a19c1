"""Where a run can be branched, by what is stored of it. Torch-free."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.lineage.records import RunLink, RunRecord
    from store.store import Store


def branch_points(store: Store, record: RunRecord, links: Sequence[RunLink]) -> list[int]:
    """After how many of its steps, which these links are, the run's state can be rebuilt from the store.

    By the journal from the noise on, or from a stored state; 0 is the noise itself. After the last
    step there is nothing to branch but the decoding.
    """
    found = store.find_links([link.key for link in links])
    points = [0]
    for number, link in enumerate(links, start=1):
        if link.index != number - 1 or link.key not in found:
            break
        held = found[link.key]
        is_next = points[-1] == number - 1 and is_stored(store, held.digest)
        if is_next or is_stored(store, held.state):
            points.append(number)
    last = num_steps(record)  # once: it costs the whole course of the solver
    return [point for point in points if point < last]


def num_steps(record: RunRecord) -> float:
    """How many steps the run has to its end; infinite where its spec is of a newer version."""
    from engine.tasks.route import route_of_run
    from presets.errors import PresetError

    try:
        return route_of_run(record).num_steps
    except PresetError:
        return math.inf


def is_stored(store: Store, digest: str) -> bool:
    """Whether there is a blob of that digest; its bytes are not read."""
    from store.blobs.blobs import blob_path

    return bool(digest) and blob_path(store.root, digest).is_file()


def points_told(points: Sequence[int], *, has_latents: bool) -> str:
    """`0-12, 20, decode`: after which steps the state is stored, by rising numbers."""
    parts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges(points)]
    return ", ".join([*parts, *(["decode"] if has_latents else [])])


def ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Rising numbers as runs of consecutive ones: first and last of each."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
