"""How far apart the latents of two runs are, step by step.

Latents are not stored for every step: they are rebuilt from the journal, by replaying the scheduler over the stored
velocities, and count only where they have the digest on record.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from engine.chain.rebuild import advanced, chain_of, keyframe, scheduler_of
from engine.components.protocols import Description
from engine.errors import EngineError, Unfaithful
from engine.extensions.registry import enabled, find
from engine.graph import Node, Ref
from engine.schedulers.scheduler import Scheduler, SolverState
from engine.stages.latents import noise
from engine.tasks.route import Route, route_of_run
from engine.tasks.wan import NOISE, latents_of
from presets.errors import PresetError
from store.blobs import blobs
from store.blobs.tensors import decode_tensors
from store.errors import BlobCorrupt, BlobMissing, StoreError
from store.lineage.records import LinkRecord, RunLink, RunRecord
from store.store import Store

LATENTS, VELOCITY = "latents", "velocity"

ByStep = Iterable[tuple[int, Tensor]]
"""Tensors with the index of their step (from 0), ascending; steps may be left out."""


@dataclass(frozen=True, slots=True)
class Distance:
    """relative_l2: |b - a| / |a|, infinite or NaN where `a` is 0. cosine: of the angle between the two."""

    relative_l2: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Steps:
    """of: what was compared, the latents after each step or the velocity (after guidance) of each.
    distances: (index from 0, how far apart) where both are stored or can be rebuilt; absent: the other steps that
    both runs have, thinned or lost."""

    of: str
    distances: tuple[tuple[int, Distance], ...]
    absent: tuple[int, ...]


SAME = Distance(0.0, 1.0)


def distance(a: Tensor, b: Tensor) -> Distance:
    """Raises EngineError for tensors of different shapes."""
    if a.shape != b.shape:
        raise EngineError(f"latents of {_shape(a)} and of {_shape(b)} cannot be compared")
    if torch.equal(a, b):
        return SAME
    old, new = a.double().flatten(), b.double().flatten()
    norm_a, norm_b = old.norm(), new.norm()
    return Distance(float((new - old).norm() / norm_a), float(old @ new / (norm_a * norm_b)))


def distances(a: ByStep, b: ByStep) -> Iterator[tuple[int, Distance]]:
    """Of the steps that are in both; no more than one tensor of each is held at a time."""
    rest_a, rest_b = iter(a), iter(b)
    one, other = next(rest_a, None), next(rest_b, None)
    while one is not None and other is not None:
        if one[0] == other[0]:
            yield one[0], distance(one[1], other[1])
        behind_a, behind_b = one[0] <= other[0], other[0] <= one[0]
        if behind_a:
            one = next(rest_a, None)
        if behind_b:
            other = next(rest_b, None)


def compare_steps(
    store: Store,
    a: RunRecord,
    b: RunRecord,
    steps_a: Sequence[RunLink],
    steps_b: Sequence[RunLink],
) -> Steps:
    """The latents of two runs after each step, or their velocities where a journal does not replay here.

    Raises EngineError for runs with latents of different shapes.
    """
    pairs = list(zip(steps_a, steps_b, strict=False))
    sides = [[pair[i] for pair in pairs] for i in (0, 1)]
    try:
        same = {old.index for old, new in pairs if old.latents and old.latents == new.latents}
        rebuilt = [rebuilt_latents(store, *each) for each in zip((a, b), sides, strict=True)]
        return _steps(LATENTS, pairs, same, rebuilt)
    except Unfaithful:
        same = {old.index for old, new in pairs if old.digest and old.digest == new.digest}
        return _steps(VELOCITY, pairs, same, [velocities(store.root, side) for side in sides])


def velocities(root: Path, steps: Iterable[RunLink]) -> Iterator[tuple[int, Tensor]]:
    """Those that are stored, fp32 [1,C,F,h,w]."""
    for step in steps:
        tensor = stored(root, step.digest, "velocity")
        if tensor is not None:
            yield step.index, tensor


def rebuilt_latents(
    store: Store, run: RunRecord, steps: Sequence[RunLink]
) -> Iterator[tuple[int, Tensor]]:
    """The latents of a run after each of its first steps, fp32 [1,C,F,h,w]; those that neither the journal nor a
    keyframe leads to are left out."""
    device = _device(run)
    known = store.find_links([step.key for step in steps])
    chain: list[Node] = []
    state: SolverState | None = None
    for step in steps:
        link = known.get(step.key)
        if link is None or link.latents != step.latents:  # of another run's bytes
            link = LinkRecord(step.key, "step")
        velocity = stored(store.root, step.digest or link.digest, VELOCITY)
        tensors = {} if velocity is not None else _read(store.root, link.state)
        tensors = tensors or ({} if velocity is not None else _read(store.root, step.latents))
        shown = velocity if velocity is not None else tensors.get(LATENTS)
        if shown is None:
            state = None
            continue
        if not chain:
            chain = _chain(run, shown)
            scheduler = scheduler_of(chain)
        if step.index >= len(chain):
            return
        node = chain[step.index]
        if velocity is not None and step.index == 0:
            first = _first_latents(store, run, node.before, device)
            state = None if first is None else scheduler.start(first)
        if velocity is not None and state is not None and state.step == step.index:
            state = advanced(scheduler, node, state, velocity.to(device), step.latents)
            yield step.index, state.latents.cpu()
            continue
        if velocity is not None:
            tensors = _read(store.root, link.state) or _read(store.root, step.latents)
        state = _keyframe(scheduler, node, tensors, step, device)
        if LATENTS in tensors:
            yield step.index, tensors[LATENTS]


def _first_latents(store: Store, run: RunRecord, root: Node, device: torch.device) -> Tensor | None:
    """What the steps of a run began with; None where that was a clip, and is no longer stored."""
    if root.stage is NOISE:
        return noise(root, device)
    digests = (link.digest for link in store.links_of(run.id) if link.stage == root.stage.name)
    found = stored(store.root, next(digests, ""), LATENTS)
    return None if found is None else found.to(device)


def stored(root: Path, digest: str, name: str) -> Tensor | None:
    """A tensor of a stored blob; None where the blob was thinned, collected or is damaged."""
    return _read(root, digest).get(name)


def _steps(
    of: str, pairs: Sequence[tuple[RunLink, RunLink]], same: set[int], sides: Sequence[ByStep]
) -> Steps:
    found = dict.fromkeys(same, SAME)
    if len(same) < len(pairs):  # else nothing has to be read
        found |= {index: told for index, told in distances(*sides) if index not in same}
    absent = tuple(old.index for old, _ in pairs if old.index not in found)
    return Steps(of, tuple(sorted(found.items(), key=lambda item: item[0])), absent)


def _chain(run: RunRecord, shown: Tensor) -> list[Node]:
    """The steps of a run, as far as replaying them needs; what its latents are like is told by any stored tensor."""

    def told(kind: str, part: object) -> Description:
        facts = {"latent_channels": shown.shape[1], "latent_stride": [1, 1, 1]}
        return Description({}, facts, "")

    try:
        route = _without_models(route_of_run(run))
        chain = chain_of(latents_of(route, told).node)
    except PresetError as error:  # of a newer version
        raise EngineError(f"the steps of run {run.id} cannot be followed: {error}") from None
    root = chain[0].before
    shape = list(shown.shape)
    first = replace(root, params={**root.params, "shape": shape})
    chain[0] = replace(chain[0], inputs={**chain[0].inputs, "before": Ref(first, "state", "key")})
    return chain


def _without_models(route: Route) -> Route:
    """A route as far as the solver's steps go: only what wraps these matters to a replay."""
    parts = []
    for part in route.parts:
        wraps = tuple(
            each for each in enabled(part.spec.extensions) if hasattr(find(each.name), "step")
        )
        parts.append(replace(part, spec=msgspec.structs.replace(part.spec, extensions=wraps)))
    return replace(route, parts=tuple(parts))


def _keyframe(
    scheduler: Scheduler,
    node: Node,
    tensors: dict[str, Tensor],
    step: RunLink,
    device: torch.device,
) -> SolverState | None:
    """The state that was kept after a step; None where it cannot be gone on from."""
    if "step" not in tensors:
        return None
    try:
        return keyframe(scheduler, node, tensors, step.latents, device)
    except Unfaithful:
        return None


def _read(root: Path, digest: str) -> dict[str, Tensor]:
    if not digest:
        return {}
    try:
        return decode_tensors(blobs.get(root, digest))
    except (BlobMissing, BlobCorrupt):
        return {}
    except StoreError as error:
        raise EngineError(f"{digest} cannot be read: {error}") from error


def _device(run: RunRecord) -> torch.device:
    """The kind of device that the run was computed on, where this machine has it: sums are rounded alike there."""
    kind = json.loads(run.environment or "{}").get("device", "cpu")
    return torch.device("cuda" if kind == "cuda" and torch.cuda.is_available() else "cpu")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
