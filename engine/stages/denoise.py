"""The denoising loop: solver steps over guided velocities, from any stored state on."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from engine.chain.rebuild import (
    EXTENSION,
    VELOCITY,
    Replayed,
    at_of,
    chain_of,
    clean_latents,
    extension_tensors,
    latents_digest,
    replayed,
    scheduler_of,
    solved,
)
from engine.components.protocols import Predict
from engine.environment import environment_of
from engine.errors import Unfaithful
from engine.execution.jobs import Job
from engine.extensions import registry as extensions
from engine.extensions.extension import Extension, Stateful
from engine.graph import Node, Ref
from engine.models.seams import At, around
from engine.reports import NodeResult
from engine.schedulers.scheduler import Scheduler, SolverState
from engine.stages.finite import not_finite
from engine.stages.latents import first_latents
from store.errors import BlobCorrupt, BlobMissing
from store.lineage.events import StepFinished

Instances = dict[tuple[int, bytes], Extension]


def steps(job: Job) -> Iterator[NodeResult]:
    """The steps of a job, one after another, each by the settings of its own node.

    Raises RunFailed at the first step whose latents are not finite, and Unfaithful where what is stored does not lead
    to where the job begins.
    """
    before = chain_of(job.nodes[0])[:-1]
    scheduler = scheduler_of([*before, *job.nodes])
    instances: Instances = {}
    begin = _resume_at(job, before)
    state = _state_after(job, before[:begin], scheduler)
    again = before[begin:]
    _restore(job, before, begin, instances)
    if not again:
        job.reused(before)
    for part in _parts([*again, *job.nodes]):
        state = yield from _part_done(job, scheduler, state, part, instances, before)


def derive(job: Job, node: Node, output: str) -> dict[str, Tensor]:
    """The latents after a step or the clean ones that it points to, from what is stored. Raises Unfaithful."""
    chain = chain_of(node)
    last = _replay(job, chain, scheduler_of(chain))
    assert last is not None
    if output == "latents":
        return {"latents": last.state.latents}
    if last.before is None or last.velocity is None:
        raise Unfaithful(node, f"the velocity of {node.name} is not stored")
    return {"latents": clean_latents(node, last.before.latents, last.velocity)}


def guided(predict: Any, x: Tensor, scale: float, at: At) -> Tensor:
    """Classifier-free guidance: uncond + scale * (cond - uncond) (arXiv:2207.12598); one call where scale is 1.

    predict: names of branches -> their velocities.
    """
    if scale == 1:
        (velocity,) = predict("positive")
        return velocity
    cond, uncond = predict("positive", "negative")
    return torch.add(uncond, cond - uncond, alpha=scale)


def velocity_at(predict: Predict, node: Node, x: Tensor, active: Sequence[Any] = ()) -> Tensor:
    """The velocity of a step after guidance, fp32 on the device of the latents x, which nobody else holds."""
    at = at_of(node)
    timestep = torch.tensor([node.params["timestep"]])

    def branches(*names: str) -> list[Tensor]:
        found = predict(x, timestep, [at_of(node, name) for name in names])
        return [velocity.to(x.device) for velocity in found]

    guide = around(active, "guide", guided)
    velocity: Tensor = guide(branches, x, node.params["guidance"], at)
    # a denoiser may use its buffer again, whatever it promised; the store reads this later
    return velocity.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _part_done(
    job: Job,
    scheduler: Scheduler,
    state: SolverState,
    nodes: Sequence[Node],
    instances: Instances,
    known: Sequence[Node],
) -> Generator[NodeResult, None, SolverState]:
    """The steps of one part, which share denoiser, conditions and extensions. Those that are known are computed for
    the state of extensions alone."""
    wrapping = _instances(job, nodes[0], instances)
    with (
        job.component(nodes[0]) as denoiser,
        denoiser.begin(_branches(job, nodes), wrapping) as predict,
    ):
        for node in nodes:
            began = time.perf_counter()
            active = [
                each
                for each in wrapping
                if each.is_active(node.hints["index"], node.hints["total"])
            ]
            _begin_anew(job, node, active)
            velocity = velocity_at(predict, node, state.latents, active)
            earlier, state = state, solved(scheduler, node, state, velocity, active)
            _check_finite(job, state, node)
            if node.hints["index"] < len(known):
                _check_known(job, node, state)
                if node is known[-1]:
                    job.reused(known)
                continue
            seconds = time.perf_counter() - began
            environment = environment_of(denoiser, state.latents.device)
            yield _made(node, earlier, velocity, state, active, seconds, environment, job)
    return state


def _made(
    node: Node,
    before: SolverState,
    velocity: Tensor,
    state: SolverState,
    active: Sequence[Extension],
    seconds: float,
    environment: str,
    job: Job,
) -> NodeResult:
    kept, resume_at = _state_of(active, node.hints["index"] + 1)
    sigma, timestep = node.params["update"][0], node.params["timestep"]
    return NodeResult(
        node,
        {
            VELOCITY: {VELOCITY: velocity, **kept},
            "state": {**state.to_tensors(), **kept},
            "latents": {"latents": state.latents},
        },
        seconds,
        environment=environment,
        resume_at=resume_at,
        clean=lambda: clean_latents(node, before.latents, velocity),
        sigma=sigma,
        timestep=timestep,
        told=(
            StepFinished(
                step=node.hints["index"] + 1,
                total=job.num_steps,
                sigma=sigma,
                timestep=timestep,
                seconds=seconds,
                mean=float(state.latents.mean()),
                std=float(state.latents.std()),
                change=_change(before.latents, state.latents),
            ),
        ),
    )


def _state_after(job: Job, chain: Sequence[Node], scheduler: Scheduler) -> SolverState:
    if not chain:
        root = chain_of(job.nodes[0])[0].before
        return scheduler.start(first_latents(job, root))
    last = _replay(job, chain, scheduler)
    assert last is not None
    return last.state


def _replay(job: Job, chain: Sequence[Node], scheduler: Scheduler) -> Replayed | None:
    """The last step of a chain, replayed from what is stored. Raises Unfaithful."""
    root = chain[0].before
    last = None
    for step in replayed(chain, job.link, job.stored, scheduler, first_latents(job, root)):
        last = step
        job.check()
    if last is None or last.node is not chain[-1]:
        raise Unfaithful(chain[-1], f"{chain[-1].name} is not stored")
    return last


def _parts(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """The steps in groups that one `begin` of a denoiser serves: of one denoiser and extensions, and with no two
    conditions of one name."""
    part: list[Node] = []
    conditions: dict[str, Any] = {}
    for node in nodes:
        mine = {slot: ref.node for slot, ref in node.inputs.items() if isinstance(ref, Ref)}
        del mine["before"]
        is_other = part and (
            (node.part, node.extensions) != (part[0].part, part[0].extensions)
            or any(conditions.get(slot, given) is not given for slot, given in mine.items())
        )
        if is_other:
            yield part
            part, conditions = [], {}
        part.append(node)
        conditions |= mine
    yield part


def _branches(job: Job, nodes: Sequence[Node]) -> dict[str, dict[str, Tensor]]:
    """branch -> name of a condition -> its tensor, of all branches that any of the steps has."""
    found: dict[str, dict[str, Tensor]] = {}
    for node in nodes:
        for slot, ref in node.inputs.items():
            branch, _, name = slot.partition(".")
            if name and name not in found.get(branch, {}):
                (tensor,) = job.tensors(ref).values()
                found.setdefault(branch, {})[name] = tensor
    return found


def _check_finite(job: Job, state: SolverState, node: Node) -> None:
    if not bool(state.latents.isfinite().all()):
        place = f"step {state.step} of {node.hints['total']}"
        raise not_finite(job, node, f"latents are not finite at {place}")


def _change(before: Tensor, after: Tensor) -> float:
    """How far a step has moved the latents: ||after - before|| / ||before||."""
    return float(torch.dist(after, before) / torch.linalg.vector_norm(before))


# The state of extensions


def _instances(job: Job, node: Node, known: Instances) -> list[Extension]:
    """The extensions of a node; one that an earlier part had goes on, with its state."""
    found = []
    for place, spec in enumerate(node.extensions):
        key = (place, msgspec.json.encode(spec))
        if key not in known:
            known[key] = extensions.make(spec, job.facts(node))
        found.append(known[key])
    return found


def _begin_anew(job: Job, node: Node, active: Sequence[Extension]) -> None:
    """Without their state, those that do not go on from the step before."""
    for extension, identity in zip(_changing(active), node.active, strict=True):
        if isinstance(extension, Stateful) and not goes_on(job, node, identity):
            extension.restore({})


def goes_on(job: Job, node: Node, identity: Mapping[str, Any]) -> bool:
    """Whether an extension that is active at a step was so at the step before, on the same denoiser and with the same
    conditions: its state is that of the key of that step, else it begins anew."""
    before = node.before
    if identity not in before.active:
        return False
    mine, others = job.key_facts(node), job.key_facts(before)
    shared = (mine["inputs"].keys() & others["inputs"].keys()) - {"before"}
    return mine.get("on") == others.get("on") and all(
        mine["inputs"][slot] == others["inputs"][slot] for slot in shared
    )


def _changing(active: Sequence[Extension]) -> list[Extension]:
    return [extension for extension in active if not extension.exact]


def _state_of(active: Sequence[Extension], done: int) -> tuple[dict[str, Tensor], int | None]:
    """(what is kept of extensions beside a step, from which step on the rest of it is made again)."""
    kept: dict[str, Tensor] = {}
    begins = []
    for place, extension in enumerate(_changing(active)):
        if isinstance(extension, Stateful):
            named = extension.state().items()
            kept |= {f"{EXTENSION}{place}/{name}": tensor.clone() for name, tensor in named}
            begins.append(extension.resume_at())
    if not begins:
        return kept, None
    return kept, min([done, *(each for each in begins if each is not None)])


def _resume_at(job: Job, before: Sequence[Node]) -> int:
    """How many of the steps before a job are replayed; the rest are computed again for the state of extensions."""
    first = job.nodes[0]
    if not any(
        goes_on(job, first, identity) and hasattr(extensions.find(identity["name"]), "restore")
        for identity in first.active
    ):
        return len(before)
    link = job.link(before[-1])
    if link is None or link.resume_at is None:
        raise Unfaithful(before[-1], f"{before[-1].name} is stored without the state of extensions")
    return min(link.resume_at, len(before))


def _restore(job: Job, before: Sequence[Node], begin: int, instances: Instances) -> None:
    """Gives the extensions that go on from step `begin` what was kept of them there."""
    nodes = [*before, *job.nodes]
    if not 0 < begin < len(nodes):
        return
    node, following = nodes[begin - 1], nodes[begin]
    going = [each for each in following.active if goes_on(job, following, each)]
    if not any(hasattr(extensions.find(each["name"]), "restore") for each in going):
        return
    tensors = _kept_with(job, node)
    for spec, extension in zip(
        following.extensions, _instances(job, following, instances), strict=True
    ):
        identity = extensions.identity(spec, job.facts(following))
        if isinstance(extension, Stateful) and identity in going:
            extension.restore(extension_tensors(tensors, list(node.active).index(identity)))


def _kept_with(job: Job, node: Node) -> Mapping[str, Tensor]:
    link = job.link(node)
    for digest in (link.digest, link.state) if link is not None else ():
        if digest:
            try:
                return job.stored(digest)
            except (BlobMissing, BlobCorrupt):
                continue
    raise Unfaithful(node, f"{node.name} is stored without the state of extensions")


def _check_known(job: Job, node: Node, state: SolverState) -> None:
    link = job.link(node)
    if link is None or latents_digest(state.latents) != link.latents:
        raise Unfaithful(node, f"{node.name} does not come to the latents on record")
