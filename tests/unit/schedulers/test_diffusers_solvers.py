"""Parity with diffusers' solvers, an independent implementation, given the same sigmas."""

from __future__ import annotations

import pytest
import torch

from engine.schedulers.noise import step_noise
from engine.schedulers.scheduler import create_scheduler
from tests.oracles.later import diffusers


def unipc_peer(sigmas: list[float]):
    peer = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True
    )
    peer.set_timesteps(sigmas=torch.tensor(sigmas, dtype=torch.float64).numpy())
    return peer


def dpm_peer(sigmas: list[float]):
    peer = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True
    )
    peer.set_timesteps(len(sigmas))
    # It takes no sigmas of the caller's; these two are all that its steps read.
    peer.sigmas = torch.tensor([*sigmas, 0.0])
    peer.timesteps = (peer.sigmas[:-1] * 1000).to(torch.int64)
    return peer


def sde_dpm_peer(sigmas: list[float]):
    peer = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, algorithm_type="sde-dpmsolver++"
    )
    peer.set_timesteps(len(sigmas))
    peer.sigmas = torch.tensor([*sigmas, 0.0])
    peer.timesteps = (peer.sigmas[:-1] * 1000).to(torch.int64)
    return peer


def euler_peer(sigmas: list[float]):
    peer = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    peer.set_timesteps(sigmas=sigmas)
    return peer


PEERS = {"unipc": unipc_peer, "dpm++": dpm_peer, "sde-dpm++": sde_dpm_peer, "euler": euler_peer}


@pytest.mark.parametrize("shift", [1.0, 5.0, 12.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 14, 15, 30])
@pytest.mark.parametrize("name", PEERS)
def test_steps_match(gaussian, name, steps, shift):
    # The peer's UniPC cannot take sigma 1; its own grid is the one thing it starts from.
    grid = "diffusers" if name == "unipc" else "wan"
    scheduler = create_scheduler(name, num_steps=steps, shift=shift, grid=grid)
    sigmas = scheduler.sigmas.tolist()
    peer = PEERS[name](sigmas[:-1])
    assert torch.equal(peer.sigmas, scheduler.sigmas)
    peer.set_begin_index(0)

    noise = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(steps))
    state, theirs = scheduler.start(noise), noise
    for sigma, timestep in zip(sigmas[:-1], peer.timesteps, strict=True):
        ours_velocity = gaussian.velocity(state.latents, sigma)
        their_velocity = gaussian.velocity(theirs, sigma)
        fresh = step_noise(steps, state.step, noise.shape)
        given = {"variance_noise": fresh} if scheduler.updates[0].noise else {}
        state = scheduler.step(state, ours_velocity, fresh)
        theirs = peer.step(their_velocity, timestep, theirs, return_dict=False, **given)[0]
        assert (state.latents - theirs).abs().max() <= 1e-5
