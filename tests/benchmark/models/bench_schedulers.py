"""What a solver step costs beside the model: ours against diffusers', in one process.

Interleaved, so that both see the same load; own CPU seconds, medians. `floor` is one linear
combination of five tensors. The ratios are the result; milliseconds belong to the machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from typing import TYPE_CHECKING

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from engine.schedulers.scheduler import create_scheduler

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEDULERS = ("unipc", "dpm++", "euler")
SIZES = {
    "480p": (1, 16, 21, 60, 104),
    "720p": (1, 16, 21, 90, 160),
    "tiny": (1, 16, 5, 16, 16),
}
STEPS = 50
SHIFT = 5.0


def our_run(name: str, noise: torch.Tensor, velocity: torch.Tensor) -> Callable[[], torch.Tensor]:
    scheduler = create_scheduler(name, num_steps=STEPS, shift=SHIFT)

    def run() -> torch.Tensor:
        state = scheduler.start(noise)
        for _ in range(STEPS):
            state = scheduler.step(state, velocity)
        return state.latents

    return run


def their_run(name: str, noise: torch.Tensor, velocity: torch.Tensor) -> Callable[[], torch.Tensor]:
    if name == "euler":
        scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    else:
        peers = {"unipc": UniPCMultistepScheduler, "dpm++": DPMSolverMultistepScheduler}
        scheduler = peers[name](
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
        )

    def run() -> torch.Tensor:
        latents = noise
        scheduler.set_timesteps(STEPS)
        for timestep in scheduler.timesteps:
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        return latents

    return run


def floor_run(noise: torch.Tensor) -> Callable[[], torch.Tensor]:
    operands = [torch.randn_like(noise) for _ in range(4)]

    def run() -> torch.Tensor:
        for _ in range(STEPS):
            total = torch.mul(noise, 0.9)
            for operand in operands:
                total.add_(operand, alpha=0.1)
        return total

    return run


def milliseconds(runs: dict[str, Callable[[], torch.Tensor]], rounds: int) -> dict[str, float]:
    """Median CPU milliseconds per step, one untimed round first."""
    spent: dict[str, list[float]] = {label: [] for label in runs}
    for number in range(rounds + 1):
        for label, run in runs.items():
            begun = time.process_time()
            run()
            if number:
                spent[label].append((time.process_time() - begun) / STEPS * 1e3)
    return {label: statistics.median(values) for label, values in spent.items()}


def measure(size: str, rounds: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    noise, velocity = (torch.randn(SIZES[size], generator=generator) for _ in range(2))
    runs = {"floor": floor_run(noise)}
    for name in SCHEDULERS:
        runs[f"ours {name}"] = our_run(name, noise, velocity)
        runs[f"diffusers {name}"] = their_run(name, noise, velocity)
    cost = milliseconds(runs, rounds)
    unipc = cost["diffusers unipc"]
    return {
        "size": size,
        "shape": SIZES[size],
        "ms_per_step": {label: round(value, 4) for label, value in cost.items()},
        "ratio_to_diffusers_same_solver": {
            name: round(cost[f"ours {name}"] / cost[f"diffusers {name}"], 3) for name in SCHEDULERS
        },
        "ratio_to_diffusers_unipc": {
            name: round(cost[f"ours {name}"] / unipc, 3) for name in SCHEDULERS
        },
        "unipc_ratio_to_floor": round(cost["ours unipc"] / cost["floor"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all", help="latent size")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of 50 steps each")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = list(SIZES) if arguments.size == "all" else [arguments.size]
    results = [measure(size, arguments.rounds) for size in sizes]
    report = {
        "torch": torch.__version__,
        "threads": arguments.threads,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "results": results,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
