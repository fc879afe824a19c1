"""The walk itself, on tensors: rebuild the deepest stored state of a chain, then go on from there.

A state is never trusted: rebuilding it replays the scheduler over the stored velocities, and after every step the
latents must have the digest that was recorded when the step was first made.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from engine.pipelines.plan import StepLink
from engine.pipelines.stages import Step
from engine.schedulers.scheduler import Scheduler, SolverState
from store.blobs import blobs
from store.blobs.tensors import encoded_parts, get_tensors
from store.errors import BlobCorrupt, BlobMissing, StoreError
from store.store import Store


class Unfaithful(Exception):
    """What is stored does not lead to the latents on record: another machine's rounding, or another code's."""


def latents_digest(latents: Tensor) -> str:
    """The digest of latents, as a stored blob of them has it."""
    return blobs.digest_of(*encoded_parts({"latents": latents}))


def rebuilt(
    store: Store, scheduler: Scheduler, noise: Tensor, steps: Sequence[StepLink]
) -> Iterator[Step]:
    """The states after each of `steps`, from what is stored; those before the last keyframe are passed over where
    the journal has holes.

    Raises Unfaithful where a digest does not agree, and BlobMissing or BlobCorrupt (told to the store, so that
    the next plan knows) where a blob cannot be had.
    """
    first = _first_needed(steps)
    state = scheduler.start(noise)
    for step in steps[first:]:
        begun = time.perf_counter()
        velocity = None
        link = step.link
        if link is None:
            raise Unfaithful(f"step {step.index + 1} is not stored")
        if state.step == step.index and link.digest:
            tensors = _tensors(store, link.digest)
            if "velocity" not in tensors:
                raise Unfaithful(f"what is stored of step {step.index + 1} has no velocity")
            velocity = tensors["velocity"].to(noise.device)
            state = advanced(scheduler, state, velocity, link.latents)
        elif link.state:
            tensors = _tensors(store, link.state)
            state = keyframe(scheduler, step.index + 1, tensors, link.latents, noise.device)
        else:
            continue
        yield Step(
            state=state,
            velocity=velocity,
            sigma=float(scheduler.sigmas[step.index]),
            timestep=int(scheduler.timesteps[step.index]),
            seconds=time.perf_counter() - begun,
        )


def _first_needed(steps: Sequence[StepLink]) -> int:
    """Where to begin: at the last keyframe before which the journal has a hole, else at the noise."""
    first = 0
    is_whole = True
    for step in steps:
        link = step.link
        is_whole = is_whole and link is not None and bool(link.digest)
        if not is_whole and link is not None and link.state:
            first, is_whole = step.index, True
    return first


def advanced(
    scheduler: Scheduler, state: SolverState, velocity: Tensor, latents: str
) -> SolverState:
    """The state one step on. latents: the digest on record of the latents that the step led to.

    Raises Unfaithful where it leads to others, or where the velocity is not one of this run.
    """
    number = state.step + 1
    try:
        state = scheduler.step(state, velocity)
    except ValueError as error:  # a blob of another size
        raise Unfaithful(f"what is stored of step {number} is no step: {error}") from None
    return _faithful(state, latents)


def keyframe(
    scheduler: Scheduler,
    step: int,
    tensors: Mapping[str, Tensor],
    latents: str,
    device: torch.device,
) -> SolverState:
    """The stored state after `step` steps, for a scheduler whose later steps may need less history than was kept.

    latents: the digest on record of the latents after that step. Raises Unfaithful where the state has others, is
    of another step, or has too little history.
    """
    names = ["latents", *(f"history.{age}" for age in range(scheduler.history_lengths[step]))]
    if any(name not in tensors for name in names):
        raise Unfaithful(f"the keyframe after step {step} has too little history for this solver")
    moved = {name: tensors[name].to(device) for name in names}
    try:
        state = scheduler.from_tensors({**moved, "step": tensors["step"]})
    except (KeyError, ValueError) as error:  # a blob of something else
        raise Unfaithful(f"what is stored of step {step} is no step: {error}") from None
    if state.step != step:
        raise Unfaithful(f"what is stored of step {step} is no step: a keyframe after {state.step}")
    return _faithful(state, latents)


def _faithful(state: SolverState, latents: str) -> SolverState:
    if latents_digest(state.latents) != latents:
        raise Unfaithful(f"step {state.step} does not replay to the latents on record")
    return state


def _tensors(store: Store, digest: str) -> dict[str, Tensor]:
    try:
        return get_tensors(store.root, digest)
    except (BlobMissing, BlobCorrupt):
        store.forget_blob(digest)
        raise
    except StoreError as error:
        raise Unfaithful(f"{digest}: {error}") from None


def prediction(scheduler: Scheduler, before: SolverState, velocity: Tensor) -> Tensor:
    """The clean latents that a step's velocity points to: x - sigma v."""
    return before.latents - scheduler.sigmas[before.step].to(velocity.device) * velocity
