"""Executes a run: plan, then just what the plan says, then the files that were asked for. Torch-free to import.

A run that is stored whole is two reads and a copy; torch comes in with the first thing to be computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from msgspec.structs import replace

from engine.chain.thinning import kept_steps
from engine.components import choice
from engine.components.choice import check_can_ask, check_here
from engine.components.descriptions import Descriptions
from engine.components.memory.halves import alone, other_device
from engine.components.memory.room import Free, is_short
from engine.components.registry import reads_weights
from engine.errors import (
    CheckpointError,
    ComponentError,
    EngineError,
    RunCancelled,
    RunFailed,
    RunPaused,
)
from engine.execution.jobs import Execution
from engine.execution.kept import Keeping
from engine.fit.dry_run import remembered, work_bytes
from engine.fit.learned import compared, expected, learned
from engine.fit.lighter import WITHOUT_IDLE, Ended, Lightening, given_up
from engine.fit.out_of_memory import Full, attempted, out_of_memory_explained
from engine.fit.work import Memory
from engine.output import encoders
from engine.output.made import RunOutputs, written
from engine.output.mark import mark_of
from engine.output.marking import marked_latents, marked_video
from engine.plan import Plan
from engine.reports import Control, Emit
from engine.results import StoreResults
from engine.runs.expanded import with_text
from engine.tasks.route import Route, route_of
from engine.tasks.stages import DECODE, EXPAND, MUX
from engine.tasks.targets import targets_of
from engine.tasks.wan import num_tokens
from presets.encoding import encode_spec
from presets.errors import PresetError
from presets.expansion import expands
from presets.output.rules import format_of
from presets.spec.run import RunSpec
from store.blobs import blobs
from store.breaker import Breaker
from store.errors import StoreError
from store.index.index import open_index
from store.lineage.events import MemoryPlanned, PlanMade, Verified
from store.lineage.records import HeldModel, RunRecord, Segment
from store.store import Store
from store.upkeep.gc import WRITER_SECONDS

if TYPE_CHECKING:
    from engine.components.memory.residents import Residents
    from store.index.index import Index

T = TypeVar("T")


class Runner:
    """Executes the runs of one store, one after another, and keeps the models that two of them use."""

    def __init__(self, store: Store, residents: Residents | None = None) -> None:
        self.store = store
        self._residents = residents
        self._index: Index | None = None
        self._breaker = Breaker(WRITER_SECONDS)
        self._at_rest: dict[str, Free] = {}  # by device, as of when the engine had nothing to do

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._index is not None:
            self._index.close()

    def execute(
        self,
        run: RunRecord,
        spec: RunSpec,
        *,
        emit: Emit,
        cancelled: Callable[[], bool],
        paused: Callable[[], bool] = lambda: False,
        between: Callable[[], None] = lambda: None,
    ) -> str:
        """Makes what `spec` describes and returns the path of the (first) output. between: called between pieces of
        work, and may release what is idle.

        Raises RunCancelled or RunPaused once `cancelled()` or `paused()` says so, RunFailed for a run that cannot
        go on, and the errors of components, checkpoints, the store and the file system, each with a one-line
        message.
        """

        self._at_rest = {}
        control = _control(emit, cancelled, paused, between)
        with open_index(self.store.root) as index:
            describe = Descriptions(index)
            if run.verifies:
                route = route_of(spec, run.segments)
                control.emit(
                    self._tried(run, control, lambda: self._verified(run, route, describe, control))
                )
                return ""
            earlier = self._earlier(run, spec)
            spec, made = self._with_its_prompt(run, spec, (), describe, control)
        if run.stop_at == 0:
            return ""  # its prompt is to be read first
        ended = self.store.run(run.id)
        mark = mark_of(ended, with_text(self.store, ended, spec), ended.latents)

        def write() -> str:
            marked = made.marked(mark, control.warn)
            return written(Path(run.output), spec, run.id, marked, earlier, control.warn)

        with control.stage(MUX.name):
            try:
                return self._tried(run, control, write, MUX.name)
            except OSError as error:  # it speaks of a draft, which nobody named
                raise RunFailed(
                    f"cannot write {run.output} ({error.strerror or error}); `modiff resume {run.id}` tries again, "
                    f"`modiff branch {run.id} --at decode --output FILE` writes it elsewhere"
                ) from error

    def made(
        self,
        run: RunRecord,
        spec: RunSpec,
        kinds: Collection[str],
        *,
        emit: Emit,
        cancelled: Callable[[], bool],
        paused: Callable[[], bool],
    ) -> RunOutputs:
        """Outputs of these kinds of a run, in memory; no file is written. Errors as of `execute`."""
        control = _control(emit, cancelled, paused)
        with open_index(self.store.root) as index:
            return self._with_its_prompt(run, spec, kinds, Descriptions(index), control)[1]

    def _with_its_prompt(
        self,
        run: RunRecord,
        spec: RunSpec,
        kinds: Collection[str],
        describe: Descriptions,
        control: Control,
    ) -> tuple[RunSpec, RunOutputs]:
        """What the run makes, with its settings, which are others where its prompt could not be expanded and it is to
        go on as typed: then it stays so, whenever it is taken up again."""
        try:
            return self._made(run, spec, kinds, describe, control)
        except (ComponentError, CheckpointError) as error:
            wanted = spec.expansion
            is_of_expander = error.key.startswith(f"components.{EXPAND.component}")
            if not (is_of_expander and expands(spec) and wanted.on_failure == "as-typed"):
                raise
            control.warn(f"the prompt is used as typed, it could not be expanded: {error}")
        spec = replace(spec, expansion=replace(wanted, enabled=False))
        self.store.set_spec(run.id, encode_spec(spec))
        if run.stop_at == 0:
            return spec, RunOutputs()
        return self._made(run, spec, kinds, describe, control)

    def _made(
        self,
        run: RunRecord,
        spec: RunSpec,
        kinds: Collection[str],
        describe: Descriptions,
        control: Control,
    ) -> tuple[RunSpec, RunOutputs]:
        """What the run makes, from the store as far as that has it; with its settings, which are others where memory
        ended."""
        route = route_of(spec, run.segments)
        targets = targets_of(route, describe, run.stop_at, kinds)
        keeping = _keeping(route, describe, run.stop_at)
        self._breaker.should_stop = control.is_asked
        results = StoreResults(self.store, run, self._previews, self._breaker)
        execution = Execution(targets, results, describe, self.residents, control, keeping)
        plan, memory = execution.plan(), Memory(())
        control.emit(plan_made(plan))
        if "video" in targets and plan.state("decode") == "compute":
            encoders.check(format_of(route.spec.output))  # here, not when all is computed
        if plan.job():
            # not when all before it is computed
            check_can_ask(plan.parts)
            check_here(plan.parts)
            self._set_threads(route.spec, describe)
            memory = remembered(plan, describe, self._previews())
            execution.work_bytes = work_bytes(memory)
            if memory.uses:
                known = learned(self._previews())
                control.emit(MemoryPlanned(expected(memory, known)))

        def make() -> RunOutputs:
            with compared(memory, self._previews()):
                execution.run(execution.plan())
            if run.stop_at == 0:
                return RunOutputs()
            return RunOutputs(**{kind: execution.read(kind) for kind in targets})

        lightening, segments = Lightening(spec), run.segments
        while True:
            made = attempted(make)
            if isinstance(made, RunOutputs):
                return lightening.spec, made
            ended = _ended(made, lightening.spec, execution.plan(), describe, keeping)
            segments = self._lighten(run, lightening, ended, segments, describe, control)
            route = route_of(lightening.spec, segments)
            execution.go_on(targets_of(route, describe, run.stop_at, kinds))
            execution.work_bytes = work_bytes(
                remembered(execution.plan(), describe, self._previews())
            )

    def _lighten(
        self,
        run: RunRecord,
        lightening: Lightening,
        ended: Ended,
        segments: tuple[Segment, ...],
        describe: Descriptions,
        control: Control,
    ) -> tuple[Segment, ...]:
        """Makes room, and takes the next lighter settings where that was not enough; the segments of the run with
        them. Raises RunFailed where there are none; the run is then again as it came to this stage."""
        released = self.release(but=ended.kind)
        before = lightening.spec

        def is_possible(spec: RunSpec) -> bool:
            try:
                choice.check(spec, describe)
                route_of(spec, segments)  # steps that keep other settings keep them
            except (EngineError, PresetError):
                return False
            return True

        step = lightening.next(ended, has_room=bool(released), is_possible=is_possible)
        if step is None:
            segments = run.segments
        elif ended.hanging_steps and step.is_other_vae(before):
            segments = (*segments, Segment(ended.hanging_steps, encode_spec(before)))
        if lightening.spec != before:
            self.store.set_spec(run.id, encode_spec(lightening.spec), segments)
        if step is None:
            raise RunFailed(given_up(ended, lightening.tried(ended), run.id))
        control.warn(f"{ended.told}: goes on {step.told}")
        return segments

    def _tried(self, run: RunRecord, control: Control, do: Callable[[], T], stage: str = "") -> T:
        """What `do` returns; where memory ends in it, once more without the models that are idle. Raises RunFailed
        where that was not enough."""

        def explained() -> T:
            with out_of_memory_explained(stage):
                return do()

        made = attempted(explained)
        if isinstance(made, Full) and self.release(but=made.kind):
            control.warn(f"{Ended(made.stage, made.kind).told}: goes on {WITHOUT_IDLE}")
            made = attempted(explained)
        if isinstance(made, Full):
            raise RunFailed(given_up(Ended(made.stage, made.kind), (), run.id))
        return made

    def _verified(
        self, run: RunRecord, route: Route, describe: Descriptions, control: Control
    ) -> Verified:
        from engine.runs.verify import verify

        self._set_threads(route.spec, describe)
        return verify(self.store, self.store.run(run.verifies), describe, self.residents, control)

    def _previews(self) -> Index:
        """Kept open between runs: opening it takes as long as all the previews of a small one."""
        if self._index is None:
            self._index = open_index(self.store.root)
        return self._index

    def held(self) -> tuple[str, ...]:
        """What is in memory, as of `engine.components.memory.held.held_name`."""
        return self._residents.names() if self._residents is not None else ()

    def models(self) -> tuple[HeldModel, ...]:
        """The same, for people."""
        return self._residents.models() if self._residents is not None else ()

    def release(self, *, but: str = "") -> tuple[HeldModel, ...]:
        """Lets go of every model that is not in use, but of those of a kind; what they were."""
        return self._residents.release(but=but) if self._residents is not None else ()

    def relieve(self) -> tuple[HeldModel, ...]:
        """As `release`, where others have come to need a device that something idle is on. To be called while nothing
        is computed; cheap."""
        devices = self._residents.devices() if self._residents is not None else set()
        if not devices:
            return ()
        from engine.components.memory.residents import free_memory

        now = {device: free_memory(device) for device in devices}
        for device, free in now.items():
            self._at_rest[device] = max(self._at_rest.get(device, free), free)
        if not any(is_short(free, self._at_rest[device]) for device, free in now.items()):
            return ()
        return self.release()

    def residents(self) -> Residents:
        """The components in memory; torch comes with them."""
        if self._residents is None:
            from engine.components.memory.residents import Residents

            self._residents = Residents()
        return self._residents

    def _set_threads(self, spec: RunSpec, describe: Descriptions) -> None:
        from engine.environment import set_threads

        parts = spec.components
        about = {
            "denoiser": describe("denoiser", parts.denoiser),
            "vae": describe("vae", parts.vae),
        }
        set_threads(num_tokens(spec, about))

    def _earlier(self, run: RunRecord, spec: RunSpec) -> frozenset[str]:
        """Digests of what this run has written before, in an attempt that was to stop early: with its mark, and as
        older versions did without."""
        videos = {link.digest for link in self.store.links_of(run.id) if link.stage == "video"}
        digests = {run.latents, *videos} - {""}
        mark = mark_of(run, with_text(self.store, run, spec), run.latents)
        for digest in tuple(digests):
            try:
                data = blobs.get(self.store.root, digest)
            except StoreError:
                continue  # what is not stored any more was perhaps not written by us
            mark_it = marked_latents if digest == run.latents else marked_video
            with suppress(EngineError, OSError):
                digests.add(blobs.digest_of(mark_it(data, mark)))
        return frozenset(digests)


def _ended(
    full: Full, spec: RunSpec, plan: Plan, describe: Descriptions, keeping: Keeping
) -> Ended:
    """What is to be known of the place where memory ended, to go on with less."""
    from engine.dtypes import torch_device

    part = getattr(spec.components, full.kind, None)
    if part is None:
        return Ended(full.stage, full.kind)
    at_work = [node for node in plan.order if node.stage.component == full.kind]
    computed = [node for node in at_work if plan.states[node] == "compute"]
    # no second device where no step is guided
    used = computed[0].part if computed else part
    # of a run that begins from a picture or a clip
    hangs = any(node.stage.told != DECODE.name and node.part == part for node in at_work)
    is_decoding = full.stage == DECODE.name
    return Ended(
        full.stage,
        full.kind,
        is_own=reads_weights(full.kind, part.name) and used in (part, alone(part)),
        on_cpu=torch_device(part.device).type == "cpu",
        other_device=other_device(used, full.copy),
        num_blocks=describe(full.kind, part).facts.get("num_blocks", 0),
        is_fixed=hangs and (keeping.is_partial if is_decoding else plan.num_stored_steps > 0),
        hanging_steps=len(plan.chain) if hangs and is_decoding else 0,
    )


def _control(
    emit: Emit,
    cancelled: Callable[[], bool],
    paused: Callable[[], bool],
    between: Callable[[], None] = lambda: None,
) -> Control:
    def check() -> None:
        if cancelled():
            raise RunCancelled
        if paused():
            raise RunPaused
        between()

    return Control(emit, check, lambda: cancelled() or paused())


def plan_made(plan: Plan) -> PlanMade:
    """The event that tells of a plan."""
    stages: dict[str, str] = {title: plan.state(title) for title in plan.titles}
    return PlanMade(plan.num_stored_steps, len(plan.chain), stages)


def _keeping(route: Route, describe: Descriptions, stop_at: int | None) -> Keeping:
    """What of its steps a run keeps and shows."""
    spec = route.spec
    total = route.num_steps if stop_at is None else min(stop_at, route.num_steps)

    def previewer() -> Callable[[Any], Any] | None:
        from engine.chain.previews import previewer_of

        return previewer_of(describe("vae", spec.components.vae).facts)

    return Keeping(
        steps=lambda latent_bytes: kept_steps(spec.keep, total, latent_bytes),
        previewer=previewer,
        is_partial=total < route.num_steps,
    )
