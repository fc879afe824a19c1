"""Latents to begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.dtypes import torch_device

if TYPE_CHECKING:
    from engine.execute import Job
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


def device_of(node: Node) -> torch.device:
    """Where the chain that begins with this noise is computed: where its first denoiser runs."""
    return torch_device(node.hints["device"])


def derive(job: Job, node: Node, output: str) -> dict[str, Tensor]:
    """Noise is drawn again whenever it is asked for."""
    return {"latents": noise(node, device_of(node))}
