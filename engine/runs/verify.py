"""A run computed once more from its noise, nothing reused, and compared result by result with what is on record."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch import Tensor

from engine.compare.latents import distance, rebuilt_latents
from engine.components.descriptions import Descriptions
from engine.components.memory.residents import Residents
from engine.errors import EngineError, Unfaithful
from engine.execution.jobs import Execution
from engine.execution.kept import Keeping
from engine.reports import Control
from engine.results import MemoryResults
from engine.tasks.route import route_of_run
from engine.tasks.wan import CLIP, CONDITION, EXPAND_PROMPT, EXPANDED, IMAGE, PICTURE, latents_of
from store.blobs import blobs
from store.errors import StoreError
from store.lineage.events import Verified
from store.lineage.records import LinkRecord, RunLink, RunRecord
from store.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping


# what a language model said once is not said again; a picture that was given may be anywhere by now
TAKEN = (EXPAND_PROMPT.name, EXPANDED.name, PICTURE.name, CLIP.name)
# compared by content: inputs that come to the same bytes have one link
BY_CONTENT = ("text", IMAGE.name, CONDITION.name)


class _Differs(Exception):
    """Raised at the first result that differs, which ends the execution."""


def verify(
    store: Store,
    run: RunRecord,
    describe: Descriptions,
    residents: Callable[[], Residents],
    control: Control,
) -> Verified:
    """Computes `run` again and compares; stops at the first difference. Its expanded prompt is taken as it is.

    Raises StoreError where nothing of the run is on record, and as an execution does.
    """
    seen = {(link.stage, link.index): link for link in store.links_of(run.id)}
    steps = [link for (stage, _), link in seen.items() if stage == "step"]
    if not steps:
        raise StoreError(f"run {run.id} has no steps on record; there is nothing to compare with")
    known_bytes = {
        name: {link.digest for (stage, _), link in seen.items() if stage == name}
        for name in BY_CONTENT
    }
    recorded = _recorded_environment(store, run, steps)
    changed: dict[str, list[str | None]] = {}
    checked = 0
    verdict = Verified(identical=True)

    def compare(link: LinkRecord, stage: str, index: int, latents: Tensor | None) -> None:
        nonlocal checked, changed, verdict
        changed = changed or _changed(recorded, link.environment)
        known = seen.get((stage, index))
        if known_bytes.get(stage):
            is_same, far = link.digest in known_bytes[stage], None
        elif stage == "step" and known is not None and known.latents and latents is not None:
            is_same, far = link.latents == known.latents, None
            if not is_same:
                far = _distance(store, run, sorted(steps, key=_index)[: index + 1], latents)
        else:
            return
        checked += 1
        if not is_same:
            verdict = Verified(False, f"{stage} {index + 1}", far)
            raise _Differs

    results = MemoryResults(compare)
    for link in store.find_links([each.key for each in seen.values()]).values():
        if link.kind in TAKEN:
            results.take(link, blobs.get(store.root, link.digest))
    route = route_of_run(run)
    total = 1 + max(map(_index, steps))
    execution = Execution(
        {"latents": latents_of(route, describe, stop_at=total)},
        results,
        describe,
        residents,
        control,
        Keeping(),
    )
    with suppress(_Differs):
        execution.run(execution.plan())
    return Verified(verdict.identical, verdict.first, verdict.relative_l2, changed, checked)


def _index(link: RunLink) -> int:
    return link.index


def _distance(
    store: Store, run: RunRecord, steps: Sequence[RunLink], latents: Tensor
) -> float | None:
    """How far latents are from those on record; None where these cannot be rebuilt."""
    recorded = None
    try:
        for index, found in rebuilt_latents(store, run, steps):
            recorded = found if index == steps[-1].index else None
    except (Unfaithful, EngineError):
        return None
    return None if recorded is None else distance(recorded, latents.cpu()).relative_l2


def _recorded_environment(
    store: Store, run: RunRecord, steps: Sequence[RunLink]
) -> Mapping[str, Any]:
    """Of the run, or of the links that it took from others."""
    links = store.find_links([step.key for step in steps]).values()
    text = run.environment or next((link.environment for link in links if link.environment), "")
    found: Mapping[str, Any] = json.loads(text or "{}")
    return found


def _changed(before: Mapping[str, Any], environment: str) -> dict[str, list[str | None]]:
    """name -> [then, now] of what differs; nothing where one of the two is not known."""
    after = json.loads(environment or "{}")
    if not before or not after:
        return {}
    return {
        name: [_told(before, name), _told(after, name)]
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }


def _told(facts: Mapping[str, Any], name: str) -> str | None:
    return str(facts[name]) if name in facts else None
