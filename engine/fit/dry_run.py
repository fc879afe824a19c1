"""What each stage of a plan takes in memory, told before anything is loaded: its very code runs on tensors without
numbers. Remembered in the store's index, so that only the first time costs a second or two. Torch-free to import."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from engine.components import registry
from engine.components.protocols import Description
from engine.errors import EngineError
from engine.fit.work import Brought, Memory, Use, Work, latents_shape
from engine.graph import Node, Plain, Ref
from store.keys import canonical, derive_key

if TYPE_CHECKING:
    from engine.plan import Plan
    from store.index.index import Index
    from store.store import Store

Describe = Callable[[str, Any], Description]

Facts = Mapping[str, Plain]

_PREFIX = "memory/"
_OF_STAGE = "memory/stage/"
# what a run begins from or is called, which changes no size
_OF_NO_SIZE = ("seed", "noise", "pixels", "file", "timestep", "update", "at")


def memory_of(store: Store, plan: Plan) -> Memory:
    """What is to be computed of a plan, its models here or published. Prompts count as the longest that there are.

    Nothing is loaded or queued. Raises as `plan` does, and EngineError for a stage that does not run on its device.
    """
    from engine.components.descriptions import Descriptions
    from engine.components.unseen import Published
    from store.index.index import open_index

    with open_index(store.root) as index:
        describe = Published(Descriptions(index))
        works, uncounted = works_of(plan, describe, index)
        uses = uses_in(works, index, here())
        return Memory(uses, uncounted, tuple(_brought(works, uses)))


def device_of(stage: str, uses: Sequence[Use]) -> str:
    """Where the component of a stage is: the device of most of its weights."""
    return max(
        (use for use in uses if use.stage == stage), key=lambda use: use.weights_bytes
    ).device


def _brought(works: Sequence[Work], uses: Sequence[Use]) -> Iterator[Brought]:
    """Of each component, in the order of their stages."""
    first = dict[str, Work]()
    for work in works:
        first.setdefault(work.kind, work)
    for kind, work in first.items():
        device = device_of(work.stage, uses)
        held = work.about.on(device.partition(":")[0])
        yield Brought(kind, device, _file_bytes(work), held.moved_bytes)


def _file_bytes(work: Work) -> int:
    """Of the files of a component or, where they are not here, of those that are published. Raises CheckpointError
    where one went away after it was described."""
    from engine.checkpoints.formats.reading import facts_at
    from engine.checkpoints.known import catalogue

    if work.about.files:
        return sum(facts_at(path).size for path in work.about.files)
    model = catalogue.model(work.part.checkpoint, work.kind)
    if model is None:
        return 0
    return model.releases[0].num_bytes or model.releases[0].about_bytes or 0


def uses_in(works: Sequence[Work], index: Index, here: Facts) -> tuple[Use, ...]:
    """What these take one after another, remembered or found out. here: as of `here`. Raises EngineError as
    `uses_of`."""
    key = _PREFIX + derive_key("memory", {"works": [*map(_facts, works)], **here})
    known = index.get(key)
    if known is not None:
        return msgspec.json.decode(known, type=tuple[Use, ...])
    from engine.fit.stages import uses_of

    uses = tuple(uses_of(works))
    index.put(key, msgspec.json.encode(uses))
    for stage, place in _stage_places(works, here).items():
        index.put(place, msgspec.json.encode([use for use in uses if use.stage == stage]))
    return uses


def remembered(plan: Plan, describe: Describe, index: Index) -> Memory:
    """What `memory_of` has told before of the stages that a plan computes, as far as it has, for this plan or another:
    nothing is computed for it, so that it is of use beside a run. Never raises."""
    with suppress(EngineError, OSError, msgspec.MsgspecError):
        works, _ = works_of(plan, describe, index)
        known = map(index.get, _stage_places(works, here()).values())
        uses = (msgspec.json.decode(each, type=tuple[Use, ...]) for each in known if each)
        return Memory(tuple(chain.from_iterable(uses)))
    return Memory(())


def work_bytes(memory: Memory) -> dict[str, int]:
    """stage -> what it takes on a device of its component beside all weights."""
    found: dict[str, int] = {}
    for use in memory.uses:
        if use.weights_bytes:
            own = use.peak_bytes - use.weights_bytes - use.kept_bytes
            found[use.stage] = max(found.get(use.stage, 0), own)
    return found


def _stage_places(works: Sequence[Work], here: Facts) -> dict[str, str]:
    """Where in the index it is remembered what a stage of these takes, by stage."""
    facts: dict[str, list[Plain]] = {}
    for work in works:
        facts.setdefault(work.stage, []).append(_facts(work))
    return {
        stage: _OF_STAGE + derive_key("memory", {"works": of_stage, **here})
        for stage, of_stage in facts.items()
    }


def works_of(
    plan: Plan, describe: Describe, index: Index
) -> tuple[tuple[Work, ...], tuple[str, ...]]:
    """(what is to be computed on components of ours, in order; a line for each stage that is on others)."""
    works: list[Work] = []
    uncounted: dict[str, None] = {}
    for nodes in _alike(plan):
        node = nodes[0]
        kind, part = node.stage.component, node.part
        reason = _why_uncounted(node)
        if reason:
            uncounted[f"{node.stage.told}: {reason}"] = None
            continue
        works.append(Work(nodes, describe(kind, part), tuple(_pictures(node, index))))
    return tuple(works), tuple(uncounted)


def _alike(plan: Plan) -> Iterator[tuple[Node, ...]]:
    """Of all nodes that are computed and take the same memory, one, in order; of steps the one with the longest
    history and, where extensions may keep something from step to step, the next."""
    groups: dict[bytes, list[Node]] = {}
    for node in plan.order:
        if plan.states[node] == "compute" and node.stage.component:
            groups.setdefault(canonical([node.stage.name, _node_facts(node)]), []).append(node)
    for nodes in groups.values():
        if nodes[0].stage.keep != "chain":
            yield (nodes[0],)
            continue
        longest = max(node.before.hints.get("history", 0) for node in nodes)
        first = next(
            i for i, node in enumerate(nodes) if node.before.hints.get("history", 0) == longest
        )
        following = nodes[first + 1 : first + 2] if nodes[first].extensions else []
        yield (nodes[first], *following)


def _why_uncounted(node: Node) -> str:
    kind, part = node.stage.component, node.part
    if not registry.reads_weights(kind, part.name):
        return f"{part.name} runs elsewhere, or is not ours"
    return ""


def _pictures(node: Node, index: Index) -> Iterator[tuple[int, int]]:
    from engine.inputs.settle import picture_facts

    for ref in node.refs():
        hints = ref.node.hints
        if "background" in hints:
            path, key = Path(hints["path"]), f"{hints['setting']}.path"
            facts = picture_facts(path, hints["background"], index, key=key)
            yield facts.width, facts.height


def _facts(work: Work) -> dict[str, Plain]:
    about, node = work.about, work.nodes[0]
    return {
        "history": node.before.hints.get("history", 0) if "before" in node.inputs else 0,
        "nodes": [_node_facts(node) for node in work.nodes],
        "stage": node.stage.name,
        "identity": dict(about.identity),
        "resident": about.resident,
        "bytes": about.num_bytes,
        "pictures": [list(size) for size in work.pictures],
    }


def _node_facts(node: Node) -> dict[str, Plain]:
    """All that the memory of a node depends on, beside the files of its component."""
    facts: dict[str, Plain] = {
        "params": {name: value for name, value in node.params.items() if name not in _OF_NO_SIZE},
        "part": msgspec.to_builtins(node.part),
        "slots": sorted(node.inputs),
        "extensions": msgspec.to_builtins(node.extensions),
        "active": [dict(identity) for identity in node.active],
        "size": [node.hints.get(name, 0) for name in ("height", "width")],
    }
    if "guidance" in node.params:
        # of a scale only whether there is guidance counts
        facts["params"]["guidance"] = node.params["guidance"] != 1
        facts["is_noisy"] = "noise" in node.params
        facts["latents"] = latents_shape(node)
    elif "latents" in node.inputs:
        facts["latents"] = latents_shape(_of(node, "latents"))
    return facts


def _of(node: Node, slot: str) -> Node:
    ref = node.inputs[slot]
    assert isinstance(ref, Ref)
    return ref.node


def here() -> Facts:
    """What the answer depends on beside the run: the code, and what this machine has."""
    import psutil

    from engine.process.version import installed_version

    return {
        "code": installed_version(),
        "torch": version("torch"),
        "memory": psutil.virtual_memory().total,
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }
