"""What is to be made of a run: the outputs that are asked for, in the graph of its task. Torch-free to import."""

from __future__ import annotations

from collections.abc import Collection

from engine.graph import Targets
from engine.tasks.route import Route
from engine.tasks.wan import Describe, graph_of
from presets.spec.run import RunSpec


def targets_of(
    route: Route, describe: Describe, stop_at: int | None, kinds: Collection[str] = ()
) -> Targets:
    """The graph of a run on this machine. kinds: of outputs, those of its spec where empty."""
    return graph_of(
        route,
        describe,
        kinds or route.spec.output.kinds,
        noise_device=_noise_device(route.parts[0].spec),
        stop_at=stop_at,
    )


def _noise_device(spec: RunSpec) -> str:
    """The type of the device that draws the noise of a run: the CPU, or the denoiser's with `noise = "wan"`, which
    for a device of `auto` only torch can tell."""
    if spec.noise == "cpu":
        return "cpu"
    device = spec.components.denoiser.device
    if device != "auto":
        return device.partition(":")[0]
    from engine.dtypes import torch_device

    return torch_device("auto").type
