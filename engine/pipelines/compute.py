"""What of a run has to be computed: encode, denoise, decode, each result stored as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from engine import media, registry
from engine.component import KINDS
from engine.dtypes import torch_device
from engine.models.vae.latent_rgb import LatentRGB
from engine.pipelines import stages
from engine.pipelines.chain import VERSIONS, prompts_of
from engine.pipelines.journal import Entry, Journal
from engine.pipelines.models import Models, environment, out_of_memory_explained
from engine.pipelines.plan import Plan, TextLink, encode_facts, is_stored
from engine.pipelines.previews import colours_of, preview_of
from engine.pipelines.runner import (
    Control,
    Made,
    memory_sample,
    reuse,
    reuse_steps,
    reuse_texts,
    reuse_video,
)
from engine.pipelines.stages import Step
from engine.pipelines.thinning import kept_steps
from engine.pipelines.walk import Unfaithful, latents_digest, prediction, rebuilt
from engine.prompt import clean_prompt
from engine.schedulers.scheduler import Scheduler, SolverState, follow_course
from presets.spec import RunSpec
from store.blobs import blobs
from store.blobs.tensors import encode_tensors, get_tensors
from store.errors import BlobCorrupt, BlobMissing, StoreError
from store.index.index import Index, open_index
from store.index.previews import Preview
from store.lineage.events import ChunkDecoded, LatentsStored, Message, StepFinished
from store.lineage.records import COMPUTED, LinkRecord
from store.store import RunRecord, Store
from store.upkeep.gc import writing


@dataclass(frozen=True)
class Denoised:
    """Where the denoising ended. shown: what to decode, the latents or, of a run that stops early, the clean
    latents that its last step points to."""

    latents: Tensor
    shown: Tensor


class Computer:
    """Computes for the runs of one store; `models` are held between them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.models = Models()
        self._index = open_index(store.root)

    def made(self, run: RunRecord, plan: Plan, control: Control, again: Callable[[], Plan]) -> Made:
        """Everything that the run was asked for. again: the plan anew, after something was stored or lost."""
        spec = plan.spec
        self.models.set_threads(spec)
        self._load(plan, control)
        states, plan = self._texts(run, plan, control, again)
        with control.stage("denoise", cached="denoiser" not in plan.needs):
            with out_of_memory_explained("denoise"):
                denoised = self._denoised(run, plan, control, states, again)
            latents = encode_tensors({"latents": denoised.latents.cpu()})
            self._keep_latents(run, latents, control)
        kinds = set(spec.output.kinds)
        video, frames = None, None
        if kinds - {"latents"}:
            plan = again()
            video, frames = self._pictures(run, plan, denoised, control)
        return Made(video=video, latents=latents if "latents" in kinds else None, frames=frames)

    def _load(self, plan: Plan, control: Control) -> None:
        parts = {kind: getattr(plan.spec.components, kind) for kind in KINDS if kind in plan.needs}
        held = all(self.models.is_held(kind, part) for kind, part in parts.items())
        with control.stage("load", cached=held), out_of_memory_explained("load"):
            for kind, part in parts.items():
                control.check()
                self._component(kind, part, control)

    def _component(self, kind: str, part: Any, control: Control) -> Any:
        """The component of a spec, of the very files that the plan's keys were made from."""
        component = self.models.component(kind, part, _teller(control))
        control.check_files(kind, part)
        return component

    def _texts(
        self, run: RunRecord, plan: Plan, control: Control, again: Callable[[], Plan]
    ) -> tuple[dict[str, Tensor], Plan]:
        """(token states by key, the plan with their digests known); none where no step needs them."""
        is_needed = "denoiser" in plan.needs
        is_encoded = is_needed and not all(text.is_stored for text in plan.texts)
        with (
            control.stage("text_encode", cached=not is_encoded),
            out_of_memory_explained("text_encode"),
        ):
            if is_needed:
                return self._all_texts(run, plan, control, again)
            reuse_texts(self.store, run, plan, control)
            return {}, plan

    def _all_texts(
        self, run: RunRecord, plan: Plan, control: Control, again: Callable[[], Plan]
    ) -> tuple[dict[str, Tensor], Plan]:
        states: dict[str, Tensor] = {}
        is_encoded = False
        for index, text in enumerate(plan.texts):
            stored = self._stored_text(run, text, index, control)
            is_encoded |= stored is None
            states[text.key] = (
                self._encoded(run, text, index, control) if stored is None else stored
            )
        # also where a prompt was known before: today's states may have other bytes, and then it is another chain
        return states, again() if is_encoded else plan

    def _stored_text(
        self, run: RunRecord, text: TextLink, index: int, control: Control
    ) -> Tensor | None:
        """The stored token states of a prompt; None where there are none or they are damaged."""
        if not text.is_stored:
            return None
        try:
            states = self._read(text.digest)["states"]
        except (BlobMissing, BlobCorrupt) as error:
            control.warn(f"{error}; it is computed again")
            return None
        link = self.store.find_links([text.key])[text.key]
        reuse(self.store, run, link, control, stage="text", index=index)
        return states

    def _encoded(self, run: RunRecord, text: TextLink, index: int, control: Control) -> Tensor:
        """The token states of a prompt, encoded and stored."""
        part = text.spec.components.text_encoder
        encoder = self._component("text_encoder", part, control)
        begun = time.perf_counter()
        states = stages.encode_prompt(encoder, text.spec, text.prompt)
        facts = {"version": VERSIONS["text"], "prompt": clean_prompt(text.prompt)}
        self._store_link(
            run,
            LinkRecord(
                text.key,
                "text",
                seconds=time.perf_counter() - begun,
                environment=environment(states.device),
                facts=encode_facts(facts),
            ),
            encode_tensors({"states": states}),
            control,
            stage="text",
            index=index,
        )
        return states

    def _denoised(
        self,
        run: RunRecord,
        plan: Plan,
        control: Control,
        states: dict[str, Tensor],
        again: Callable[[], Plan],
    ) -> Denoised:
        """The latents after the plan's steps: read, rebuilt, or rebuilt as far as possible and then computed."""
        if plan.final and not plan.is_partial:
            try:
                latents = self._read(plan.final)["latents"]
            except (BlobMissing, BlobCorrupt) as error:
                control.warn(f"{error}; it is computed again")
                plan = again()
            else:
                reuse_steps(self.store, run, plan, plan.total, control)
                return Denoised(latents, latents)
        scheduler = follow_course(plan.route.course)
        root = plan.route.parts[0].spec
        noise = stages.draw_noise(root, plan.latent_channels, self._device(root, control))
        state, before = self._rebuilt(run, plan, scheduler, noise, control, again)
        if state.step < plan.total:
            if not states:  # steps that seemed to be stored turned out not to be
                states, plan = self._all_texts(run, plan, control, again)
                state, before = self._rebuilt(run, plan, scheduler, noise, control, again)
            for step in self._computed(run, plan, scheduler, state, states, control):
                before = (state, step.velocity)
                state = step.state
        return Denoised(state.latents, _shown(plan, scheduler, state, before))

    def _device(self, spec: RunSpec, control: Control) -> torch.device:
        """Where the denoiser of a spec runs; ours need not be loaded to know."""
        part = spec.components.denoiser
        if registry.is_builtin("denoiser", part.name):
            return torch_device(part.device)
        device: torch.device = self._component("denoiser", part, control).device
        return device

    def _rebuilt(
        self,
        run: RunRecord,
        plan: Plan,
        scheduler: Scheduler,
        noise: Tensor,
        control: Control,
        again: Callable[[], Plan],
    ) -> tuple[SolverState, tuple[SolverState, Tensor | None] | None]:
        """(the deepest stored state, the one before it with its velocity): as far as what is stored can be read and
        leads to the latents on record; the noise where that is not a step."""
        state = scheduler.start(noise)
        before: tuple[SolverState, Tensor | None] | None = None
        try:
            for step in rebuilt(self.store, scheduler, noise, plan.steps[: plan.start]):
                before = (state, step.velocity)
                state = step.state
        except Unfaithful as error:
            control.warn(f"{error}; the run goes on from step {state.step}")
        except (BlobMissing, BlobCorrupt) as error:
            now = again()  # there may be an earlier keyframe than the one that is gone
            control.warn(f"{error}; the run goes on from step {max(now.start, state.step)}")
            if now.start > state.step:
                return self._rebuilt(run, now, scheduler, noise, control, again)
        reuse_steps(self.store, run, plan, state.step, control)
        return state, before

    def _computed(
        self,
        run: RunRecord,
        plan: Plan,
        scheduler: Scheduler,
        state: SolverState,
        states: dict[str, Tensor],
        control: Control,
    ) -> Iterator[Step]:
        """The steps from `state` on, each stored as the run's policy says and told."""
        kept = kept_steps(plan.spec.keep, plan.total, state.latents.nbytes)
        colours = colours_of(plan.spec.components.vae, plan.latent_channels)
        where = environment(state.latents.device)
        with control.recording("the environment"):
            self.store.set_environment(run.id, where)

        def contexts_of(spec: RunSpec) -> list[Tensor]:
            return self._contexts(plan, spec, states)

        def denoiser_of(spec: RunSpec) -> Any:
            return self._component("denoiser", spec.components.denoiser, control)

        walk = stages.advance(denoiser_of, plan.route, scheduler, state, contexts_of, plan.total)
        with Journal(self.store.root, run.id, control.warn, self._preview_index()) as journal:
            for step in walk:
                before, state = state, step.state
                number = state.step
                planned = plan.steps[number - 1]
                if planned.key:
                    tensors, is_keyframe = _to_keep(step, kept, plan)
                    link = LinkRecord(
                        planned.key,
                        "step",
                        seconds=step.seconds,
                        environment=where,
                        facts=encode_facts(planned.facts),
                    )
                    journal.put(
                        Entry(
                            link, number - 1, step.sigma, step.timestep, state.latents, tensors,
                            is_keyframe, _preview(colours, scheduler, before, step),
                        )
                    )  # fmt: skip
                control.emit(
                    StepFinished(
                        step=number,
                        total=plan.total,
                        sigma=step.sigma,
                        timestep=step.timestep,
                        seconds=step.seconds,
                        mean=float(state.latents.mean()),
                        std=float(state.latents.std()),
                        change=_change(before.latents, state.latents),
                    )
                )
                control.emit(memory_sample())
                yield step
                control.check()

    def _preview_index(self) -> Index:
        """Kept open between runs: opening it takes as long as all the previews of a small one."""
        if self._index.previews.is_off:
            self._index = open_index(self.store.root)
        return self._index

    def _contexts(self, plan: Plan, spec: RunSpec, states: dict[str, Tensor]) -> list[Tensor]:
        """The token states of a spec's prompts, which `_texts` has read or made."""
        keys = {part: text.key for text in plan.texts for part in text.parts}
        encoder = spec.components.text_encoder
        return [states[keys[encoder, prompt]] for prompt in prompts_of(spec)]

    def _keep_latents(self, run: RunRecord, latents: bytes, control: Control) -> None:
        """Stores the latents; a store that cannot take them costs the safety net, not the run."""
        try:
            with writing(self.store.root):
                digest = blobs.put(self.store.root, latents)
                self.store.set_latents(run.id, digest)
        except StoreError as error:
            control.warn(f"the latents could not be stored: {error}")
        else:
            control.emit(LatentsStored(digest=digest))

    def _pictures(
        self, run: RunRecord, plan: Plan, denoised: Denoised, control: Control
    ) -> tuple[bytes | bytearray | None, Tensor | None]:
        """(the encoded video, the frames), each where it was asked for."""
        wants_video = "video" in plan.spec.output.kinds
        with control.stage("decode", cached="vae" not in plan.needs):
            video: bytes | bytearray | None = None
            if wants_video and plan.video_digest:
                try:
                    video = blobs.get(self.store.root, plan.video_digest)
                    reuse_video(self.store, run, plan, control)
                except (BlobMissing, BlobCorrupt) as error:
                    self.store.forget_blob(plan.video_digest)
                    control.warn(f"{error}; it is computed again")
            if (video is not None or not wants_video) and not plan.wants_frames:
                return video, None
            begun = time.perf_counter()
            part = plan.spec.components.vae
            with out_of_memory_explained("decode"):
                vae = self._component("vae", part, control)
                frames = media.to_uint8(_decoded(vae, denoised.shown, control))
            if wants_video and video is None:
                video = media.encode_video(
                    [frames],
                    fps=plan.spec.fps,
                    size=(plan.spec.height, plan.spec.width),
                    comment=f"modiff {latents_digest(denoised.latents)}",
                )
                self._store_video(run, plan, video, time.perf_counter() - begun, control)
        return video, frames if plan.wants_frames else None

    def _store_video(
        self, run: RunRecord, plan: Plan, video: bytes, seconds: float, control: Control
    ) -> None:
        if plan.video:
            link = LinkRecord(plan.video, "video", seconds=seconds)
            self._store_link(run, link, video, control, stage="video", index=0)

    def _store_link(
        self,
        run: RunRecord,
        link: LinkRecord,
        data: bytes,
        control: Control,
        *,
        stage: str,
        index: int,
    ) -> None:
        """Stores a result and its link; a store that cannot take it costs the reuse, not the run."""
        try:
            with writing(self.store.root):
                known = self.store.find_links([link.key]).get(link.key)
                if known is not None and known.digest and not is_stored(self.store, known.digest):
                    self.store.forget_blob(known.digest)  # else the new bytes would not replace it
                digest = blobs.put(self.store.root, data)
                self.store.record_link(
                    run.id,
                    replace(link, digest=digest, num_bytes=len(data)),
                    stage=stage,
                    index=index,
                    source=COMPUTED,
                    seconds=link.seconds,
                )
        except StoreError as error:
            control.warn(f"the {stage} could not be stored: {error}")

    def _read(self, digest: str) -> dict[str, Tensor]:
        try:
            return get_tensors(self.store.root, digest)
        except (BlobMissing, BlobCorrupt):
            self.store.forget_blob(digest)
            raise


def _teller(control: Control) -> Callable[[str], None]:
    return lambda text: control.emit(Message(level="info", text=text))


def _decoded(vae: Any, latents: Tensor, control: Control) -> Tensor:
    began = time.perf_counter()

    def on_chunk(done: int, total: int) -> None:
        nonlocal began
        now = time.perf_counter()
        control.emit(ChunkDecoded(chunk=done, total=total, seconds=now - began))
        began = now
        control.check()

    return stages.decode(vae, latents, on_chunk=on_chunk)


def _preview(
    colours: LatentRGB | None, scheduler: Scheduler, before: SolverState, step: Step
) -> Callable[[], Preview] | None:
    """Makes the preview of a step, later and elsewhere: of the clean latents that it points to."""
    velocity = step.velocity
    if colours is None or velocity is None:
        return None

    def make() -> Preview:
        # two parts of a branched run may have denoisers on two devices
        moved = velocity.to(before.latents.device)
        return preview_of(colours, prediction(scheduler, before, moved))

    return make


def _change(before: Tensor, after: Tensor) -> float:
    """How far a step has moved the latents: ||after - before|| / ||before||."""
    return float(torch.dist(after, before) / torch.linalg.vector_norm(before))


def _to_keep(step: Step, kept: frozenset[int] | None, plan: Plan) -> tuple[dict[str, Tensor], bool]:
    """(what to store of a step, whether that is a keyframe).

    A run that stops early is made to be gone on with, and shows what its last velocity points to: that one is
    kept whatever the policy says, and the state that it starts from.
    """
    number = step.state.step
    if kept is None or (plan.is_partial and number == plan.total):
        return ({} if step.velocity is None else {"velocity": step.velocity}), False
    if number in kept or (plan.is_partial and number == plan.total - 1):
        return step.state.to_tensors(), True
    return {}, False


def _shown(
    plan: Plan,
    scheduler: Scheduler,
    state: SolverState,
    before: tuple[SolverState, Tensor | None] | None,
) -> Tensor:
    if not plan.is_partial or before is None:
        return state.latents
    earlier, velocity = before
    assert velocity is not None, (
        "the plan of a run that stops early begins before its last velocity"
    )
    return prediction(scheduler, earlier, velocity)
