"""Plans of random graphs of made-up stages, held against the rule as one would write it down naively."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from engine.components.protocols import Description
from engine.graph import BEFORE, Given, Node, Ref, Stage, facts_of, key_of, ordered
from engine.plan import Plan, make_plan
from presets.spec.components import VAESpec
from store.blobs.blobs import digest_of
from store.lineage.records import LinkRecord
from tests.stores import chains

ROOT = Stage("root", 1, "", ("latents", "state"), derived={"latents": (), "state": ()})
LINK = Stage(
    "link",
    1,
    "",
    ("velocity", "state", "latents"),
    derived={"state": ("velocity", "before.state"), "latents": ("state",)},
    keep="chain",
)
OTHER = Stage("other", 1, "", ("result",))
COLUMNS = ("digest", "state", "latents")


@dataclass
class FakeKnown:
    links: dict[str, LinkRecord] = field(default_factory=dict)
    blobs: set[str] = field(default_factory=set)

    def find(self, keys: Sequence[str]) -> dict[str, LinkRecord]:
        return {key: self.links[key] for key in keys if key in self.links}

    def has(self, digest: str) -> bool:
        return digest in self.blobs


def refuse(kind: str, part: Any) -> Description:
    raise AssertionError(f"nothing here runs on a {kind}")


def digest_for(key: str, column: str) -> str:
    return digest_of(f"{column} of {key}".encode())


def column_of(output: str) -> str:
    return output if output in ("state", "latents") else "digest"


def link_for(node: Node, key: str) -> LinkRecord:
    columns = {column_of(output) for output in node.stage.outputs}
    made = {each: digest_for(key, each) if each in columns else "" for each in COLUMNS}
    return replace(
        LinkRecord(key, node.stage.name),
        digest=made["digest"],
        state=made["state"],
        latents=made["latents"],
    )


def true_keys(order: Sequence[Node]) -> dict[Node, str]:
    """The keys once everything was computed. order: inputs first."""
    keys: dict[Node, str] = {}
    for node in order:
        names = {}
        for slot, value in node.inputs.items():
            if isinstance(value, Given):
                names[slot] = digest_of(value.data)
            elif value.by == "key":
                names[slot] = f"{value.output}/{keys[value.node]}"
            else:
                names[slot] = digest_for(keys[value.node], column_of(value.output))
        keys[node] = key_of(node, names, None)
    return keys


class Naive:
    """The same rule, as a recursion that knows nothing of rounds or orders."""

    def __init__(self, known: FakeKnown, keys: Mapping[Node, str]) -> None:
        self.known, self.keys = known, keys

    def link(self, node: Node) -> LinkRecord | None:
        """By the key of a node, if that can be known from what is on record."""
        return self.known.links.get(self.keys[node]) if self.has_key(node) else None

    def has_key(self, node: Node) -> bool:
        return all(
            self.has_key(ref.node) if ref.by == "key" else self.link(ref.node) is not None
            for ref in node.refs()
        )

    def is_there(self, node: Node, output: str) -> bool:
        link = self.link(node)
        if link is not None and getattr(link, column_of(output)) in self.known.blobs:
            return True
        needs = node.stage.derived.get(output)
        if needs is None or (needs and link is None):
            return False
        return all(self.is_there(*source(node, need)) for need in needs)

    def computed(self, node: Node, output: str) -> set[Node]:
        if self.is_there(node, output):
            return set()
        return {node}.union(*(self.computed(ref.node, ref.output) for ref in node.refs()))


def source(node: Node, need: str) -> tuple[Node, str]:
    if need.startswith(BEFORE):
        return node.before, need.removeprefix(BEFORE)
    return node, need


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Ref]:
    """A chain whose links take what others made, others that take what links came to; targets from anywhere."""
    latest = Node("root", ROOT, {}, {"seed": draw(st.integers(0, 3))})
    made: list[Ref] = []
    targets: list[Ref] = []
    for number in range(draw(st.integers(1, 8))):
        inputs: dict[str, Given | Ref] = {
            f"of {place}": ref
            for place, ref in enumerate(
                draw(st.lists(st.sampled_from(made), max_size=2)) if made else []
            )
        }
        if draw(st.booleans()):
            node = Node(
                f"link {number}", LINK, {"before": Ref(latest, "state", "key"), **inputs}, {}
            )
            latest = node
            made.append(Ref(node, "latents"))
            targets += [
                Ref(node, output) for output in draw(st.sets(st.sampled_from(["latents", "state"])))
            ]
        else:
            inputs["given"] = Given(draw(st.sampled_from([b"", b"a", b"b"])))
            node = Node(f"other {number}", OTHER, inputs, {"number": number})
            made.append(Ref(node, "result"))
            if draw(st.booleans()):
                targets.append(made[-1])
    return {str(place): ref for place, ref in enumerate(targets or [made[-1]])}


def subset(draw: st.DrawFn, values: Collection[Any]) -> set[Any]:
    return {value for value in values if draw(st.booleans())}


@st.composite
def stores(draw: st.DrawFn) -> tuple[dict[str, Ref], dict[Node, str], FakeKnown]:
    targets = draw(graphs())
    order = ordered(list(targets.values()))
    keys = true_keys(order)
    links = [link_for(node, keys[node]) for node in order if not node.stage.is_free]
    recorded = links if draw(st.booleans()) else list(subset(draw, links))
    digests = [getattr(link, each) for link in links for each in COLUMNS]
    return (
        targets,
        keys,
        FakeKnown({link.key: link for link in recorded}, subset(draw, sorted(set(digests) - {""}))),
    )


def plan_with(known: FakeKnown, targets: Mapping[str, Ref]) -> Plan:
    return make_plan(known, targets, refuse)


@given(stores())
def test_just_what_is_not_derivable_is_computed(
    drawn: tuple[dict[str, Ref], dict[Node, str], FakeKnown],
) -> None:
    targets, keys, known = drawn
    naive = Naive(known, keys)
    plan = plan_with(known, targets)
    expected = set().union(*(naive.computed(ref.node, ref.output) for ref in targets.values()))
    assert {node for node in plan.order if plan.states[node] == "compute"} == expected
    assert dict(plan.keys) == {node: keys[node] for node in plan.order if naive.has_key(node)}
    for node in plan.order:
        for output in node.stage.outputs:
            assert ((node, output) in plan.there) == naive.is_there(node, output)


@given(stores())
def test_job_by_job_a_plan_comes_to_its_end(
    drawn: tuple[dict[str, Ref], dict[Node, str], FakeKnown],
) -> None:
    """Nothing is computed twice, and nothing that the first plan did not foresee."""
    targets, keys, known = drawn
    plan = first = plan_with(known, targets)
    done: list[Node] = []
    while job := plan.job():
        for node in job:
            assert plan.keys[node] == keys[node]
            link = link_for(node, keys[node])
            known.links[link.key] = link
            known.blobs |= {getattr(link, each) for each in COLUMNS} - {""}
        done += job
        plan = plan_with(known, targets)
    assert len(done) == len(set(done))
    assert all(first.states[node] == "compute" for node in done)
    assert all((ref.node, ref.output) in plan.there for ref in targets.values())


@given(stores())
def test_inputs_come_first_and_a_chain_is_not_interrupted(
    drawn: tuple[dict[str, Ref], dict[Node, str], FakeKnown],
) -> None:
    targets, _, _ = drawn
    order = ordered(list(targets.values()))
    places = {node: place for place, node in enumerate(order)}
    assert len(places) == len(order)
    for node in order:
        assert all(places[ref.node] < places[node] for ref in node.refs())
    chain = [node for node in order if node.stage is LINK]
    for node in order[: places[chain[0]] if chain else 0]:
        assert node.stage is not LINK
    late = set(chain)
    for node in order:
        if any(ref.node in late for ref in node.refs()):
            late.add(node)
    if chain:
        assert set(order[places[chain[0]] :]) == late


def test_what_is_held_is_not_asked_for() -> None:
    node = Node("other", OTHER, {"given": Given(b"a")}, {})
    targets = {"it": Ref(node, "result")}
    assert make_plan(FakeKnown(), targets, refuse).job() == (node,)
    assert not make_plan(FakeKnown(), targets, refuse, held=[(node, "result")]).job()


def test_what_is_distrusted_is_computed_again() -> None:
    node = Node("other", OTHER, {"given": Given(b"a")}, {})
    (key,) = true_keys([node]).values()
    link = link_for(node, key)
    known = FakeKnown({key: link}, {link.digest})
    targets = {"it": Ref(node, "result")}
    assert not make_plan(known, targets, refuse).job()
    assert make_plan(known, targets, refuse, distrusted=[key]).job() == (node,)


# Keys


class SharperVAESpec(VAESpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As a later version of the software might have it."""

    sharpness: Annotated[int, Meta(extra={"neutral": 0})] = 0
    where: Annotated[str, Meta(extra={"place": True})] = ""


@pytest.mark.parametrize(
    ("sharpness", "where", "is_same"), [(0, "", True), (0, "here", True), (1, "", False)]
)
def test_an_option_more_changes_no_key_where_it_does_nothing(
    sharpness: int, where: str, is_same: bool
) -> None:
    old = chains.SPEC.components.vae
    plain = json.loads(msgspec.json.encode(old))
    new = msgspec.convert(plain | {"sharpness": sharpness, "where": where}, SharperVAESpec)

    def key(part: VAESpec) -> str:
        components = msgspec.structs.replace(chains.SPEC.components, vae=part)
        spec = msgspec.structs.replace(chains.SPEC, components=components)
        node = chains.graph(spec)["video"].node
        return key_of(node, {"latents": "digest"}, chains.describe("vae", part).identity)

    assert (key(new) == key(old)) == is_same


def test_what_is_not_there_is_not_in_the_facts() -> None:
    node = Node("other", OTHER, {}, {}, hints={"anything": 1})
    assert facts_of(node, {}, None) == {"version": 1, "params": {}, "inputs": {}}
    assert facts_of(node, {}, {"name": "a"})["on"] == {"name": "a"}
