"""Latents to begin with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.dtypes import torch_device
from engine.graph import Ref
from engine.reports import NodeResult

if TYPE_CHECKING:
    from engine.execution.jobs import Job
    from engine.graph import Node


def noise(node: Node, device: torch.device) -> Tensor:
    """The initial noise of a run, fp32 of the shape in its params, on `device`.

    source "cpu" draws it on the CPU, the same on every machine; "wan/..." draws it on the denoiser's device, as the
    published code does on its GPU.
    """
    drawn_on = torch.device("cpu") if node.params["source"] == "cpu" else device
    generator = torch.Generator(drawn_on).manual_seed(node.params["seed"])
    drawn = torch.randn(
        node.params["shape"], generator=generator, device=drawn_on, dtype=torch.float32
    )
    return drawn.to(device)


def start(job: Job) -> Iterator[NodeResult]:
    """A clip under noise: (1 - sigma) * clip + sigma * noise, fp32 on the CPU, as diffusers' `scale_noise` has it."""
    (node,) = job.nodes
    begun = time.perf_counter()
    (clip,) = job.tensors(node.inputs["clip"]).values()
    level = torch.tensor(node.params["sigma"], dtype=torch.float32)
    drawn = noise(node, device_of(node)).cpu()
    latents = level * drawn + (1.0 - level) * clip.cpu()
    yield NodeResult(node, {"latents": {"latents": latents}}, time.perf_counter() - begun)


def first_latents(job: Job, node: Node) -> Tensor:
    """What a chain begins with: noise, or what `start` made, on the device of its first denoiser."""
    device = device_of(node)
    if "clip" not in node.inputs:
        return noise(node, device)
    (latents,) = job.tensors(Ref(node, "latents")).values()
    return latents.to(device)


def device_of(node: Node) -> torch.device:
    """Where the chain that begins with this noise is computed: where its first denoiser runs."""
    return torch_device(node.hints["device"])


def derive(job: Job, node: Node, output: str) -> dict[str, Tensor]:
    """Noise is drawn again whenever it is asked for; the state before the first step is its latents."""
    return {"latents": first_latents(job, node)}
