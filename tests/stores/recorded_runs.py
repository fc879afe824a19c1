"""Runs put into a store row by row, as an engine records them, with tensors and frames of the test's own choice."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.output.media import encode_video
from engine.process.version import installed_version
from engine.schedulers.scheduler import SolverState, create_scheduler
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from store.blobs import blobs
from store.blobs.tensors import encode_tensors
from store.keys import derive_key
from store.lineage.records import LinkRecord, Segment
from store.store import Store

CHANNELS = 4


def micro(*overrides: str) -> RunSpec:
    """A run of 5 steps: latents [1,4,5,8,8], 17 frames of 64x64."""
    return load_preset("micro", ["scheduler.steps=5", *overrides])


def wave(t: int, y: int, x: int, phase: float = 0.0) -> Tensor:
    """uint8 [t,y,x,3]: smooth colours that move, so that a codec keeps them."""
    times, rows, columns = torch.meshgrid(
        torch.arange(t), torch.arange(y), torch.arange(x), indexing="ij"
    )
    channels = [
        128 + 90 * torch.sin(columns / 9 + times / 5 + phase),
        128 + 90 * torch.sin(rows / 7 - times / 6 + 2 * phase),
        128 + 60 * torch.cos((rows + columns) / 13 + phase),
    ]
    return torch.stack(channels, dim=-1).byte()


def velocity(index: int, seed: int = 0) -> Tensor:
    """What a denoiser might have said at a step."""
    generator = torch.Generator().manual_seed(1000 * seed + index)
    return torch.randn((1, CHANNELS, 5, 8, 8), generator=generator)


@dataclass
class Recorded:
    """A run in a store. states: the solver's, before the first step and after each."""

    id: str
    states: list[SolverState] = field(default_factory=list)


def record_run(
    store: Store,
    spec: RunSpec,
    *,
    seed: int = 0,
    shared: Recorded | None = None,
    stop: int = 0,
    frames: Tensor | None = None,
    segments: Sequence[Segment] = (),
    keep: Callable[[int], str] = lambda index: "velocity",
    status: str = "done",
    environment: str = "",
) -> Recorded:
    """seed: of its velocities. shared, stop: the run whose first `stop` steps it reuses.

    keep: what is stored of the step with an index: "velocity", "keyframe" or "".
    """
    parent = shared.id if shared else ""
    run_id = store.enqueue(
        encode_spec(spec), preset="micro", output="/v/{run}.mp4", parent=parent, segments=segments
    )
    made = Recorded(run_id)
    with store.register_engine(f"engine{run_id}", pid=os.getpid(), version=installed_version()):
        store.lease(f"engine{run_id}")
        if environment:
            store.set_environment(run_id, environment)
        _record_steps(store, spec, made, seed, shared, stop, keep)
        if frames is not None:
            data = encode_video(
                [frames], fps=spec.fps, size=(frames.shape[1], frames.shape[2]), comment=run_id
            )
            link = LinkRecord(derive_key("video", run_id), "video", blobs.put(store.root, data))
            store.record_link(run_id, link, stage="video", index=0, source="computed", seconds=0.1)
        store.stage(run_id, "denoise", seconds=0.25, cached=False)
        store.finish(run_id, status)
        store.unregister_engine(f"engine{run_id}")
    return made


def _record_steps(
    store: Store,
    spec: RunSpec,
    made: Recorded,
    seed: int,
    shared: Recorded | None,
    stop: int,
    keep: Callable[[int], str],
) -> None:
    wanted = spec.scheduler
    scheduler = create_scheduler(wanted.name, num_steps=wanted.steps, shift=wanted.shift)
    generator = torch.Generator().manual_seed(spec.seed)
    state = scheduler.start(torch.randn((1, CHANNELS, 5, 8, 8), generator=generator))
    made.states.append(state)
    links = store.links_of(shared.id) if shared else []
    reused = {link.index: link for link in links if link.stage == "step"}
    for index in range(scheduler.num_steps):
        is_shared = index < stop
        tensor = velocity(index, 0 if is_shared else seed)
        state = scheduler.step(state, tensor)
        made.states.append(state)
        digest = keyframe = ""
        if keep(index) == "velocity":
            digest = blobs.put(store.root, encode_tensors({"velocity": tensor}))
        elif keep(index) == "keyframe":
            keyframe = blobs.put(store.root, encode_tensors(state.to_tensors()))
        key = derive_key("step", [made.id, index])
        if is_shared:
            key, digest = reused[index].key, reused[index].digest
        latents = encode_tensors({"latents": state.latents})
        store.record_link(
            made.id,
            LinkRecord(key, "step", digest, blobs.digest_of(latents), keyframe),
            stage="step",
            index=index,
            source="reused" if is_shared else "computed",
            seconds=0.0 if is_shared else 0.5,
            sigma=float(scheduler.sigmas[index]),
            timestep=int(scheduler.timesteps[index]),
        )
    store.set_latents(made.id, blobs.put(store.root, latents))
