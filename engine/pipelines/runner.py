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
from store.events import (
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

# Below this many tokens a second thread gains a third on an idle machine and loses tenfold on a busy one,
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

        @contextmanager
        def stage(name: str, *, cached: bool = False) -> Iterator[None]:
            if cancelled():
                raise RunCancelled
            emit(StageStarted(stage=name))
            started = time.perf_counter()
            with _out_of_memory_explained(name):
                yield
            seconds = time.perf_counter() - started
            emit(StageFinished(stage=name, seconds=seconds, cached=cached))
            emit(self._memory())

        small = stages.num_tokens(spec) <= ONE_THREAD_TOKENS
        torch.set_num_threads(1 if small else self._num_threads)
        with stage("load", cached=all(self._holds(kind, spec) for kind in KINDS)):
            components = {kind: self._component(kind, spec, emit) for kind in KINDS}
        with stage("text_encode"):
            contexts = stages.encode_prompts(components["text_encoder"], spec)
        with stage("denoise"):
            latents = self._denoise(components["denoiser"], spec, contexts, emit, cancelled)
            digest = blobs.put(self.root, encode_tensors({"latents": latents.cpu()}))
            emit(LatentsStored(digest=digest))
        frames = None
        if set(spec.output.kinds) - {"latents"}:
            with stage("decode"):
                frames = media.to_uint8(stages.decode(components["vae"], latents))
        with stage("mux"):
            return _write(Path(run.output), spec, frames, latents, comment=f"modiff run {run.id}")

    def _holds(self, kind: str, spec: RunSpec) -> bool:
        held = self._loaded.get(kind)
        return held is not None and held[0] == getattr(spec.components, kind)

    def _component(self, kind: str, spec: RunSpec, emit: Emit) -> Any:
        if not self._holds(kind, spec):
            wanted = getattr(spec.components, kind)
            self._loaded.pop(kind, None)  # freed before its successor is read
            self._loaded[kind] = (wanted, registry.load(kind, wanted))
            emit(Message(level="info", text=f"loaded {kind} {wanted.name} ({wanted.dtype})"))
        return self._loaded[kind][1]

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

    def _memory(self) -> MemorySampled:
        device = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
        return MemorySampled(rss_bytes=self._process.memory_info().rss, device_bytes=device)


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
        # the CPU allocator has no exception type of its own
        if "not enough memory" not in str(error):
            raise
        raise RunFailed(f"out of memory in stage {stage}; {advice}") from None


def _write(path: Path, spec: RunSpec, frames: Tensor | None, latents: Tensor, comment: str) -> str:
    targets = output_paths(path, spec.output.kinds)
    if "video" in targets and frames is not None:
        media.write_video(targets["video"], frames, fps=spec.fps, comment=comment)
    if "frames" in targets and frames is not None:
        media.write_frames(targets["frames"], frames)
    if "latents" in targets:
        media.write_bytes(targets["latents"], encode_tensors({"latents": latents.cpu()}))
    return str(next(iter(targets.values())))
