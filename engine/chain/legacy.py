"""Results that were stored before a run was a graph, found under the keys of that time. Torch-free.

A row that is found so is used as it is; whoever records its reuse writes it under the new key. To be removed at the
end of 2027.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.graph import Given, Node, Plain, encode_facts
from store.keys import derive_key
from store.lineage.records import LinkRecord

if TYPE_CHECKING:
    from engine.results import Known

Facts = Mapping[Node, Mapping[str, Plain]]

# The settings of a component that every key held, whether or not they were neutral.
_SETTINGS = {
    "text_encoder": ("umt5", ("name", "dtype")),
    "denoiser": ("wan-dit", ("name", "dtype", "attention")),
}


def adopted(
    records: Known,
    nodes: Sequence[Node],
    keys: Mapping[Node, str],
    facts: Facts,
    links: Mapping[Node, LinkRecord],
) -> dict[Node, LinkRecord]:
    """The links of those of `nodes` that have none under their key but one under their old one, with the new key."""
    absent = [node for node in nodes if node not in links and node.stage.name in _OLD]
    old: dict[Node, str] = {}
    # of a chain one is tried first: where it is not there, what follows it is not either
    chain = [node for node in absent if node.stage.keep == "chain"]
    tried = [node for node in absent if node.stage.keep != "chain"] + chain[:1]
    found = _found(records, tried, keys, facts, old)
    if chain and chain[0] in found:
        found |= _found(records, chain[1:], keys, facts, old)
    return found


def _found(
    records: Known,
    nodes: Sequence[Node],
    keys: Mapping[Node, str],
    facts: Facts,
    old: dict[Node, str],
) -> dict[Node, LinkRecord]:
    wanted = {node: _old_key(node, facts, old) for node in nodes}
    rows = records.find([key for key in wanted.values() if key])
    return {
        node: replace(rows[key], key=keys[node], facts=encode_facts(facts[node]))
        for node, key in wanted.items()
        if key in rows
    }


def _old_key(node: Node, facts: Facts, known: dict[Node, str]) -> str:
    """The key that a node had; "" for one that could not be asked for then."""
    chain = []
    at = node
    while at not in known and "before" in at.inputs:
        chain.append(at)
        at = at.before
    for each in [at, *reversed(chain)]:
        if each not in known:
            make = _OLD.get(each.stage.name)
            value = make(each, facts, known) if make is not None and each in facts else None
            known[each] = "" if value is None else derive_key(each.stage.name, value)
    return known[node]


def _text(node: Node, facts: Facts, known: Mapping[Node, str]) -> dict[str, Plain] | None:
    prompt, encoder = node.inputs["prompt"], _identity(node, facts)
    if encoder is None or not isinstance(prompt, Given):
        return None
    return {"version": 1, "encoder": encoder, "prompt": prompt.data.decode()}


def _noise(node: Node, facts: Facts, known: Mapping[Node, str]) -> dict[str, Plain] | None:
    return {"version": 1, **node.params}


def _step(node: Node, facts: Facts, known: Mapping[Node, str]) -> dict[str, Plain] | None:
    denoiser, names = _identity(node, facts), facts[node]["inputs"]
    parent = known.get(node.before, "")
    is_new = set(node.params) != {"timestep", "update", "guidance"} or node.active
    slots = [slot for slot in ("positive.text", "negative.text") if slot in names]
    if denoiser is None or not parent or is_new or len(slots) + 1 != len(names):
        return None
    return {
        "version": 1,
        "parent": parent,
        **node.params,
        "conditioning": [names[slot] for slot in slots],
        "denoiser": denoiser,
        "extensions": [],
    }


_OLD: dict[str, Any] = {"text": _text, "noise": _noise, "step": _step}


def _identity(node: Node, facts: Facts) -> dict[str, Plain] | None:
    """What the identity of a component was; None for one that there was none of."""
    kind, on = node.stage.component, facts[node].get("on", {})
    name, settings = _SETTINGS[kind]
    if node.part is None or node.part.name != name or "weights" not in on:
        return None
    return {
        "kind": kind,
        "weights": on["weights"],
        **{each: getattr(node.part, each) for each in settings},
    }
