"""A run as a graph of pure stages: nodes, what they are made from, and the keys of what they make. Torch-free.

A stage is one kind of work. A node is a stage with its inputs, its params and the component that it runs on; nothing
else says what a run is. Planner, executor and viewers all read the graph.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from store.keys import derive_key

if TYPE_CHECKING:
    from presets.spec.sampling import ExtensionSpec

Plain = Any
"""None, bool, int, float, str, and lists and dicts of these."""

Identity = Mapping[str, Plain]
"""What a component's or an extension's numbers depend on."""

BEFORE = "before."


@dataclass(frozen=True)
class Stage:
    """One kind of work; pure.

    name, version: enter every key; the version goes up with every change of code that changes numbers.
    run: "module:function", imported when something is to be computed (see `engine.execution.jobs.Job`).
    outputs: what a link of it names, the result first. transient: outputs that nobody stores.
    derived: outputs that are cheap to have again, and from what: own outputs, or "before.X", the output X of the node
    that is its input `before`. derive: "module:function" that does it.
    component: the kind of component that it runs on, "" for none.
    keep: what a clean-up makes of its results: `small` ones stay, of a `chain` those that save least go first,
    `output` is what a run was made for, a `cache` goes before all.
    title: what its work is called in events and on screens; its name where empty. A stage that nobody computes,
    because all of its outputs are derived from nothing, is not told of.
    """

    name: str
    version: int
    run: str
    outputs: tuple[str, ...]
    transient: tuple[str, ...] = ()
    derived: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    derive: str = ""
    component: str = ""
    keep: Literal["small", "chain", "output", "cache"] = "small"
    title: str = ""

    @property
    def told(self) -> str:
        return self.title or self.name

    @property
    def is_free(self) -> bool:
        """Whether every output can be had from nothing, so that there is nothing to store."""
        return all(self.derived.get(output) == () for output in self.outputs)


@dataclass(frozen=True, eq=False)
class Given:
    """A leaf: bytes that somebody gave, such as a prompt in UTF-8."""

    data: bytes


@dataclass(frozen=True, eq=False)
class Ref:
    """An output of a node, by its content (its digest enters the key) or by the key of the node: what a chain goes on
    from need not be known as bytes."""

    node: Node
    output: str
    by: Literal["content", "key"] = "content"


@dataclass(frozen=True, eq=False)
class Node:
    """name: for people. params: what changes numbers, neutral values left out. part: the spec of the component, with
    where it runs. hints: what the work needs to know and no number depends on.
    extensions: all that wrap it, in order; active: the identities of those that change its numbers."""

    name: str
    stage: Stage
    inputs: Mapping[str, Given | Ref]
    params: Mapping[str, Plain]
    part: Any = None
    hints: Mapping[str, Plain] = field(default_factory=dict)
    extensions: tuple[ExtensionSpec, ...] = ()
    active: tuple[Identity, ...] = ()

    def refs(self) -> Iterator[Ref]:
        return (given for given in self.inputs.values() if isinstance(given, Ref))

    @property
    def before(self) -> Node:
        """The node that it goes on from. Raises KeyError where it has none."""
        ref = self.inputs["before"]
        assert isinstance(ref, Ref)
        return ref.node


Targets = Mapping[str, Ref]
"""What is asked for, by name: {"video": Ref(...), "latents": Ref(...)}."""


def facts_of(node: Node, names: Mapping[str, str], on: Identity | None) -> dict[str, Plain]:
    """The whole value that the key of a node is derived from.

    names: slot -> the digest of that input, or for one by key `output/key`. on: the identity of its component.
    """
    facts: dict[str, Plain] = {
        "version": node.stage.version,
        "params": dict(node.params),
        "inputs": dict(names),
    }
    if on:
        facts["on"] = dict(on)
    if node.active:
        facts["with"] = [dict(identity) for identity in node.active]
    return facts


def key_of(node: Node, names: Mapping[str, str], on: Identity | None) -> str:
    """The key of what a node makes; arguments as of `facts_of`."""
    return derive_key(node.stage.name, facts_of(node, names, on))


def structures(order: Sequence[Node]) -> dict[Node, str]:
    """A name for each node that is the same for nodes, also of other graphs, that make the same of the same; unlike a
    key it asks for nothing that is not known yet. order: with the inputs of each before it."""
    names: dict[Node, str] = {}
    parts: dict[int, Plain] = {}
    for node in order:
        if id(node.part) not in parts:
            parts[id(node.part)] = msgspec.to_builtins(node.part)
        inputs = {
            slot: value.data.hex()
            if isinstance(value, Given)
            else f"{value.output}/{names[value.node]}"
            for slot, value in node.inputs.items()
        }
        facts = {**facts_of(node, inputs, None), "part": parts[id(node.part)]}
        names[node] = derive_key(node.stage.name, facts)
    return names


def encode_facts(facts: Mapping[str, Plain]) -> str:
    """The facts of a key as JSON, for people who ask what a key was derived from."""
    return json.dumps(facts, sort_keys=True, ensure_ascii=False)


def ordered(targets: Sequence[Ref]) -> list[Node]:
    """Every node that the targets are made from, inputs first; a chain and what follows it after all else, so that
    nothing has to be encoded between two of its steps."""
    found: dict[Node, bool] = {}  # -> whether it is of a chain or follows one
    waiting: list[tuple[Node, bool]] = [(ref.node, False) for ref in reversed(targets)]
    while waiting:
        node, is_open = waiting.pop()
        if node in found:
            continue
        if is_open:
            found[node] = node.stage.keep == "chain" or any(found[ref.node] for ref in node.refs())
            continue
        waiting.append((node, True))
        waiting += [(ref.node, False) for ref in reversed(list(node.refs()))]
    first = [node for node, is_late in found.items() if not is_late]
    return first + [node for node, is_late in found.items() if is_late]
