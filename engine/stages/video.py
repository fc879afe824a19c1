"""Latents into pixels, and pixels into a video."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from engine.chain.previews import Thumbnails
from engine.execution.jobs import Job
from engine.graph import Ref
from engine.output import media
from engine.reports import NodeResult
from engine.stages.finite import not_finite
from store.lineage.events import ChunkDecoded


def decode(job: Job) -> Iterator[NodeResult]:
    """The bytes of a video file, and the frames uint8 [T,H,W,3] where they are asked for. Chunks are encoded as they
    come, so that the clip is never held as floats. Raises RunFailed where the video is not finite."""
    (node,) = job.nodes
    shown = node.inputs["latents"]
    assert isinstance(shown, Ref)
    latents = job.tensors(shown)["latents"]
    wanted = job.wanted(node)
    kept: list[Tensor] = []
    thumbnails = Thumbnails()
    with job.component(node) as vae:
        begun = time.perf_counter()
        chunks = _shown(_chunks(job, vae.decode(latents, on_chunk=_teller(job))), thumbnails)
        if "frames" in wanted:
            chunks = _collected(chunks, kept)
        outputs: dict[str, object] = {}
        if "video" in wanted:
            outputs["video"] = media.encode_video(
                chunks,
                format=node.params["format"],
                fps=node.params["fps"],
                scale=node.params.get("scale", (1, "nearest")),
                size=(node.hints["height"], node.hints["width"]),
                comment=f"modiff {job.digest(Ref(shown.node, 'latents'))}",
            )
        else:
            for _ in chunks:
                pass
        seconds = time.perf_counter() - begun
    if "frames" in wanted:
        outputs["frames"] = torch.cat(kept)
    yield NodeResult(node, outputs, seconds, preview=thumbnails.preview)


def _chunks(job: Job, decoded: Iterator[Tensor]) -> Iterator[Tensor]:
    """Chunks fp32 [1,3,t,H,W] -> uint8 [t,H,W,3]."""
    for chunk in decoded:
        if not bool(chunk.isfinite().all()):
            raise not_finite(job, job.nodes[0], "the decoded video is not finite (its latents are)")
        yield media.to_uint8(chunk[0])


def _shown(chunks: Iterator[Tensor], thumbnails: Thumbnails) -> Iterator[Tensor]:
    for chunk in chunks:
        thumbnails.add(chunk)
        yield chunk


def _collected(chunks: Iterator[Tensor], kept: list[Tensor]) -> Iterator[Tensor]:
    for chunk in chunks:
        kept.append(chunk)
        yield chunk


def _teller(job: Job) -> Callable[[int, int], None]:
    """Tells of each piece of work, with the seconds since the one before it."""
    since = time.perf_counter()

    def on_chunk(done: int, total: int) -> None:
        nonlocal since
        now = time.perf_counter()
        job.tell(ChunkDecoded(chunk=done, total=total, seconds=now - since))
        since = now

    return on_chunk
