"""Sigma grids: the published numbers, diffusers' numbers, and what is refused."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.schedulers.course import SCHEDULERS
from engine.schedulers.schedule import linear_grid
from engine.schedulers.scheduler import create_scheduler
from tests.oracles.later import diffusers


@pytest.mark.parametrize(
    ("name", "steps", "shift", "first", "last"),
    [
        ("unipc", 50, 5, [999, 995, 991, 987, 982, 978], [302, 241, 172, 92]),
        ("unipc", 40, 3, [999, 991, 982, 973, 963, 954], [249, 195, 136, 71]),
        ("unipc", 4, 5, [999, 937, 833, 624], [624]),
        ("dpm++", 50, 5, [1000, 995, 991, 987, 982, 978], [303, 241, 172, 92]),
        ("euler", 50, 5, [1000, 995, 991, 987, 982, 978], [303, 241, 172, 92]),
    ],
)
def test_published_timesteps(name, steps, shift, first, last):
    timesteps = create_scheduler(name, num_steps=steps, shift=shift).timesteps.tolist()
    assert timesteps[: len(first)] == first
    assert timesteps[-len(last) :] == last


def test_published_end_sigmas():
    unipc = create_scheduler("unipc", num_steps=50, shift=5).sigmas.tolist()
    assert unipc[0] == pytest.approx(0.99979985, abs=1e-8)
    assert unipc[-2] == pytest.approx(0.0925069, abs=1e-7)
    assert create_scheduler("dpm++", num_steps=50, shift=5).sigmas[0] == 1.0
    assert create_scheduler("unipc", num_steps=50).sigmas.tolist() == unipc


@pytest.mark.parametrize("steps", range(1, 61))
def test_grid_is_spaced_as_numpy_spaces_it(steps):
    for start, stop in ((1.0, 0.0), (0.9990000128746033, 0.0), (1.0, 0.001)):
        assert (
            linear_grid(start, stop, steps) == numpy.linspace(start, stop, steps + 1)[:-1].tolist()
        )


@pytest.mark.parametrize("shift", [1.0, 2.5, 3.0, 5.0, 7.3, 12.0])
def test_diffusers_grids(shift):
    peers = {
        "unipc": diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
        ),
        "dpm++": diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
        ),
        "sde-dpm++": diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=shift,
            algorithm_type="sde-dpmsolver++",
        ),
    }
    for name, peer in peers.items():
        for steps in range(1, 61):
            peer.set_timesteps(steps)
            scheduler = create_scheduler(name, num_steps=steps, shift=shift, grid="diffusers")
            assert torch.equal(scheduler.sigmas, peer.sigmas)
            assert torch.equal(scheduler.timesteps, peer.timesteps)


def test_diffusers_grid_is_not_the_published_one():
    ours, theirs = (create_scheduler("unipc", num_steps=50, grid=g) for g in ("wan", "diffusers"))
    assert 1e-3 < (ours.sigmas - theirs.sigmas).abs().max() < 1e-2


@given(
    name=st.sampled_from(SCHEDULERS),
    steps=st.integers(1, 200),
    shift=st.floats(0.05, 30.0),
)
def test_any_sane_schedule_descends_to_zero(name, steps, shift):
    scheduler = create_scheduler(name, num_steps=steps, shift=shift)
    assert scheduler.num_steps == steps
    assert scheduler.sigmas.shape == (steps + 1,)
    assert scheduler.timesteps.shape == (steps,)
    assert (scheduler.sigmas.diff() < 0).all()
    assert 0 < scheduler.sigmas[0] <= 1
    assert scheduler.sigmas[-1] == 0
    lag = 1000 * scheduler.sigmas[:-1].double() - scheduler.timesteps
    assert ((lag > -1e-4) & (lag < 1 + 1e-4)).all()


def test_custom_sigmas_are_taken_as_they_are():
    for name in SCHEDULERS:
        scheduler = create_scheduler(name, sigmas=(0.9, 0.6, 0.25), shift=7.0, num_steps=3)
        assert torch.equal(scheduler.sigmas, torch.tensor([0.9, 0.6, 0.25, 0.0]))
        assert scheduler.timesteps.tolist() == [900, 600, 250]
        assert scheduler.num_steps == 3
    assert create_scheduler("euler", sigmas=torch.tensor([1.0, 0.5])).timesteps.tolist() == [
        1000,
        500,
    ]


def test_own_sigmas_given_back_are_the_same_schedule():
    grid = create_scheduler("unipc", num_steps=20, shift=3.0)
    custom = create_scheduler("unipc", sigmas=grid.sigmas[:-1].tolist())
    assert torch.equal(grid.sigmas, custom.sigmas)
    assert grid.updates == custom.updates


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ((), "sigmas is empty"),
        ((0.5, 0.5), r"sigmas\[1\] is 0.5 after 0.5: expected strictly descending"),
        ((0.5, 0.6), r"sigmas\[1\] is 0.6 after 0.5"),
        ((1.5, 0.6), r"sigmas\[0\] is 1.5: expected"),
        ((1e306, 0.6), r"sigmas\[0\] is 1e\+306"),
        ((0.9, 0.0), r"sigmas\[1\] is 0.0 after 0.9.*without the final 0"),
        ((0.9, -0.1), r"sigmas\[1\] is -0.1"),
        ((0.9, math.nan), r"sigmas\[1\] is nan"),
        ((math.inf,), r"sigmas\[0\] is inf"),
        ((0.9, 1e-60), r"sigmas\[1\] is 1e-60"),
        ((0.5 + 1e-12, 0.5), r"sigmas\[1\] is 0.5 after 0.500000000001"),
    ],
)
def test_bad_custom_sigmas_are_refused(sigmas, message):
    with pytest.raises(ValueError, match=message):
        create_scheduler("unipc", sigmas=sigmas)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "num_steps is 0: expected a whole number of at least 1"),
        ({"num_steps": -3}, "num_steps is -3"),
        ({"num_steps": 2.5}, "num_steps is 2.5"),
        ({"num_steps": True}, "num_steps is True"),
        ({}, "neither num_steps nor sigmas"),
        ({"num_steps": 3, "sigmas": (0.5,)}, "num_steps is 3 but 1 sigmas are given"),
        ({"num_steps": 5, "shift": math.nan}, "shift is nan: expected a finite number above 0"),
        ({"num_steps": 5, "shift": math.inf}, "shift is inf"),
        ({"num_steps": 5, "shift": 0.0}, "shift is 0.0"),
        ({"num_steps": 5, "shift": -1.0}, "shift is -1.0"),
        ({"num_steps": 5, "shift": 1e300}, "shift 1e[+]300 with 5 steps puts sigmas closer"),
        ({"num_steps": 5, "shift": 1e-300}, "shift 1e-300 with 5 steps puts sigmas closer"),
        ({"num_steps": 5, "grid": "karras"}, "grid 'karras' is not known: use one of wan, diff"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        create_scheduler("unipc", **arguments)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused():
    with pytest.raises(
        ValueError, match="'ddim' is not known: use one of unipc, dpm\\+\\+, sde-dpm"
    ):
        create_scheduler("ddim", num_steps=5)
    with pytest.raises(ValueError, match="grid 'diffusers' is not offered for 'euler'"):
        create_scheduler("euler", num_steps=5, grid="diffusers")
