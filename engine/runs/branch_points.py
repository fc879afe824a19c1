"""Where a run can be branched, by what is stored of it. Torch-free."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from store.blobs.blobs import is_stored

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
        is_next = points[-1] == number - 1 and is_stored(store.root, held.digest)
        if is_next or is_stored(store.root, held.state):
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
