"""Parity with trajectories that the published Wan 2.1 solvers computed (tests/data)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.schedulers.scheduler import create_scheduler

DATA = Path(__file__).parents[2] / "data"
FILES = {"unipc": "sched_unipc_gauss.safetensors", "dpm++": "sched_dpmpp_gauss.safetensors"}


@pytest.fixture(scope="module")
def trajectories() -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_file(DATA / file) for name, file in FILES.items()}


@pytest.mark.parametrize("shift", [1, 3, 5, 8])
@pytest.mark.parametrize("steps", [5, 10, 20, 50])
@pytest.mark.parametrize("name", ["unipc", "dpm++"])
def test_every_step_is_the_published_one(trajectories, gaussian, name, steps, shift):
    published = {
        key: trajectories[name][f"s{steps}_sh{shift}.{key}"] for key in ("x", "timesteps", "sigmas")
    }
    scheduler = create_scheduler(name, num_steps=steps, shift=shift)
    assert torch.equal(scheduler.sigmas, published["sigmas"])
    assert scheduler.sigmas.dtype == torch.float32
    assert torch.equal(scheduler.timesteps, published["timesteps"])
    assert scheduler.timesteps.dtype == torch.int64

    state = scheduler.start(published["x"][0])
    for timestep, expected in zip(scheduler.timesteps.tolist(), published["x"][1:], strict=True):
        state = scheduler.step(state, gaussian.velocity(state.latents, timestep / 1000))
        assert state.latents.dtype == torch.float32
        assert (state.latents - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["unipc", "dpm++"])
def test_trajectories_tell_neighbouring_shifts_apart(trajectories, gaussian, name):
    published = trajectories[name]["s50_sh5.x"]
    scheduler = create_scheduler(name, num_steps=50, shift=5.01)
    state = scheduler.start(published[0])
    for timestep in scheduler.timesteps.tolist():
        state = scheduler.step(state, gaussian.velocity(state.latents, timestep / 1000))
    assert (state.latents - published[-1]).abs().max() > 1e-5
