"""The stages of a run on tensors without numbers, one after another, and what each of them takes."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.chain.rebuild import chain_of, scheduler_of, solved
from engine.components.memory.halves import copies, joined
from engine.components.memory.residents import budget_of
from engine.components.memory.room import leaving
from engine.dtypes import torch_device, torch_dtype
from engine.errors import ComponentError, EngineError
from engine.extensions import registry as extensions
from engine.fit import hollow, weightless
from engine.fit.alike import repeated
from engine.fit.count import Counting, Elsewhere
from engine.fit.hollow import Hollow
from engine.fit.weightless import NUM_TOKENS, built, component, weights_of
from engine.fit.work import Use, Work, latents_shape
from engine.graph import Given, Node, Ref
from engine.models.diffusion.wandit import rope_table
from engine.schedulers.scheduler import SolverState
from engine.stages.denoise import velocity_at
from store.keys import canonical

# The third chunk takes what every later one takes: the chunk before it is as long as any. With tiles it is that of the
# first tile, and all chunks of whole frames come before.
_LAST_CHUNK = 3


# Settings that make two of one model.
_HELD_BY = ("dtype", "quantise", "unpack", "activations", "resident_blocks")


@dataclass
class _Held:
    kind: str
    device: torch.device
    num_bytes: int
    model: nn.Module
    uses: int = 0


class _Enough(Exception):
    """The rest of a stage takes no more than what has run of it."""


def uses_of(
    works: Sequence[Work],
    *,
    build: Callable[[str, Any], nn.Module] = built,
    fake: AbstractContextManager[Any] | None = None,
) -> list[Use]:
    """What each of these takes, in their order, with the components that stay loaded between them.

    build: as `built`. fake: the mode in which tensors hold nothing; a `nullcontext` computes with numbers, and comes to
    the same bytes. Raises EngineError for a stage that does not run on its device. Not beside a run in this process:
    what models remember of sizes is forgotten.
    """
    held: OrderedDict[bytes, _Held] = OrderedDict()
    fake, counting = Hollow() if fake is None else fake, Counting()
    rope_table.cache_clear()
    try:
        found = [use for work in works for use in _uses(work, held, build, fake, counting)]
    finally:
        # its tables hold no numbers
        rope_table.cache_clear()
    return list(_highest(found))


def _uses(
    work: Work,
    held: OrderedDict[bytes, _Held],
    build: Callable[[str, Any], nn.Module],
    fake: AbstractContextManager[Any],
    counting: Counting,
) -> Iterator[Use]:
    parts = copies(work.part)
    with ExitStack() as stack:
        taken = [
            stack.enter_context(_taken(work, part, held, build, fake, counting)) for part in parts
        ]
        yield from _computed(work, taken, held, fake, counting)


def _computed(
    work: Work,
    taken: Sequence[_Held],
    held: OrderedDict[bytes, _Held],
    fake: AbstractContextManager[Any],
    counting: Counting,
) -> Iterator[Use]:
    """What a work takes with copies of its component that are in use."""
    parts = copies(work.part)
    labels = dict(_device(part.device) for part in parts)
    models = {id(each.model): each.model for each in taken}
    run = _imported(work)
    counting.begin()
    # on the CPU torch takes the kernel that it takes for numbers
    # extensions may keep something of each block, and change from one to the next
    is_repeated = isinstance(fake, Hollow) and not work.nodes[0].extensions
    is_tiled = getattr(work.part, "tile_size", 0) > 0
    elsewhere = Elsewhere() if any(device.type != "cpu" for device in labels) else nullcontext()
    with ExitStack() as stack:
        for context in (torch.no_grad(), fake, elsewhere, counting):
            stack.enter_context(context)
        for model in models.values():
            stack.enter_context(counting.named(model))
            if is_repeated:
                stack.enter_context(repeated(model, counting, is_tiled=is_tiled))
        on = [
            component(each.model, work.kind, part, each.device)
            for each, part in zip(taken, parts, strict=True)
        ]
        try:
            # a mode is one thread's own
            computed(work, run, joined(on, in_turn=True), taken[0].device)
        except (RuntimeError, NotImplementedError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise EngineError(
                f"what {work.stage} takes cannot be told, since it does not run on "
                f"{' and '.join(labels.values())} ({reason}); `modiff doctor` lists what does"
            ) from error
    mine, others = _weights(held, models), _weights(held, models, others=True)
    for device in labels:
        own = counting.peaks[device].num_bytes - mine.get(device, 0) - others.get(device, 0)
        for gone in leaving(held, "", device, own, _budget(device)):
            del held[gone]
    kept = _weights(held, models, others=True)
    for where, peak in counting.peaks.items():
        yield Use(
            stage=work.stage,
            device=labels.get(where, str(where)),
            peak_bytes=peak.num_bytes - others.get(where, 0) + kept.get(where, 0),
            weights_bytes=mine.get(where, 0),
            kept_bytes=kept.get(where, 0),
            operation=peak.operation,
            module=peak.module,
        )


def _weights(
    held: Mapping[bytes, _Held], models: Mapping[int, nn.Module], *, others: bool = False
) -> dict[torch.device, int]:
    """The bytes of the weights of these models, by device, with the slots that some come into; or of all others that
    are held."""
    found: dict[torch.device, int] = {}
    for each in held.values():
        if (id(each.model) in models) is not others:
            swap = getattr(each.model, "swap", None)
            slots = [] if swap is None else [(slot.device, slot.nbytes) for slot in swap.slots]
            for device, num_bytes in [*weights_of(each.model).items(), *slots]:
                found[device] = found.get(device, 0) + num_bytes
    return found


@contextmanager
def _taken(
    work: Work,
    part: Any,
    held: OrderedDict[bytes, _Held],
    build: Callable[[str, Any], nn.Module],
    fake: AbstractContextManager[Any],
    counting: Counting,
) -> Iterator[_Held]:
    """A copy of a work's component as `Residents.use` has it: what is idle makes room for it."""
    device, _ = _device(part.device)
    how = [getattr(part, name, "") for name in _HELD_BY]
    facts = [dict(work.about.identity), work.about.resident, str(device), *how]
    place = canonical([work.kind, *facts])
    num_bytes = work.about.on(device.type).num_bytes
    if place not in held:
        for gone in leaving(held, work.kind, device, num_bytes, _budget(device)):
            del held[gone]
        model = weightless.held(build(work.kind, part), work.kind, part, device)
        empty = hollow.empty if isinstance(fake, Hollow) else torch.empty_strided
        with fake, counting:
            weightless.placed(model, part, device, empty)
        counting.include(model.parameters())
        held[place] = _Held(work.kind, device, num_bytes, model)
    held.move_to_end(place)
    held[place].uses += 1
    try:
        yield held[place]
    finally:
        held[place].uses -= 1


def _imported(work: Work) -> Callable[[Any], Iterator[Any]]:
    """The function of a work's stage. All that it needs is imported before tensors hold nothing, or the tables of its
    modules would hold nothing either, for good."""
    node = work.nodes[0]
    for spec in node.extensions:
        extensions.find(spec.name)
    module, _, name = node.stage.run.partition(":")
    found: Callable[[Any], Iterator[Any]] = getattr(importlib.import_module(module), name)
    return found


def computed(
    work: Work, run: Callable[[Any], Iterator[Any]], on: Any, device: torch.device
) -> None:
    """Computes as much of a work as tells its peak. run: what computes its stage. on: its component."""
    node = work.nodes[0]
    job = _Job(node, on, work.pictures)
    if node.stage.keep == "chain":
        _steps(work, job, on, device)
    elif node.stage.name == "clip":
        # its file is not read: what the VAE is given has the size of the run
        height, width = node.params["size"]
        on.encode_parts(
            lambda start, stop: torch.full((1, 3, stop - start, height, width), 0.5),
            (1, 3, node.params["frames"], height, width),
        )
    else:
        with suppress(_Enough):
            for _ in run(job):
                pass


class _Job:
    """As much of `engine.execution.jobs.Job` as stages ask for: inputs of the right size, which hold nothing."""

    def __init__(self, node: Node, on: Any, pictures: Sequence[tuple[int, int]]) -> None:
        self.nodes = (node,)
        self._on = on
        self._pictures = iter(pictures)

    def data(self, given: Given | Ref) -> bytes:
        return b""

    def tensors(self, given: Given | Ref) -> Mapping[str, Tensor]:
        assert isinstance(given, Ref)
        return {given.output: self._tensor(given.node)}

    def digest(self, ref: Ref) -> str:
        return ""

    def wanted(self, node: Node) -> frozenset[str]:
        return frozenset()

    @contextmanager
    def component(self, node: Node) -> Iterator[Any]:
        yield self._on

    def tell(self, event: Any) -> None:
        total = getattr(event, "total", 0)
        chunks = self._num_chunks()
        before = chunks if total > chunks else 0
        if total and event.chunk >= before + _LAST_CHUNK:
            raise _Enough

    def check(self) -> None:
        pass

    def _num_chunks(self) -> int:
        (node,) = self.nodes
        ref = node.inputs["latents"]
        assert isinstance(ref, Ref)
        frames = latents_shape(ref.node)[2]
        return -(-frames // (node.part.chunk_frames or frames))

    def _tensor(self, node: Node) -> Tensor:
        name = node.stage.name
        if name == "picture":
            width, height = next(self._pictures)
            return torch.empty(height, width, 3, dtype=torch.uint8)
        return torch.empty(latents_shape(node))


def _steps(work: Work, job: _Job, denoiser: Any, device: torch.device) -> None:
    """One step or two as the loop takes them, from the state that the one before would leave."""
    first = work.nodes[0]
    scheduler = scheduler_of(chain_of(work.nodes[-1]))
    index = first.hints["index"]
    shape = latents_shape(first)
    history = tuple(
        torch.empty(shape, device=device) for _ in range(first.before.hints.get("history", 0))
    )
    state = SolverState(torch.empty(shape, device=device), index, history)
    del history
    facts = dict(work.about.facts)
    wrapping = [extensions.make(spec, facts) for spec in first.extensions]
    with denoiser.begin(_branches(first, facts), wrapping) as predict:
        for node in work.nodes:
            active = [
                each
                for each in wrapping
                if each.is_active(node.hints["index"], node.hints["total"])
            ]
            velocity = velocity_at(predict, node, state.latents, active)
            state = solved(scheduler, node, state, velocity, active)
            bool(state.latents.isfinite().all())


def _branches(step: Node, facts: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """branch -> name of a condition -> its tensor, of the size that it has in the store."""
    found: dict[str, dict[str, Tensor]] = {}
    for slot, ref in step.inputs.items():
        branch, _, name = slot.partition(".")
        if not name:
            continue
        assert isinstance(ref, Ref)
        made = {each: condition for other in found.values() for each, condition in other.items()}
        if name == "text" or name not in made:
            made[name] = _condition(name, ref.node, step, facts)
        found.setdefault(branch, {})[name] = made[name]
    return found


def _condition(name: str, made_by: Node, step: Node, facts: Mapping[str, Any]) -> Tensor:
    if name == "latents":
        return torch.empty(facts["given_channels"], *latents_shape(step)[2:])
    dtype = torch_dtype(getattr(made_by.part, "dtype", "fp32"))
    if name == "image":
        return torch.empty(257 * len(made_by.inputs), facts["image_dim"], dtype=dtype)
    return torch.empty(NUM_TOKENS, facts["text_dim"], dtype=dtype)


def _device(name: str) -> tuple[torch.device, str]:
    """(where fake tensors are put for a device, what it is called): also for one that is not here. Apple's GPU stands
    in as a card of CUDA that no machine has, because torch computes no fake tensors there without it."""
    try:
        device = torch_device(name)
    except ComponentError:
        device = torch.device(name)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        return device, str(device)
    return (torch.device("cuda", 127), "mps") if device.type == "mps" else (device, device.type)


def _budget(device: torch.device) -> float:
    """What components may take of a device; of one that is not here all that they ask for."""
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        return float("inf")
    return budget_of(device, {})


def _highest(uses: Sequence[Use]) -> Iterator[Use]:
    """One for each stage and device."""
    found: dict[tuple[str, str], Use] = {}
    for use in uses:
        place = (use.stage, use.device)
        if place not in found or use.peak_bytes > found[place].peak_bytes:
            found[place] = use
    yield from found.values()
