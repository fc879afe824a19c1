"""Executes one run after another, keeping the models that both use.

Stages in order: load, text_encode, denoise, decode, mux. The latents are in the store before decoding starts,
so that a failed decode loses no denoising.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from engine import media, registry
from engine.component import KINDS
from engine.errors import RunCancelled, RunFailed
from engine.outputs import output_paths
from engine.pipelines import stages
from presets.spec import RunSpec
from store import blobs
from store.errors import StoreError
from store.events import (
    ChunkDecoded,
    Event,
    LatentsStored,
    MemorySampled,
    Message,
    StageFinished,
    StageStarted,
    StepFinished,
)
from store.store import RunRecord
from store.tensors import encode_tensors

Emit = Callable[[Event], None]

# Below this many tokens a second thread gains a quarter on an idle machine and loses tenfold on a busy one,
# where every small operation waits for the thread that the other program has pushed aside.
ONE_THREAD_TOKENS = 512


class Runner:
    """root: the store's folder. Holds at most one component of each kind, the one used last."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._loaded: dict[str, tuple[Any, Any]] = {}
        self._process = psutil.Process()
        self._num_threads = torch.get_num_threads()

    def execute(
        self, run: RunRecord, spec: RunSpec, *, emit: Emit, cancelled: Callable[[], bool]
    ) -> str:
        """Makes what `spec` describes and returns the path of the (first) output.

        Raises RunCancelled once `cancelled()` says so, RunFailed for a run that cannot go on, and the errors
        of components, checkpoints, the store and the file system, each with a one-line message.
        """

        components: dict[str, Any] = {}
        held: list[bool] = []

        @contextmanager
        def stage(name: str) -> Iterator[None]:
            if cancelled():
                raise RunCancelled
            emit(StageStarted(stage=name))
            started = time.perf_counter()
            with _out_of_memory_explained(name):
                yield
            seconds = time.perf_counter() - started
            emit(StageFinished(stage=name, seconds=seconds, cached=name == "load" and all(held)))
            emit(self._memory())

        small = stages.num_tokens(spec) <= ONE_THREAD_TOKENS
        torch.set_num_threads(1 if small else self._num_threads)
        with stage("load"):
            for kind in KINDS:
                if cancelled():
                    raise RunCancelled
                components[kind], was_held = self._component(kind, spec, emit)
                held.append(was_held)
        with stage("text_encode"):
            contexts = stages.encode_prompts(components["text_encoder"], spec)
        with stage("denoise"):
            latents = self._denoise(components["denoiser"], spec, contexts, emit, cancelled)
            self._keep(latents, emit)
        frames = None
        if set(spec.output.kinds) - {"latents"}:
            with stage("decode"):
                frames = media.to_uint8(self._decode(components["vae"], latents, emit, cancelled))
        with stage("mux"):
            path = _free_path(Path(run.output), spec, run.id, emit)
            return _write(path, spec, frames, latents, comment=f"modiff run {run.id}")

    def _component(self, kind: str, spec: RunSpec, emit: Emit) -> tuple[Any, bool]:
        """The component, and whether it was held already: same spec, same files, none of them changed."""
        wanted = getattr(spec.components, kind)
        identity = (wanted, [_identity(path) for path in registry.files(kind, wanted)])
        held = self._loaded.get(kind)
        if held is not None and held[0] == identity:
            return held[1], True
        self._loaded.pop(kind, None)  # freed before its successor is read
        component = registry.load(kind, wanted)
        self._loaded[kind] = (identity, component)
        emit(Message(level="info", text=f"loaded {kind} {wanted.name} ({wanted.dtype})"))
        return component, False

    def _denoise(
        self,
        denoiser: Any,
        spec: RunSpec,
        contexts: list[Tensor],
        emit: Emit,
        cancelled: Callable[[], bool],
    ) -> Tensor:
        latents = noise = stages.initial_noise(spec, denoiser)
        for step in stages.denoise(denoiser, spec, contexts, noise):
            latents = step.state.latents
            emit(
                StepFinished(
                    step=step.state.step,
                    total=spec.scheduler.steps,
                    sigma=step.sigma,
                    timestep=step.timestep,
                    seconds=step.seconds,
                    mean=float(latents.mean()),
                    std=float(latents.std()),
                )
            )
            emit(self._memory())
            if cancelled():
                raise RunCancelled
        return latents

    def _keep(self, latents: Tensor, emit: Emit) -> None:
        """Stores the latents; a store that cannot take them costs the safety net, not the run."""
        try:
            digest = blobs.put(self.root, encode_tensors({"latents": latents.cpu()}))
        except StoreError as error:
            emit(Message(level="warning", text=f"the latents could not be stored: {error}"))
        else:
            emit(LatentsStored(digest=digest))

    def _decode(
        self, vae: Any, latents: Tensor, emit: Emit, cancelled: Callable[[], bool]
    ) -> Tensor:
        began = time.perf_counter()

        def on_chunk(done: int, total: int) -> None:
            nonlocal began
            now = time.perf_counter()
            emit(ChunkDecoded(chunk=done, total=total, seconds=now - began))
            began = now
            if cancelled():
                raise RunCancelled

        return stages.decode(vae, latents, on_chunk=on_chunk)

    def _memory(self) -> MemorySampled:
        device = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
        return MemorySampled(rss_bytes=self._process.memory_info().rss, device_bytes=device)


def _identity(path: Path) -> tuple[str, int, int, int]:
    """What changes when a file does, whether it was rewritten or replaced."""
    facts = path.stat()
    return str(path), facts.st_ino, facts.st_size, facts.st_mtime_ns


@contextmanager
def _out_of_memory_explained(stage: str) -> Iterator[None]:
    advice = {
        "decode": "try --set components.vae.tile_size=256 or a smaller components.vae.chunk_frames",
        "denoise": "try fewer frames or a smaller size",
    }.get(stage, "try dtype bf16, or device cpu for the text encoder")
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise RunFailed(f"out of memory in stage {stage}; {advice}") from None
    except RuntimeError as error:
        # the CPU allocator has no exception type of its own, and words of its own on each system
        if not any(words in str(error) for words in ("not enough memory", "can't allocate memory")):
            raise
        raise RunFailed(f"out of memory in stage {stage}; {advice}") from None


def _free_path(path: Path, spec: RunSpec, run_id: str, emit: Emit) -> Path:
    """The output path, or one named after the run where somebody else's file took it in the meantime."""
    taken = [target for target in output_paths(path, spec.output.kinds).values() if target.exists()]
    if not taken or spec.output.overwrite:
        return path
    free = path.with_stem(f"{path.stem}-{run_id}")
    emit(Message(level="warning", text=f"{taken[0]} appeared during the run; writing {free}"))
    return free


def _write(path: Path, spec: RunSpec, frames: Tensor | None, latents: Tensor, comment: str) -> str:
    targets = output_paths(path, spec.output.kinds)
    if "video" in targets and frames is not None:
        media.write_video(targets["video"], frames, fps=spec.fps, comment=comment)
    if "frames" in targets and frames is not None:
        media.write_frames(targets["frames"], frames)
    if "latents" in targets:
        media.write_bytes(targets["latents"], encode_tensors({"latents": latents.cpu()}))
    return str(next(iter(targets.values())))
