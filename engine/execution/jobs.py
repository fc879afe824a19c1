"""Computes of a graph what its plan says, job by job; each result is kept as soon as it is there. Torch-free to import.

A plan is never trusted for bytes: after each job it is made again with what is really there. So a blob that was lost,
a chain that does not replay here, and an encoder that gave other bytes than those on record are one case: a node that
must be computed. Keys are made from the bytes in hand.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.components.memory.halves import copies, used
from engine.errors import EngineError, Unfaithful
from engine.execution.kept import Keeping, Kept
from engine.fit.out_of_memory import out_of_memory_explained
from engine.graph import Given, Node, Plain, Ref, Targets
from engine.plan import Plan, digest_in, make_plan
from engine.reports import Control, NodeResult
from engine.results import Seen
from engine.tasks.stages import LOAD
from store.errors import BlobCorrupt, BlobMissing
from store.lineage.events import Event, Message
from store.lineage.records import LinkRecord

if TYPE_CHECKING:
    from torch import Tensor

    from engine.components.descriptions import Descriptions
    from engine.components.memory.residents import Residents
    from engine.results import Results

log = logging.getLogger(__name__)

# More jobs than the worst store can cause in one run: a result that does not stay is a defect of its stage.
MAX_TRIES = 200


class Job:
    """What a stage may do, and nothing more. nodes: one, or of a chain all that are to be computed."""

    def __init__(self, execution: Execution, plan: Plan, nodes: Sequence[Node]) -> None:
        self._execution = execution
        self._plan = plan
        self.nodes = nodes

    @property
    def num_steps(self) -> int:
        """How many steps the run is to have done."""
        return len(self._plan.chain)

    def data(self, given: Given | Ref) -> bytes | bytearray:
        """The bytes of an input."""
        return given.data if isinstance(given, Given) else self._execution.data(self._plan, given)

    def tensors(self, given: Given | Ref) -> Mapping[str, Tensor]:
        """The tensors of an input: from memory, stored, or derived and checked."""
        return self._execution.tensors(self._plan, given)

    def stored(self, digest: str) -> Mapping[str, Tensor]:
        """The tensors of a blob. Raises BlobMissing or BlobCorrupt."""
        return self._execution.stored(digest)

    def digest(self, ref: Ref) -> str:
        """The digest of an output; "" where nobody knows it."""
        return digest_in(self._plan.links.get(ref.node), ref.node, ref.output)

    def link(self, node: Node) -> LinkRecord | None:
        """What is on record for a node."""
        return self._plan.links.get(node)

    def key_facts(self, node: Node) -> Mapping[str, Plain]:
        """What the key of a node was derived from."""
        return self._plan.facts[node]

    def facts(self, node: Node) -> Mapping[str, Plain]:
        """What the component of a node tells of itself."""
        return self._execution.describe(node.stage.component, node.part).facts

    def wanted(self, node: Node) -> frozenset[str]:
        """The outputs of a node that somebody asked for and that are not there."""
        asked = {ref.output for ref in self._plan.targets.values() if ref.node is node}
        return frozenset(output for output in asked if (node, output) not in self._plan.there)

    @contextmanager
    def component(self, node: Node) -> Iterator[Any]:
        """The component of a node; not to be held beyond."""
        with self._execution.component(node) as component:
            yield component

    def reused(self, nodes: Sequence[Node]) -> None:
        """To be said of the steps that a job goes on from, once their state is there."""
        self._execution.kept.reused(self._plan, nodes)

    def tell(self, event: Event) -> None:
        """Progress. Raises RunCancelled or RunPaused."""
        self._execution.control.emit(event)
        self.check()

    def check(self) -> None:
        """Raises RunCancelled or RunPaused."""
        self._execution.control.check()


class Execution:
    """One execution of a graph. describe: what its components are; residents: those that are in memory."""

    def __init__(
        self,
        targets: Targets,
        results: Results,
        describe: Descriptions,
        residents: Callable[[], Residents],
        control: Control,
        keeping: Keeping,
    ) -> None:
        self.targets = targets
        self.results = results
        self.describe = describe
        self.control = control
        # stage -> what it takes beside weights, where that is known
        self.work_bytes: Mapping[str, int] = {}
        self._residents = residents
        self.kept = Kept(results, control, keeping)
        self._finished: set[str] = set()
        self._spent: dict[str, float] = {}
        self._was_loaded = False
        self._tries = 0
        self._load_seconds = 0.0

    def plan(self) -> Plan:
        """The plan with what is there now."""
        return make_plan(
            Seen(self.results, self.kept.made),
            self.targets,
            self.describe,
            distrusted=self.kept.distrusted,
            held=self.kept.held,
        )

    def run(self, plan: Plan) -> None:
        """Computes whatever is to be computed, stage by stage, and tells of what is not.

        Raises RunCancelled, RunPaused, RunFailed, and the errors of components, checkpoints and stages.
        """
        for title in plan.titles:
            if title not in self._finished or plan.state(title) == "compute":
                plan = self._stage(title, plan)
        while plan.job():
            plan = self._computed(plan)

    def go_on(self, targets: Targets) -> None:
        """Takes the same run up again with other settings: what was made, and what is held of it, stays as far as it
        has the same key. `run` is then to be called again."""
        keys = self.plan().keys
        held = {(keys.get(node), output): value for (node, output), value in self.kept.held.items()}
        self.targets, self.kept.held = targets, {}
        self.kept.held = {
            (node, output): held[key, output]
            for node, key in self.plan().keys.items()
            for output in (*node.stage.outputs, *node.stage.derived, *node.stage.transient)
            if (key, output) in held
        }

    def read(self, target: str) -> Any:
        """A target as it is to be written: bytes, or what a transient output is. Computes again what was lost."""
        for _ in range(MAX_TRIES):
            plan = self.plan()
            while plan.job():
                plan = self._computed(plan)
            with self._mended(plan):
                ref = self.targets[target]
                held = self.kept.held.get((ref.node, ref.output))
                if held is not None and not isinstance(held, Mapping):
                    return held
                return self.data(plan, ref)
        raise EngineError(f"the {target} cannot be read back from the store")

    # For jobs

    def data(self, plan: Plan, ref: Ref) -> bytes | bytearray:
        held = self.kept.held.get((ref.node, ref.output))
        if isinstance(held, bytes | bytearray):
            return held
        digest = digest_in(plan.links.get(ref.node), ref.node, ref.output)
        if held is None and self.results.has(digest):
            return self.results.read(digest)
        from store.blobs.tensors import encode_tensors

        tensors = self.tensors(plan, ref)
        return encode_tensors({name: tensor.cpu() for name, tensor in tensors.items()})

    def tensors(self, plan: Plan, given: Given | Ref) -> Mapping[str, Tensor]:
        from store.blobs.tensors import decode_tensors, encode_tensors

        if isinstance(given, Given):
            return decode_tensors(given.data)
        place = (given.node, given.output)
        if place in self.kept.held:
            held: Mapping[str, Tensor] = self.kept.held[place]
            return held
        digest = digest_in(plan.links.get(given.node), given.node, given.output)
        if given.output not in given.node.stage.derived or self.results.has(digest):
            return self.stored(digest)
        job = Job(self, plan, (given.node,))
        derive = _function(given.node.stage.derive)
        derived: Mapping[str, Tensor] = derive(job, given.node, given.output)
        if digest:
            self.results.keep(
                encode_tensors({name: tensor.cpu() for name, tensor in derived.items()}),
                self.control.warn,
            )
        return derived

    def stored(self, digest: str) -> Mapping[str, Tensor]:
        from store.blobs.tensors import decode_tensors

        return decode_tensors(self.results.read(digest))

    @contextmanager
    def component(self, node: Node) -> Iterator[Any]:
        kind, part = node.stage.component, node.part
        about = self.describe(kind, part)
        was_loaded = False

        def loaded(copy: Any, seconds: float) -> None:
            from engine.dtypes import torch_device

            nonlocal was_loaded
            was_loaded = True
            text = f"the {kind} is at {part.url}" if getattr(part, "url", "") else ""
            if not text:
                packed = about.on(torch_device(copy.device).type).packed
                numbers = f"{copy.dtype}, {packed} weights" if packed else copy.dtype
                text = f"loaded {kind} {copy.name} ({numbers})"
                if copy is not part:
                    text += f", once more on {copy.device} for the negative half of the guidance"
            self.control.emit(Message(level="info", text=text))
            self._load_seconds += seconds

        work_bytes = self.work_bytes.get(node.stage.told)
        with used(self._residents(), kind, part, about, loaded, work_bytes) as component:
            self.describe.check_unchanged(kind, part)
            told = getattr(component, "told", "")
            if was_loaded and told:
                self.control.emit(Message(level="info", text=told))
            watched = getattr(component, "watched", None)
            yield component if watched is None else watched(self.control)

    # Stages and jobs

    def _stage(self, title: str, plan: Plan) -> Plan:
        """One stage: what is stored of it is told, the rest is computed."""
        nodes = plan.nodes(title)
        computed = [node for node in nodes if plan.states[node] == "compute"]
        is_chain = nodes[0].stage.keep == "chain"
        if computed:
            self._load(computed[0])
        with (
            self._timed(title),
            self.control.stage(title, cached=not computed, spent=self._spent.get(title, 0.0)),
        ):
            if not (computed and is_chain):
                self.kept.reused(plan, [node for node in nodes if plan.states[node] != "compute"])
            if is_chain and not computed:
                plan = self._recalled(plan, nodes[-1])
            while any(plan.states[node] == "compute" for node in nodes):
                plan = self._computed(plan, title)
            if computed and not is_chain:
                # what the first of them came to may have led to what is stored
                self.kept.reused(
                    plan, [node for node in nodes if plan.keys.get(node) not in self.kept.made]
                )
            if is_chain:
                self.kept.ended(plan, nodes[-1])
        self._finished.add(title)
        return plan

    @contextmanager
    def _timed(self, title: str) -> Iterator[None]:
        """What an attempt at a stage took that did not end is of the next one's time."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._spent[title] = self._spent.get(title, 0.0) + time.perf_counter() - begun

    def _load(self, node: Node) -> None:
        """Loads the component of a node, as a stage of its own where that takes time; once it is told of as held."""
        if not node.stage.component:
            return
        about = self.describe(node.stage.component, node.part)
        is_held = all(self._residents().holds(each, about) for each in copies(node.part))
        if is_held and self._was_loaded:
            return
        self._was_loaded = True
        with (
            self.control.stage(LOAD.name, cached=is_held, spent=self._load_seconds),
            out_of_memory_explained(LOAD.name, node.stage.component),
            self.component(node),
        ):
            pass

    def _recalled(self, plan: Plan, last: Node) -> Plan:
        """The latents that a later stage needs, or that are asked for and to be derived, had while the steps are at
        work."""
        later = [node for node in plan.order if plan.states[node] == "compute"]
        asked = [ref for node in later for ref in node.refs() if ref.node is last]
        asked += [
            ref
            for ref in plan.targets.values()
            if ref.node is last and plan.there.get((last, ref.output)) == "derive"
        ]
        for ref in asked:
            is_there = False
            with self._mended(plan):
                self.kept.held[ref.node, ref.output] = self.tensors(plan, ref)
                is_there = True
            if not is_there:
                return self.plan()
        return plan

    def _computed(self, plan: Plan, title: str = "") -> Plan:
        """Computes the next job of a plan, of a stage if it can; the plan after it."""
        nodes = plan.job(title)
        stage = nodes[0].stage
        self._tries += 1
        if self._tries > MAX_TRIES:
            raise EngineError(f"{nodes[0].name} is computed again and again; this is a defect")
        made: Iterator[NodeResult] = _function(stage.run)(Job(self, plan, nodes))
        with self._mended(plan), out_of_memory_explained(stage.told, stage.component):
            if stage.keep == "chain":
                self.kept.keep_steps(plan, made)
            else:
                for each in made:
                    self.kept.keep(plan, each)
                    self.kept.tell(each)
        after = self.plan()
        if (nodes[-1], "latents") in self.kept.held:
            self.kept.ended(after, nodes[-1])
        return after

    @contextmanager
    def _mended(self, plan: Plan) -> Iterator[None]:
        """What was lost, or does not hold here, is known to be so afterwards; the next plan computes it."""
        try:
            yield
        except (BlobMissing, BlobCorrupt) as error:
            self.control.warn(f"{error}; it is computed again")
        except Unfaithful as error:
            self.kept.distrust(plan, error.node)
            self.control.warn(f"{error}; the run goes on from step {error.node.hints['index']}")


def _function(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
