"""The state: pure steps, exact resume after any step, dtypes, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from engine.schedulers.course import SCHEDULERS
from engine.schedulers.noise import step_noise
from engine.schedulers.scheduler import SolverState, create_scheduler

SHAPES = ((3,), (2, 5), (1, 4, 3, 2, 5), (1, 1, 1))


def same_bits(one: SolverState, other: SolverState) -> bool:
    mine, theirs = one.to_tensors(), other.to_tensors()
    return mine.keys() == theirs.keys() and all(
        mine[name].dtype == theirs[name].dtype and torch.equal(mine[name], theirs[name])
        for name in mine
    )


def copied(state: SolverState) -> SolverState:
    return SolverState(
        latents=state.latents.clone(),
        step=state.step,
        history=tuple(tensor.clone() for tensor in state.history),
    )


def model(state: SolverState, weights: torch.Tensor) -> torch.Tensor:
    """A velocity that depends on the latents nonlinearly, so that errors cannot cancel."""
    return torch.tanh(state.latents * weights) - 0.3 * state.latents.flip(-1)


def fresh(seed: int, state: SolverState) -> torch.Tensor:
    return step_noise(seed, state.step, state.latents.shape)


runs = st.fixed_dictionaries(
    {
        "name": st.sampled_from(SCHEDULERS),
        "num_steps": st.integers(1, 9),
        "shift": st.sampled_from((0.5, 1.0, 3.0, 5.0, 12.0)),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    run=runs,
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from((torch.float32, torch.float64)),
    velocity_dtype=st.sampled_from((torch.float32, torch.bfloat16, torch.float16, torch.float64)),
    seed=st.integers(0, 2**32),
)
def test_steps_are_pure_and_any_state_resumes_exactly(run, shape, dtype, velocity_dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(shape, generator=generator).to(dtype)
    scheduler = create_scheduler(**run)
    state = scheduler.start(torch.randn(shape, generator=generator).to(dtype))
    states = [state]
    for number in range(scheduler.num_steps):
        velocity, noise = model(state, weights).to(velocity_dtype), fresh(seed, state)
        state_before, velocity_before, noise_before = copied(state), velocity.clone(), noise.clone()
        following = scheduler.step(state, velocity, noise)
        assert same_bits(state, state_before)
        assert torch.equal(velocity, velocity_before)
        assert torch.equal(noise, noise_before)
        assert same_bits(scheduler.step(state, velocity, noise), following)
        assert following.step == number + 1
        assert following.latents.dtype == dtype
        assert len(following.history) == scheduler.history_lengths[following.step]
        states.append(following)
        state = following

    again = create_scheduler(**run)
    for stored in states:
        resumed = again.from_tensors(load(save(stored.to_tensors())))
        assert same_bits(resumed, stored)
        while resumed.step < again.num_steps:
            velocity = model(resumed, weights).to(velocity_dtype)
            resumed = again.step(resumed, velocity, fresh(seed, resumed))
        assert same_bits(resumed, states[-1])


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_large_states_resume_exactly(name, threads):
    # Large and odd enough that torch splits the work between threads and has a remainder.
    shape, before = (3, 7, 61, 103), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        scheduler = create_scheduler(name, num_steps=4)
        weights = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        state = scheduler.start(torch.randn(shape, generator=torch.Generator().manual_seed(2)))
        stored = []
        while state.step < 4:
            stored.append(save(state.to_tensors()))
            state = scheduler.step(state, model(state, weights), fresh(5, state))
        for content in stored:
            resumed = scheduler.from_tensors(load(content))
            while resumed.step < 4:
                resumed = scheduler.step(resumed, model(resumed, weights), fresh(5, resumed))
            assert same_bits(resumed, state)
    finally:
        torch.set_num_threads(before)


def test_history_is_no_longer_than_later_steps_need():
    lengths = {name: create_scheduler(name, num_steps=6).history_lengths for name in SCHEDULERS}
    assert lengths == {
        "unipc": (0, 1, 2, 2, 2, 0, 0),
        "dpm++": (0, 0, 1, 1, 1, 0, 0),
        "sde-dpm++": (0, 0, 1, 1, 1, 0, 0),
        "euler": (0,) * 7,
    }


@pytest.mark.parametrize("name", SCHEDULERS)
def test_memory_layout_does_not_change_the_result(name):
    scheduler = create_scheduler(name, num_steps=4)
    generator = torch.Generator().manual_seed(3)
    noise, velocity = (torch.randn(6, 5, 4, generator=generator) for _ in range(2))

    def transposed(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.permute(2, 0, 1).contiguous().permute(1, 2, 0)

    plain, strided = scheduler.start(noise), scheduler.start(transposed(noise))
    for _ in range(4):
        fresh_noise = fresh(3, plain)
        plain = scheduler.step(plain, velocity, fresh_noise)
        strided = scheduler.step(strided, transposed(velocity), transposed(fresh_noise))
        assert same_bits(plain, strided)
        assert all(tensor.is_contiguous() for tensor in strided.to_tensors().values())


def test_start_copies_and_chooses_the_dtype():
    scheduler = create_scheduler("unipc", num_steps=3)
    noise = torch.randn(4)
    state = scheduler.start(noise)
    noise.zero_()
    assert state.latents.abs().sum() > 0
    for given_dtype, kept in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ):
        state = scheduler.start(torch.randn(4).to(given_dtype))
        for _ in range(3):
            state = scheduler.step(state, torch.randn(4).to(torch.bfloat16))
            assert {state.latents.dtype, *(t.dtype for t in state.history)} <= {kept}


def test_no_gradient_is_kept():
    scheduler = create_scheduler("dpm++", num_steps=3)
    state = scheduler.start(torch.randn(4, requires_grad=True))
    state = scheduler.step(state, torch.randn(4, requires_grad=True))
    assert not state.latents.requires_grad


def test_states_and_schedulers_are_frozen():
    scheduler = create_scheduler("euler", num_steps=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        scheduler.name = "unipc"
    with pytest.raises(dataclasses.FrozenInstanceError):
        scheduler.start(torch.randn(2)).step = 1


def test_non_finite_velocity_is_passed_on_for_the_caller_to_see():
    scheduler = create_scheduler("unipc", num_steps=3)
    state = scheduler.step(scheduler.start(torch.zeros(2)), torch.tensor([float("nan"), 1.0]))
    assert state.latents.isnan().tolist() == [True, False]


def test_bad_steps_are_refused():
    scheduler = create_scheduler("unipc", num_steps=2)
    state = scheduler.start(torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"velocity has shape \(3, 2\): expected \(2, 3\)"):
        scheduler.step(state, torch.randn(3, 2))
    with pytest.raises(ValueError, match=r"velocity has shape \(3,\)"):
        scheduler.step(state, torch.randn(3))
    with pytest.raises(ValueError, match=r"velocity is torch.int64"):
        scheduler.step(state, torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="velocity is on meta: the latents are on cpu"):
        scheduler.step(state, torch.randn(2, 3, device="meta"))
    with pytest.raises(ValueError, match=r"latents are torch.int64"):
        scheduler.start(torch.ones(2, dtype=torch.int64))
    for _ in range(2):
        state = scheduler.step(state, torch.randn(2, 3))
    with pytest.raises(ValueError, match="all 2 steps are done"):
        scheduler.step(state, torch.randn(2, 3))


def test_noise_is_asked_for_where_it_is_needed():
    stochastic = create_scheduler("sde-dpm++", num_steps=2)
    state = stochastic.start(torch.randn(2, 3))
    velocity = torch.randn(2, 3)
    with pytest.raises(ValueError, match=r"step 0 of sde-dpm\+\+ adds noise: none is given"):
        stochastic.step(state, velocity)
    with pytest.raises(ValueError, match=r"noise has shape \(3, 2\): expected \(2, 3\)"):
        stochastic.step(state, velocity, torch.randn(3, 2))
    with pytest.raises(ValueError, match="noise is on meta: the latents are on cpu"):
        stochastic.step(state, velocity, torch.randn(2, 3, device="meta"))
    state = stochastic.step(state, velocity, torch.randn(2, 3))
    assert stochastic.step(state, velocity).step == 2  # the last step adds none
    for name in ("unipc", "dpm++", "euler"):
        scheduler = create_scheduler(name, num_steps=2)
        state = scheduler.start(torch.randn(2, 3))
        ignored = scheduler.step(state, velocity, torch.full((2, 3), float("nan")))
        assert same_bits(ignored, scheduler.step(state, velocity))


def stored(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """A valid stored state of unipc after two of five steps, with some tensors replaced."""
    tensors = {
        "latents": torch.zeros(3),
        "step": torch.tensor(2),
        "history.0": torch.zeros(3),
        "history.1": torch.zeros(3),
    }
    for name, tensor in changes.items():
        tensors[name.replace("_", ".")] = tensor
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (stored(latents=None), "no tensor 'latents'"),
        (stored(step=None), "no tensor 'step'"),
        (stored(history_1=None), "1 earlier predictions at step 2: unipc with 5 steps expects 2"),
        (stored(history_0=None), "unexpected tensor 'history.1'"),
        (stored(history_2=torch.zeros(3)), "holds 3 earlier predictions"),
        (stored(noise=torch.zeros(3)), "unexpected tensor 'noise'"),
        (stored(step=torch.tensor(2.0)), r"step is torch.float32 \(\): expected one int64"),
        (stored(step=torch.tensor([1, 2])), r"step is torch.int64 \(2,\)"),
        (stored(step=torch.tensor(6)), "at step 6 of 5"),
        (stored(step=torch.tensor(-1)), "at step -1 of 5"),
        (stored(step=torch.tensor(1)), "expects 1"),
        (stored(history_1=torch.zeros(4)), r"history.1 is torch.float32 \(4,\): expected"),
        (stored(history_0=torch.zeros(3).double()), "history.0 is torch.float64"),
        (stored(latents=torch.zeros(3).half()), "is torch.float16: expected float32 or float64"),
    ],
)
def test_bad_stored_states_are_refused(tensors, message):
    scheduler = create_scheduler("unipc", num_steps=5)
    with pytest.raises(ValueError, match=message) as caught:
        scheduler.from_tensors(tensors)
    assert "\n" not in str(caught.value)


def test_state_of_another_solver_is_refused():
    state = create_scheduler("euler", num_steps=5).start(torch.zeros(3))
    state = create_scheduler("euler", num_steps=5).step(state, torch.zeros(3))
    unipc = create_scheduler("unipc", num_steps=5)
    with pytest.raises(ValueError, match="holds 0 earlier predictions at step 1"):
        unipc.step(state, torch.zeros(3))
    with pytest.raises(ValueError, match="holds 0 earlier predictions at step 1"):
        unipc.from_tensors(state.to_tensors())
