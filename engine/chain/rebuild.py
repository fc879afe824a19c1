"""A chain replayed from what is stored of it: the scheduler over the stored velocities, from a keyframe or the noise.

A state is never trusted: after every step the latents must have the digest that was recorded when the step was first
made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.errors import Unfaithful
from engine.extensions import registry as extensions
from engine.graph import Node
from engine.models.seams import At, around
from engine.schedulers.noise import step_noise
from engine.schedulers.scheduler import Scheduler, SolverState
from engine.schedulers.update import Update
from store.blobs import blobs
from store.blobs.tensors import encoded_parts
from store.errors import BlobCorrupt, BlobMissing, StoreError
from store.lineage.records import LinkRecord

VELOCITY = "velocity"
EXTENSION = "extension/"

Read = Callable[[str], Mapping[str, Tensor]]
"""The tensors of a blob. Raises BlobMissing or BlobCorrupt."""


@dataclass(frozen=True)
class Replayed:
    """The state after a node. before, velocity: what led to it; None where the state was taken from a keyframe."""

    node: Node
    state: SolverState
    before: SolverState | None
    velocity: Tensor | None


def latents_digest(latents: Tensor) -> str:
    """The digest of latents, as a stored blob of them has it."""
    return blobs.digest_of(*encoded_parts({"latents": latents}))


def chain_of(node: Node) -> list[Node]:
    """The steps up to a node, from the first on; none where it is not a step."""
    found = []
    while "before" in node.inputs:
        found.append(node)
        node = node.before
    return found[::-1]


def scheduler_of(steps: Sequence[Node]) -> Scheduler:
    """The scheduler that takes these steps, which begin at the first one of a run."""
    updates = tuple(update_of(node) for node in steps)
    lengths = (0, *(node.hints["history"] for node in steps))
    timesteps = [node.params["timestep"] for node in steps]
    return Scheduler(
        name="chain",
        sigmas=torch.tensor([update.sigma for update in updates], dtype=torch.float32),
        timesteps=torch.tensor(timesteps),
        updates=updates,
        history_lengths=lengths,
    )


def update_of(node: Node) -> Update:
    sigma, latents, velocity, *x0 = node.params["update"]
    noise = node.params.get("noise", [0.0])[0]
    return Update(sigma=sigma, latents=latents, velocity=velocity, x0=tuple(x0), noise=noise)


def at_of(node: Node, branch: str = "") -> At:
    """Which call a step is."""
    return At(node.hints["index"], node.hints["total"], node.params["update"][0], branch)


def solved(
    scheduler: Scheduler,
    node: Node,
    state: SolverState,
    velocity: Tensor,
    active: Sequence[Any] = (),
) -> SolverState:
    """The state after a step, as the scheduler and what wraps it have it. Raises ValueError for a velocity of
    another size."""
    noise = None
    if "noise" in node.params:
        _, seed, index = node.params["noise"]
        noise = step_noise(seed, index, state.latents.shape, device=state.latents.device)

    def step(state: SolverState, velocity: Tensor, at: At) -> SolverState:
        return scheduler.step(state, velocity, noise)

    after: SolverState = around(active, "step", step)(state, velocity, at_of(node))
    return after


def replayed(
    steps: Sequence[Node],
    links: Callable[[Node], LinkRecord | None],
    read: Read,
    scheduler: Scheduler,
    noise: Tensor,
) -> Iterator[Replayed]:
    """The states after each of `steps`, from what is stored; those before the last keyframe are passed over where
    the journal has holes.

    Raises Unfaithful where a digest does not agree, and as `read` does.
    """
    first = _first_needed(steps, links)
    state = scheduler.start(noise)
    for index, node in enumerate(steps[first:], start=first):
        link = links(node)
        if link is None:
            raise Unfaithful(node, f"{node.name} is not stored")
        if state.step == index and link.digest:
            tensors = _read(node, read, link.digest)
            if VELOCITY not in tensors:
                raise Unfaithful(node, f"what is stored of {node.name} has no velocity")
            velocity = tensors[VELOCITY].to(noise.device)
            before, state = state, advanced(scheduler, node, state, velocity, link.latents)
            yield Replayed(node, state, before, velocity)
        elif link.state:
            state = keyframe(
                scheduler, node, _read(node, read, link.state), link.latents, noise.device
            )
            yield Replayed(node, state, None, None)


def _read(node: Node, read: Read, digest: str) -> Mapping[str, Tensor]:
    try:
        return read(digest)
    except (BlobMissing, BlobCorrupt):
        raise
    except StoreError as error:  # whole, but no tensors
        raise Unfaithful(node, f"{digest}: {error}") from None


def advanced(
    scheduler: Scheduler, node: Node, state: SolverState, velocity: Tensor, latents: str
) -> SolverState:
    """The state one step on. latents: the digest on record of the latents that the step led to.

    Raises Unfaithful where it leads to others, or where the velocity is not one of this run.
    """
    try:
        state = solved(scheduler, node, state, velocity, _step_wrappers(node))
    except ValueError as error:  # a blob of another size
        raise Unfaithful(node, f"what is stored of {node.name} is no step: {error}") from None
    return _faithful(node, state, latents)


def keyframe(
    scheduler: Scheduler,
    node: Node,
    tensors: Mapping[str, Tensor],
    latents: str,
    device: torch.device,
) -> SolverState:
    """The stored state after a step, for a scheduler whose later steps may need less history than was kept.

    latents: the digest on record of the latents after that step. Raises Unfaithful where the state has others, is
    of another step, or has too little history.
    """
    step = node.hints["index"] + 1
    names = ["latents", *(f"history.{age}" for age in range(scheduler.history_lengths[step]))]
    if any(name not in tensors for name in names):
        raise Unfaithful(
            node, f"the keyframe after {node.name} has too little history for this solver"
        )
    moved = {name: tensors[name].to(device) for name in names}
    try:
        state = scheduler.from_tensors({**moved, "step": tensors["step"]})
    except (KeyError, ValueError) as error:  # a blob of something else
        raise Unfaithful(node, f"what is stored of {node.name} is no step: {error}") from None
    if state.step != step:
        raise Unfaithful(
            node, f"what is stored of {node.name} is no step: a keyframe after {state.step}"
        )
    return _faithful(node, state, latents)


def clean_latents(node: Node, before: Tensor, velocity: Tensor) -> Tensor:
    """The clean latents that a step's velocity points to: x - sigma v. before: the latents that it started from."""
    sigma = torch.tensor(node.params["update"][0], dtype=torch.float32)
    return before - sigma.to(velocity.device) * velocity


def extension_tensors(tensors: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    """The state that the active extension in that place left with a step."""
    prefix = f"{EXTENSION}{place}/"
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _first_needed(steps: Sequence[Node], links: Callable[[Node], LinkRecord | None]) -> int:
    """Where to begin: at the last keyframe before which the journal has a hole, else at the noise."""
    first = 0
    is_whole = True
    for index, node in enumerate(steps):
        link = links(node)
        is_whole = is_whole and link is not None and bool(link.digest)
        if not is_whole and link is not None and link.state:
            first, is_whole = index, True
    return first


def _step_wrappers(node: Node) -> list[Any]:
    """The extensions of a node that wrap the solver: they have no state, so new ones do."""
    return [
        extensions.make(spec, {})
        for spec in node.extensions
        if hasattr(extensions.find(spec.name), "step")
        and any(each["name"] == spec.name for each in node.active)
    ]


def _faithful(node: Node, state: SolverState, latents: str) -> SolverState:
    if latents_digest(state.latents) != latents:
        raise Unfaithful(node, f"{node.name} does not replay to the latents on record")
    return state
