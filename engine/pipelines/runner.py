"""Executes a run: plan, then just what the plan says, then the files that were asked for. Torch-free to import.

A run that is stored whole is two reads and a copy; torch comes in with the first thing to be computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from engine import media
from engine.errors import RunCancelled, RunFailed, RunPaused
from engine.outputs import output_paths
from engine.pipelines.chain import Route, route_of
from engine.pipelines.identities import Identities, device_type
from engine.pipelines.plan import Plan, make_plan
from presets.spec import RunSpec
from store.blobs import blobs
from store.errors import BlobCorrupt, BlobMissing, StoreError
from store.index.index import open_index
from store.lineage.events import (
    Event,
    MemorySampled,
    Message,
    PlanMade,
    StageFinished,
    StageStarted,
    StepFinished,
)
from store.lineage.records import REUSED, LinkRecord
from store.store import RunRecord, Store
from store.upkeep.gc import writing

if TYPE_CHECKING:
    from engine.pipelines.compute import Computer

Emit = Callable[[Event], None]


@dataclass(frozen=True)
class Control:
    """How a run talks and listens. check: raises RunCancelled or RunPaused once somebody asked for it.
    check_files: (kind, spec of that component) raises RunFailed where its files changed since the plan."""

    emit: Emit
    check: Callable[[], None]
    check_files: Callable[[str, Any], None]
    _told: set[str] = field(default_factory=set)

    def warn(self, text: str) -> None:
        """Tells it once, however often it happens in the run."""
        if text not in self._told:
            self._told.add(text)
            self.emit(Message(level="warning", text=text))

    @contextmanager
    def recording(self, what: str) -> Iterator[None]:
        """A store that cannot take this costs the record of it, not the run."""
        try:
            yield
        except StoreError as error:
            self.warn(f"{what} could not be recorded: {error}")

    @contextmanager
    def stage(self, name: str, *, cached: bool = False) -> Iterator[None]:
        """One stage from its first event to its last."""
        self.check()
        self.emit(StageStarted(stage=name))
        begun = time.perf_counter()
        yield
        self.emit(StageFinished(stage=name, seconds=time.perf_counter() - begun, cached=cached))
        self.emit(memory_sample())


class Runner:
    """Executes the runs of one store, one after another, and keeps the models that two of them use."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._computer: Computer | None = None

    def execute(
        self,
        run: RunRecord,
        spec: RunSpec,
        *,
        emit: Emit,
        cancelled: Callable[[], bool],
        paused: Callable[[], bool] = lambda: False,
    ) -> str:
        """Makes what `spec` describes and returns the path of the (first) output.

        Raises RunCancelled or RunPaused once `cancelled()` or `paused()` says so, RunFailed for a run that cannot
        go on, and the errors of components, checkpoints, the store and the file system, each with a one-line
        message.
        """

        def check() -> None:
            if cancelled():
                raise RunCancelled
            if paused():
                raise RunPaused

        route = route_of(spec, run.segments)
        earlier = self._earlier(run)
        with open_index(self.store.root) as index:
            identities = Identities(
                index, lambda kind, part: self._compute.models.component(kind, part)
            )
            control = Control(emit, check, identities.check_unchanged)
            plan = self._plan(route, identities, run.stop_at)
            emit(PlanMade(_num_reused(plan), plan.total, plan.stages))
            made = self._made(
                run, plan, control, lambda: self._plan(route, identities, run.stop_at)
            )
        with control.stage("mux"):
            path = _free_path(Path(run.output), spec, run.id, made, earlier, control)
            try:
                return made.write(path, spec)
            except OSError as error:  # it speaks of a draft, which nobody named
                raise RunFailed(
                    f"cannot write {path} ({error.strerror or error}); `modiff resume {run.id}` tries again, "
                    f"`modiff branch {run.id} --at decode --output FILE` writes it elsewhere"
                ) from error

    @property
    def _compute(self) -> Computer:
        if self._computer is None:
            from engine.pipelines.compute import Computer

            self._computer = Computer(self.store)
        return self._computer

    def _plan(self, route: Route, identities: Identities, stop_at: int | None) -> Plan:
        denoiser = route.parts[0].spec.components.denoiser
        return make_plan(
            self.store,
            route,
            identities,
            latent_channels=identities.latent_channels(denoiser),
            device_type=device_type(route.parts[0].spec),
            stop_at=stop_at,
        )

    def _made(
        self, run: RunRecord, plan: Plan, control: Control, again: Callable[[], Plan]
    ) -> Made:
        """What the run makes, from the store as far as that has it."""
        if plan.is_whole:
            try:
                return self._stored(run, plan, control)
            except (BlobMissing, BlobCorrupt) as error:
                control.warn(f"{error}; it is computed again")
                plan = again()
        return self._compute.made(run, plan, control, again)

    def _stored(self, run: RunRecord, plan: Plan, control: Control) -> Made:
        kinds = plan.spec.output.kinds
        latents = self._read(plan.final) if "latents" in kinds else None
        video = self._read(plan.video_digest) if "video" in kinds else None
        for name in ("text_encode", "denoise", "decode"):
            with control.stage(name, cached=True):
                if name == "text_encode":
                    reuse_texts(self.store, run, plan, control)
                if name == "denoise":
                    reuse_steps(self.store, run, plan, plan.total, control)
        if plan.final:
            with control.recording("the latents"):
                self.store.set_latents(run.id, plan.final)
        if plan.video_digest:
            reuse_video(self.store, run, plan, control)
        return Made(video=video, latents=latents, frames=None)

    def _earlier(self, run: RunRecord) -> frozenset[str]:
        """Digests of what this run has made before, in an attempt that was to stop early."""
        videos = {link.digest for link in self.store.links_of(run.id) if link.stage == "video"}
        return frozenset({run.latents, *videos} - {""})

    def _read(self, digest: str) -> bytearray:
        try:
            return blobs.get(self.store.root, digest)
        except (BlobMissing, BlobCorrupt):
            self.store.forget_blob(digest)
            raise


@dataclass(frozen=True)
class Made:
    """What a run made. video: bytes of an mp4; latents: bytes of a safetensors file; frames: uint8 [T,H,W,3]."""

    video: bytes | bytearray | None
    latents: bytes | bytearray | None
    frames: Any

    def is_at(self, kind: str, path: Path) -> bool:
        """Whether the file is there already, as this run leaves it that is ended after it was written."""
        data = {"video": self.video, "latents": self.latents}.get(kind)
        return data is not None and path.is_file() and path.read_bytes() == data

    def write(self, path: Path, spec: RunSpec) -> str:
        """Writes the files of the run and returns the path of the main one."""
        targets = output_paths(path, spec.output.kinds)
        if "video" in targets and self.video is not None:
            media.write_bytes(targets["video"], self.video)
        if "frames" in targets and self.frames is not None:
            media.write_frames(targets["frames"], self.frames)
        if "latents" in targets and self.latents is not None:
            media.write_bytes(targets["latents"], self.latents)
        return str(next(iter(targets.values())))


def reuse_steps(store: Store, run: RunRecord, plan: Plan, total: int, control: Control) -> None:
    """Records that the run has the first `total` steps from the store, and tells it."""
    for step in plan.steps[:total]:
        if step.link is None:
            continue
        sigma, timestep = (
            plan.route.course.sigmas[step.index],
            int(plan.route.course.timesteps[step.index]),
        )
        reuse(
            store,
            run,
            step.link,
            control,
            stage="step",
            index=step.index,
            sigma=sigma,
            timestep=timestep,
        )
        control.emit(
            StepFinished(
                step=step.index + 1,
                total=plan.total,
                sigma=sigma,
                timestep=timestep,
                seconds=0.0,
                source=REUSED,
            )
        )


def reuse_texts(store: Store, run: RunRecord, plan: Plan, control: Control) -> None:
    """Records the prompts of a run that is stored whole: a clean-up leaves what some run names."""
    links = store.find_links([text.key for text in plan.texts])
    for index, text in enumerate(plan.texts):
        if text.key in links:
            reuse(store, run, links[text.key], control, stage="text", index=index)


def reuse_video(store: Store, run: RunRecord, plan: Plan, control: Control) -> None:
    found = store.find_links([plan.video])
    if plan.video in found:
        reuse(store, run, found[plan.video], control, stage="video", index=0)


def reuse(
    store: Store,
    run: RunRecord,
    link: LinkRecord,
    control: Control,
    *,
    stage: str,
    index: int,
    sigma: float | None = None,
    timestep: int | None = None,
) -> None:
    """Records that a run took a link from the store: as it is now, since a clean-up may have thinned it."""
    with control.recording("what was reused"), writing(store.root):
        store.record_link(
            run.id,
            store.find_links([link.key]).get(link.key, link),
            stage=stage,
            index=index,
            source=REUSED,
            seconds=0.0,
            sigma=sigma,
            timestep=timestep,
        )


def memory_sample() -> MemorySampled:
    """Resident memory of this process, and what torch holds on a GPU."""
    import sys

    torch = sys.modules.get("torch")
    device = torch.cuda.memory_allocated() if torch is not None and torch.cuda.is_available() else 0
    return MemorySampled(rss_bytes=psutil.Process().memory_info().rss, device_bytes=device)


def _num_reused(plan: Plan) -> int:
    return plan.start if "denoiser" in plan.needs else plan.total


def _free_path(
    path: Path,
    spec: RunSpec,
    run_id: str,
    made: Made,
    earlier: Collection[str],
    control: Control,
) -> Path:
    """The output path, or one named after the run where somebody else's file took it in the meantime.

    earlier: digests of what the run wrote there before, when it was to stop early.
    """
    taken = [
        target
        for kind, target in output_paths(path, spec.output.kinds).items()
        if target.exists() and not made.is_at(kind, target) and not _is_one_of(target, earlier)
    ]
    if not taken or spec.output.overwrite:
        return path
    free = path.with_stem(f"{path.stem}-{run_id}")
    control.warn(f"{taken[0]} appeared during the run; writing {free}")
    return free


def _is_one_of(path: Path, digests: Collection[str]) -> bool:
    return bool(digests) and path.is_file() and blobs.digest_of(path.read_bytes()) in digests
