"""What of an execution is kept: in the store, on record for the run, in memory until it ends. Torch-free to import."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.graph import Node, encode_facts
from engine.plan import Plan
from engine.reports import Control, NodeResult, memory_sample
from store.lineage.events import LatentsStored, StepFinished
from store.lineage.records import REUSED, LinkRecord

if TYPE_CHECKING:
    from torch import Tensor

    from engine.results import Results
    from store.index.previews import Preview

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keeping:
    """What of a chain is kept. steps: numbers of steps done whose state is, None for every velocity.
    previewer: gives what makes a preview of clean latents, None where nobody knows how. is_partial: whether the run
    stops before its last step."""

    steps: Callable[[int], Collection[int] | None] = lambda latent_bytes: None
    previewer: Callable[[], Callable[[Tensor], Preview] | None] = lambda: None
    is_partial: bool = False


class Kept:
    """What one execution has kept. held: outputs in memory, by node and name. made: what it put on record, by key.
    distrusted: keys whose record does not hold here."""

    def __init__(self, results: Results, control: Control, keeping: Keeping) -> None:
        self.held: dict[tuple[Node, str], Any] = {}
        self.made: dict[str, LinkRecord] = {}
        self.distrusted: set[str] = set()
        self._results = results
        self._control = control
        self._keeping = keeping
        self._told: set[tuple[str, int]] = set()
        self._latents = ""  # those at the end of the chain, once they were kept from hand

    def keep(self, plan: Plan, made: NodeResult) -> None:
        """Keeps the result of a node that is none of a chain, and holds it: it is small or asked for."""
        from store.blobs.blobs import digest_of
        from store.blobs.tensors import encoded_parts

        node = made.node
        for output, value in made.outputs.items():
            self.held[node, output] = value
        result = made.outputs.get(node.stage.outputs[0])
        if result is None:
            return
        parts = encoded_parts(result) if isinstance(result, Mapping) else [result]
        link = replace(
            self._link(plan, made), digest=digest_of(*parts), num_bytes=sum(map(len, parts))
        )
        self.made[link.key] = link
        index = plan.nodes(node.stage.told).index(node)
        self._told.add((link.key, index))
        self._show(link.key, made)
        self._results.record(
            link,
            parts,
            self._control.warn,
            stage=node.stage.name,
            index=index,
            replaces=self._trusted(link.key),
        )

    def keep_steps(self, plan: Plan, steps: Iterator[NodeResult]) -> None:
        """Hands each step to the journal, as far as it is to be kept, and holds where the last one led to."""
        from engine.chain.journal import Entry
        from engine.chain.rebuild import latents_digest

        last = plan.chain[-1]
        kept: Collection[int] | None = None
        show: Callable[[Tensor], Preview] | None = None
        with self._results.journal(self._control) as journal:
            for number, made in enumerate(steps):
                node, latents = made.node, made.outputs["latents"]["latents"]
                if not number:
                    kept = self._keeping.steps(latents.nbytes)
                    show = self._keeping.previewer()
                    self._results.note_environment(made.environment, self._control.warn)
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
                    self.held[node, "latents"] = made.outputs["latents"]
                    if made.clean is not None and self._asks(plan, node, "clean"):
                        self.held[node, "clean"] = {"latents": made.clean()}
                    self.made[link.key] = replace(link, latents=latents_digest(latents))
                self.tell(made)

    def ended(self, plan: Plan, last: Node) -> None:
        """Keeps the latents after the last step: whatever fails from here on loses no denoising."""
        link = plan.links.get(last)
        held = self.held.get((last, "latents"))
        if link is None or link.latents == self._latents:
            return
        if held is not None:
            self._latents = link.latents
            from store.blobs.tensors import encode_tensors

            data = encode_tensors({name: tensor.cpu() for name, tensor in held.items()})
            self._results.keep(data, self._control.warn)
        if self._results.has(link.latents):
            self._results.note_latents(link.latents, self._control.warn)
            if held is not None:
                self._control.emit(LatentsStored(digest=link.latents))

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
            self._results.reuse(
                plan.links[node],
                self._control.warn,
                stage=node.stage.name,
                index=places[node],
                sigma=sigma,
                timestep=timestep,
            )
            if sigma is not None and timestep is not None:
                self._control.emit(
                    StepFinished(
                        step=places[node] + 1,
                        total=len(plan.chain),
                        sigma=sigma,
                        timestep=timestep,
                        seconds=0.0,
                        source=REUSED,
                    )
                )

    def distrust(self, plan: Plan, node: Node) -> None:
        """No more of what is on record for a node, nor for those that go on from it by its key."""
        found = {node}
        for each in plan.order:
            if any(ref.by == "key" and ref.node in found for ref in each.refs()):
                found.add(each)
        self.distrusted |= {plan.keys[each] for each in found if each in plan.keys}

    def tell(self, made: NodeResult) -> None:
        """What a result has to say, once it is kept. Raises RunCancelled or RunPaused."""
        for event in made.told:
            self._control.emit(event)
        if made.told:
            self._control.emit(memory_sample())
        self._control.check()

    def _show(self, key: str, made: NodeResult) -> None:
        """Before the result is on record: whoever is told of it finds its preview. One that cannot be made costs
        nothing else."""
        if made.preview is None:
            return
        try:
            self._results.show(key, made.preview())
        except Exception as error:  # noqa: BLE001  # a plugin's stage may make it
            log.warning("no preview of the %s: %s", made.node.name, error)

    def _to_keep(
        self, plan: Plan, made: NodeResult, kept: Collection[int] | None
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

    def _link(self, plan: Plan, made: NodeResult) -> LinkRecord:
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
        if key not in self.distrusted:
            return False
        self.distrusted.discard(key)
        return True

    def _asks(self, plan: Plan, node: Node, output: str) -> bool:
        refs = (ref for each in plan.order for ref in each.refs())
        return any(ref.node is node and ref.output == output for ref in refs)


def _preview(
    show: Callable[[Tensor], Preview] | None, made: NodeResult
) -> Callable[[], Preview] | None:
    """Makes the preview of a step, later and elsewhere: of the clean latents that it points to."""
    clean = made.clean
    if show is None or clean is None:
        return None
    return lambda: show(clean())
