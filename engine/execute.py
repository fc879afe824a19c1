"""Computes of a graph what its plan says, job by job; each result is kept as soon as it is there. Torch-free to import.

A plan is never trusted for bytes: after each job it is made again with what is really there. So a blob that was lost,
a chain that does not replay here, and an encoder that gave other bytes than those on record are one case: a node that
must be computed. Keys are made from the bytes in hand.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.components.memory.halves import copies, used
from engine.errors import EngineError, Unfaithful
from engine.fit.out_of_memory import out_of_memory_explained
from engine.graph import Given, Node, Plain, Ref, Targets, encode_facts
from engine.plan import Plan, digest_in, make_plan
from engine.reports import Control, Made, memory_sample
from engine.results import Seen
from engine.tasks.stages import LOAD
from store.errors import BlobCorrupt, BlobMissing
from store.lineage.events import Event, LatentsStored, Message, StepFinished
from store.lineage.records import REUSED, LinkRecord

if TYPE_CHECKING:
    from torch import Tensor

    from engine.components.descriptions import Descriptions
    from engine.components.memory.residents import Residents
    from engine.results import Results
    from store.index.previews import Preview

log = logging.getLogger(__name__)

# More jobs than the worst store can cause in one run: a result that does not stay is a defect of its stage.
MAX_TRIES = 200


@dataclass(frozen=True)
class Keeping:
    """What of a chain is kept. steps: numbers of steps done whose state is, None for every velocity.
    previewer: gives what makes a preview of clean latents, None where nobody knows how. is_partial: whether the run
    stops before its last step."""

    steps: Callable[[int], Collection[int] | None] = lambda latent_bytes: None
    previewer: Callable[[], Callable[[Tensor], Preview] | None] = lambda: None
    is_partial: bool = False


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
        self._execution.reused(self._plan, nodes)

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
        self._keeping = keeping
        self._made: dict[str, LinkRecord] = {}
        self._held: dict[tuple[Node, str], Any] = {}
        self._distrusted: set[str] = set()
        self._told: set[tuple[str, int]] = set()
        self._finished: set[str] = set()
        self._spent: dict[str, float] = {}
        self._was_loaded = False
        self._tries = 0
        self._load_seconds = 0.0
        self._latents = ""  # those at the end of the chain, once they were kept from hand

    def plan(self) -> Plan:
        """The plan with what is there now."""
        return make_plan(
            Seen(self.results, self._made),
            self.targets,
            self.describe,
            distrusted=self._distrusted,
            held=self._held,
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
        held = {(keys.get(node), output): value for (node, output), value in self._held.items()}
        self.targets, self._held = targets, {}
        self._held = {
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
                held = self._held.get((ref.node, ref.output))
                if held is not None and not isinstance(held, Mapping):
                    return held
                return self.data(plan, ref)
        raise EngineError(f"the {target} cannot be read back from the store")

    # For jobs

    def data(self, plan: Plan, ref: Ref) -> bytes | bytearray:
        held = self._held.get((ref.node, ref.output))
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
        if place in self._held:
            held: Mapping[str, Tensor] = self._held[place]
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

    def reused(self, plan: Plan, nodes: Sequence[Node]) -> None:
        """Records that the run has these from where its results are, and tells of the steps; once each."""
        places = {
            node: index for title in plan.titles for index, node in enumerate(plan.nodes(title))
        }
        for node in nodes:
            if node not in plan.links:
                continue
            place = (plan.keys[node], places[node])
            if place in self._told:
                continue
            self._told.add(place)
            sigma, timestep = None, None
            if node.stage.keep == "chain":
                sigma, timestep = node.params["update"][0], node.params["timestep"]
            self.results.reuse(
                plan.links[node],
                self.control.warn,
                stage=node.stage.name,
                index=places[node],
                sigma=sigma,
                timestep=timestep,
            )
            if sigma is not None and timestep is not None:
                self.control.emit(
                    StepFinished(
                        step=places[node] + 1,
                        total=len(plan.chain),
                        sigma=sigma,
                        timestep=timestep,
                        seconds=0.0,
                        source=REUSED,
                    )
                )

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
                self.reused(plan, [node for node in nodes if plan.states[node] != "compute"])
            if is_chain and not computed:
                plan = self._recalled(plan, nodes[-1])
            while any(plan.states[node] == "compute" for node in nodes):
                plan = self._computed(plan, title)
            if computed and not is_chain:
                # what the first of them came to may have led to what is stored
                self.reused(plan, [node for node in nodes if plan.keys.get(node) not in self._made])
            if is_chain:
                self._ended(plan, nodes[-1])
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
                self._held[ref.node, ref.output] = self.tensors(plan, ref)
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
        made: Iterator[Made] = _function(stage.run)(Job(self, plan, nodes))
        with self._mended(plan), out_of_memory_explained(stage.told, stage.component):
            if stage.keep == "chain":
                self._keep_steps(plan, made)
            else:
                for each in made:
                    self._keep(plan, each)
                    self._tell(each)
        after = self.plan()
        if (nodes[-1], "latents") in self._held:
            self._ended(after, nodes[-1])
        return after

    @contextmanager
    def _mended(self, plan: Plan) -> Iterator[None]:
        """What was lost, or does not hold here, is known to be so afterwards; the next plan computes it."""
        try:
            yield
        except (BlobMissing, BlobCorrupt) as error:
            self.control.warn(f"{error}; it is computed again")
        except Unfaithful as error:
            self._distrust(plan, error.node)
            self.control.warn(f"{error}; the run goes on from step {error.node.hints['index']}")

    def _distrust(self, plan: Plan, node: Node) -> None:
        """No more of what is on record for a node, nor for those that go on from it by its key."""
        found = {node}
        for each in plan.order:
            if any(ref.by == "key" and ref.node in found for ref in each.refs()):
                found.add(each)
        self._distrusted |= {plan.keys[each] for each in found if each in plan.keys}

    def _keep(self, plan: Plan, made: Made) -> None:
        """Keeps the result of a node that is none of a chain, and holds it: it is small or asked for."""
        from store.blobs.blobs import digest_of
        from store.blobs.tensors import encoded_parts

        node = made.node
        for output, value in made.outputs.items():
            self._held[node, output] = value
        result = made.outputs.get(node.stage.outputs[0])
        if result is None:
            return
        parts = encoded_parts(result) if isinstance(result, Mapping) else [result]
        link = replace(
            self._link(plan, made), digest=digest_of(*parts), num_bytes=sum(map(len, parts))
        )
        self._made[link.key] = link
        index = plan.nodes(node.stage.told).index(node)
        self._told.add((link.key, index))
        self._show(link.key, made)
        self.results.record(
            link,
            parts,
            self.control.warn,
            stage=node.stage.name,
            index=index,
            replaces=self._trusted(link.key),
        )

    def _show(self, key: str, made: Made) -> None:
        """Before the result is on record: whoever is told of it finds its preview. One that cannot be made costs
        nothing else."""
        if made.preview is None:
            return
        try:
            self.results.show(key, made.preview())
        except Exception as error:  # noqa: BLE001  # a plugin's stage may make it
            log.warning("no preview of the %s: %s", made.node.name, error)

    def _keep_steps(self, plan: Plan, steps: Iterator[Made]) -> None:
        """Hands each step to the journal, as far as it is to be kept, and holds where the last one led to."""
        from engine.chain.journal import Entry
        from engine.chain.rebuild import latents_digest

        last = plan.chain[-1]
        kept: Collection[int] | None = None
        show: Callable[[Tensor], Preview] | None = None
        with self.results.journal(self.control) as journal:
            for number, made in enumerate(steps):
                node, latents = made.node, made.outputs["latents"]["latents"]
                if not number:
                    kept = self._keeping.steps(latents.nbytes)
                    show = self._keeping.previewer()
                    self.results.note_environment(made.environment, self.control.warn)
                link = self._link(plan, made)
                tensors, is_keyframe = self._to_keep(plan, made, kept)
                journal.put(
                    Entry(
                        link,
                        plan.chain.index(node),
                        made.sigma,
                        made.timestep,
                        latents,
                        tensors,
                        is_keyframe,
                        made.outputs["state"],
                        _preview(show, made),
                        self._trusted(link.key),
                    )
                )
                self._told.add((link.key, plan.chain.index(node)))
                if node is last:
                    self._held[node, "latents"] = made.outputs["latents"]
                    if made.clean is not None and self._asks(plan, node, "clean"):
                        self._held[node, "clean"] = {"latents": made.clean()}
                    self._made[link.key] = replace(link, latents=latents_digest(latents))
                self._tell(made)

    def _to_keep(
        self, plan: Plan, made: Made, kept: Collection[int] | None
    ) -> tuple[Mapping[str, Tensor], bool]:
        """(what to keep of a step, whether that is a keyframe).

        A run that stops early is made to be gone on with, and shows what its last velocity points to: that one is
        kept whatever the policy says, and the state that it starts from.
        """
        number, total = plan.chain.index(made.node) + 1, len(plan.chain)
        is_partial = self._keeping.is_partial
        if kept is None or (is_partial and number == total):
            return made.outputs["velocity"], False
        if number in kept or (is_partial and number == total - 1):
            return made.outputs["state"], True
        return {}, False

    def _ended(self, plan: Plan, last: Node) -> None:
        """Keeps the latents after the last step: whatever fails from here on loses no denoising."""
        link = plan.links.get(last)
        held = self._held.get((last, "latents"))
        if link is None or link.latents == self._latents:
            return
        if held is not None:
            self._latents = link.latents
            from store.blobs.tensors import encode_tensors

            data = encode_tensors({name: tensor.cpu() for name, tensor in held.items()})
            self.results.keep(data, self.control.warn)
        if self.results.has(link.latents):
            self.results.note_latents(link.latents, self.control.warn)
            if held is not None:
                self.control.emit(LatentsStored(digest=link.latents))

    def _link(self, plan: Plan, made: Made) -> LinkRecord:
        node = made.node
        return LinkRecord(
            plan.keys[node],
            node.stage.name,
            seconds=made.seconds,
            environment=made.environment,
            facts=encode_facts(plan.facts[node]),
            resume_at=made.resume_at,
            keep=node.stage.keep,
        )

    def _trusted(self, key: str) -> bool:
        """Whether the result for a key takes the place of one that does not hold here; from now on it holds."""
        if key not in self._distrusted:
            return False
        self._distrusted.discard(key)
        return True

    def _asks(self, plan: Plan, node: Node, output: str) -> bool:
        refs = (ref for each in plan.order for ref in each.refs())
        return any(ref.node is node and ref.output == output for ref in refs)

    def _tell(self, made: Made) -> None:
        for event in made.told:
            self.control.emit(event)
        if made.told:
            self.control.emit(memory_sample())
        self.control.check()


def _preview(show: Callable[[Tensor], Preview] | None, made: Made) -> Callable[[], Preview] | None:
    """Makes the preview of a step, later and elsewhere: of the clean latents that it points to."""
    clean = made.clean
    if show is None or clean is None:
        return None
    return lambda: show(clean())


def _function(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
