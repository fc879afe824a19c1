"""What of a graph is stored, what is to be computed and what nobody needs. Torch-free.

One rule decides it for reuse, replay, resume, branching, sweeps and runs that stop early alike: an output is there if
it is stored, or derivable from what is there; otherwise its node is computed, and the same is asked of its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.chain import legacy
from engine.components.protocols import Description
from engine.graph import BEFORE, Given, Identity, Node, Plain, Ref, Targets, facts_of, ordered
from engine.results import Known
from store.blobs.blobs import digest_of
from store.keys import derive_key
from store.lineage.records import LinkRecord

State = Literal["stored", "derive", "compute", "skip"]
Describe = Callable[[str, Any], Description]

# output -> the column of a link that names its bytes; that of the first output, the result, is its digest
_COLUMNS = {"state": "state", "latents": "latents"}
_CHAIN = "chain"


@dataclass(frozen=True)
class Plan:
    """order: every node, inputs first. keys, facts: of the nodes whose inputs are known by name. links: what is on
    record for them. there: outputs that need not be computed, and how they are had. states: what is to be done about
    each node."""

    targets: Targets
    order: tuple[Node, ...]
    keys: Mapping[Node, str]
    facts: Mapping[Node, Mapping[str, Plain]]
    links: Mapping[Node, LinkRecord]
    there: Mapping[tuple[Node, str], State]
    states: Mapping[Node, State]

    def job(self, title: str = "") -> tuple[Node, ...]:
        """The next node to compute; of a chain, all that follow it as far as their keys are known. Empty where there
        is nothing left to do. title: of the stage that is to go first, where it can."""
        computed = [node for node in self.order if self.states[node] == "compute"]
        waiting = iter(computed)
        first = next(waiting, None)
        if first is None:
            return ()
        if title and first.stage.told != title:
            of_stage = (node for node in computed if node.stage.told == title)
            ready = (
                node
                for node in of_stage
                if all(self.states[ref.node] != "compute" for ref in node.refs())
            )
            first = next(ready, first)
        found = [first]
        if first.stage.keep == _CHAIN:
            for node in waiting:
                if node.stage is not first.stage or node not in self.keys:
                    break
                found.append(node)
        return tuple(found)

    def nodes(self, title: str) -> list[Node]:
        """The nodes of a stage, or of several that are told as one."""
        return [node for node in self.order if node.stage.told == title]

    @property
    def titles(self) -> tuple[str, ...]:
        """The stages that are told of, in order."""
        told = (node.stage.told for node in self.order if not node.stage.is_free)
        return tuple(dict.fromkeys(told))

    def state(self, title: str) -> State:
        """What a stage is about: to `compute` something, or all `stored`, or to `skip`. The steps of a run are
        never skipped: what they led to is stored."""
        nodes = self.nodes(title)
        states = {self.states[node] for node in nodes}
        if "compute" in states:
            return "compute"
        is_chain = any(node.stage.keep == _CHAIN for node in nodes)
        return "stored" if is_chain or states & {"stored", "derive"} else "skip"

    @property
    def chain(self) -> tuple[Node, ...]:
        """The steps, from the first on."""
        return tuple(node for node in self.order if node.stage.keep == _CHAIN)

    @property
    def num_stored_steps(self) -> int:
        """How many steps need not be computed."""
        return sum(self.states[node] != "compute" for node in self.chain)

    @property
    def latent_bytes(self) -> int:
        """What one fp32 latent takes, and so the journal entry of a step; 0 where the run has none."""
        shapes = (node.params["shape"] for node in self.order if "shape" in node.params)
        return 4 * math.prod(next(shapes, [0]))

    @property
    def parts(self) -> list[tuple[str, Any]]:
        """Kind and spec of every component that something is to be computed on."""
        found = {
            (node.stage.component, id(node.part)): node.part
            for node in self.order
            if self.states[node] == "compute" and node.part is not None
        }
        return [(kind, part) for (kind, _), part in found.items()]

    @property
    def needs(self) -> dict[str, Any]:
        """kind -> spec of the components to load, in the order of use; the first of a kind."""
        found: dict[str, Any] = {}
        for node in self.order:
            if self.states[node] == "compute" and not node.stage.is_free:
                found.setdefault(node.stage.component, node.part)
        found.pop("", None)
        return found


def make_plan(
    known: Known,
    targets: Targets,
    describe: Describe,
    *,
    distrusted: Collection[str] = (),
    held: Collection[tuple[Node, str]] = (),
) -> Plan:
    """The plan of a graph. distrusted: keys whose results on record do not hold on this machine. held: outputs that
    are in memory. Raises what `describe` raises."""
    order = ordered(list(targets.values()))
    keys, facts, links = _looked_up(known, order, describe, distrusted)
    there = _there(known, order, links, held)
    states = _states(targets, order, there, held)
    return Plan(targets, tuple(order), keys, facts, links, there, states)


def name_of(ref: Ref, keys: Mapping[Node, str], links: Mapping[Node, LinkRecord]) -> str:
    """What an input is called in a key; "" where that is not known yet."""
    if ref.by == "key":
        return f"{ref.output}/{keys[ref.node]}" if ref.node in keys else ""
    return digest_in(links.get(ref.node), ref.node, ref.output)


def digest_in(link: LinkRecord | None, node: Node, output: str) -> str:
    """The digest of an output by the link of its node; "" where the link does not tell it."""
    if link is None or output not in node.stage.outputs:
        return ""
    column = "digest" if output == node.stage.outputs[0] else _COLUMNS[output]
    digest: str = getattr(link, column)
    return digest


def _looked_up(
    known: Known, order: Sequence[Node], describe: Describe, distrusted: Collection[str]
) -> tuple[dict[Node, str], dict[Node, dict[str, Plain]], dict[Node, LinkRecord]]:
    """Keys, facts and links, in rounds: a link names what later keys are made from."""
    keys: dict[Node, str] = {}
    facts: dict[Node, dict[str, Plain]] = {}
    links: dict[Node, LinkRecord] = {}
    given = {
        value: digest_of(value.data)
        for node in order
        for value in node.inputs.values()
        if isinstance(value, Given)
    }
    identities: dict[tuple[str, int], Identity] = {}
    waiting = list(order)
    while waiting:
        fresh = []
        for node in waiting:
            names = {
                slot: given[value] if isinstance(value, Given) else name_of(value, keys, links)
                for slot, value in node.inputs.items()
            }
            if not all(names.values()):
                continue
            on = None
            if node.part is not None:
                place = (node.stage.component, id(node.part))
                if place not in identities:
                    identities[place] = describe(node.stage.component, node.part).identity
                on = identities[place]
            facts[node] = facts_of(node, names, on)
            keys[node] = derive_key(node.stage.name, facts[node])
            fresh.append(node)
        if not fresh:
            break
        found = known.find([keys[node] for node in fresh])
        links |= {node: found[keys[node]] for node in fresh if keys[node] in found}
        links |= legacy.adopted(known, fresh, keys, facts, links)
        for node in fresh:
            if keys[node] in distrusted:
                links.pop(node, None)
        waiting = [node for node in waiting if node not in keys]
    return keys, facts, links


def _there(
    known: Known,
    order: Sequence[Node],
    links: Mapping[Node, LinkRecord],
    held: Collection[tuple[Node, str]],
) -> dict[tuple[Node, str], State]:
    """What can be had without computing, and how."""
    there: dict[tuple[Node, str], State] = {
        (node, output): "stored"
        for node in order
        for output in node.stage.outputs
        if known.has(digest_in(links.get(node), node, output))
    }
    there |= dict.fromkeys(held, "stored")
    for node in order:
        for output, needs in node.stage.derived.items():
            if (node, output) in there or not (node in links or not needs):
                continue
            if all(_source(node, need) in there for need in needs):
                there[node, output] = "derive"
    return there


def _states(
    targets: Targets,
    order: Sequence[Node],
    there: Mapping[tuple[Node, str], State],
    held: Collection[tuple[Node, str]],
) -> dict[Node, State]:
    states: dict[Node, State] = dict.fromkeys(order, "skip")
    waiting = [(ref.node, ref.output) for ref in targets.values()]
    waiting = [place for place in waiting if place not in held]
    asked: set[tuple[Node, str]] = set()
    while waiting:
        place = waiting.pop()
        if place in asked:
            continue
        asked.add(place)
        node, output = place
        how = there.get(place, "compute")
        if _RANK[how] > _RANK[states[node]]:
            states[node] = how
        if how == "derive":
            waiting += [_source(node, need) for need in node.stage.derived[output]]
        elif how == "compute":
            waiting += [(ref.node, ref.output) for ref in node.refs()]
    return states


_RANK: dict[State, int] = {"skip": 0, "derive": 1, "stored": 2, "compute": 3}


def _source(node: Node, need: str) -> tuple[Node, str]:
    if need.startswith(BEFORE):
        return node.before, need.removeprefix(BEFORE)
    return node, need
