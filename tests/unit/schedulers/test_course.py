"""Courses: how a run that is branched goes on, held against the solvers' own formulas."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.schedulers.course import (
    GRID_NAMES,
    SCHEDULERS,
    SOLVERS,
    Course,
    course_from,
    make_course,
    redirected,
)
from engine.schedulers.noise import mixed_seed, step_noise
from engine.schedulers.schedule import to_float32
from engine.schedulers.scheduler import follow_course
from engine.schedulers.update import Update
from presets.errors import PresetError
from presets.fields.listing import fields
from presets.spec.run import RunSpec
from presets.spec.sampling import SchedulerSpec
from presets.validation import validate

courses = st.one_of(
    st.builds(
        make_course,
        st.sampled_from(SCHEDULERS),
        num_steps=st.integers(1, 30),
        shift=st.floats(0.1, 16.0),
    ),
    st.builds(
        lambda name, sigmas: make_course(name, sigmas=sorted(sigmas, reverse=True)),
        st.sampled_from(SCHEDULERS),
        st.sets(st.integers(1, 100), min_size=1, max_size=12).map(
            lambda hundredths: [hundredth / 100 for hundredth in hundredths]
        ),
    ),
)


def weights(update: Update) -> tuple[float, ...]:
    return (update.sigma, update.latents, update.velocity, *update.x0, update.noise)


@given(course=courses, data=st.data())
def test_a_course_redirected_to_itself_is_itself(course: Course, data) -> None:
    at = data.draw(st.integers(0, course.num_steps - 1))
    assert redirected(course, at, course) == course


@given(course=courses, other=courses)
def test_before_the_first_step_another_course_is_taken_whole(course: Course, other: Course) -> None:
    assert redirected(course, 0, other) == other


@given(course=courses, other=courses, third=courses, data=st.data())
def test_every_redirected_course_descends_to_zero_in_float32(course, other, third, data) -> None:
    at = data.draw(st.integers(0, course.num_steps - 1))
    once = redirected(course, at, other)
    later = data.draw(st.integers(at, once.num_steps - 1))
    for found in (once, redirected(once, later, third)):
        assert len(found.sigmas) == len(found.timesteps) + 1 == len(found.updates) + 1
        assert found.sigmas[-1] == 0
        assert list(found.sigmas) == sorted(set(found.sigmas), reverse=True)
        assert all(to_float32(sigma) == sigma for sigma in found.sigmas)
        assert all(math.isfinite(weight) for each in found.updates for weight in weights(each))
        # the step that leaves a level is the step of that level
        assert [update.sigma for update in found.updates] == list(found.sigmas[:-1])
    assert once.sigmas[: at + 1] == (course.sigmas if at else other.sigmas)[: at + 1]
    assert once.updates[:at] == course.updates[:at]
    # what follows is of the other course
    assert set(once.sigmas[at + 1 :]) <= set(other.sigmas)
    assert (
        once.timesteps[at + 1 :]
        == other.timesteps[len(other.timesteps) - (once.num_steps - at - 1) :]
    )


@given(course=courses, data=st.data())
def test_the_same_solver_keeps_its_history(course: Course, data) -> None:
    """Other levels, one solver: the weights are those of a run that had them all from the start."""
    other = make_course(
        course.name, num_steps=data.draw(st.integers(1, 30)), shift=data.draw(st.floats(0.1, 16.0))
    )
    at = data.draw(st.integers(0, course.num_steps - 1))
    found = redirected(course, at, other)
    assert found.name == course.name
    assert found.updates == SOLVERS[course.name].updates(found.sigmas)
    assert found.begun == 0


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("after", SCHEDULERS)
def test_another_solver_starts_anew(name: str, after: str) -> None:
    course, other = make_course(name, num_steps=8), make_course(after, num_steps=6, shift=3.0)
    found = redirected(course, 5, other)
    if name == after:
        assert found.begun == 0
        return
    assert (found.name, found.begun) == (after, 5)
    assert found.updates[5:] == SOLVERS[after].updates(found.sigmas[5:])
    # no weight on what came before: the first step has at most its own prediction
    assert len(found.updates[5].x0) <= 1


def test_a_change_within_a_solver_that_began_later_counts_from_there() -> None:
    """UniPC corrects the step before: it must be told that this one was its first."""
    changed = redirected(make_course("euler", num_steps=10), 4, make_course("unipc", num_steps=10))
    found = redirected(changed, 5, make_course("unipc", num_steps=12))
    assert found.begun == 4
    assert found.updates[4:] == SOLVERS["unipc"].updates(found.sigmas[4:])
    assert found.updates[:4] == changed.updates[:4]


def test_a_solver_is_not_mistaken_for_another_on_the_same_levels() -> None:
    """Own sigmas are the same for every solver, so the levels alone do not tell who took the first steps."""
    sigmas = [0.9, 0.7, 0.5, 0.3, 0.1]
    first, second = make_course("unipc", sigmas=sigmas), make_course("dpm++", sigmas=sigmas)
    once = redirected(first, 2, second)
    assert once.sigmas == second.sigmas
    assert once.updates != second.updates
    again = redirected(once, 3, second)
    assert again == once
    assert again.updates[:2] == first.updates[:2]


@given(course=courses, other=courses, data=st.data())
def test_no_step_is_much_shorter_than_those_of_the_course_it_leads_to(course, other, data) -> None:
    """Half a step of the other course at least, which keeps the slope that a solver extrapolates by honest."""
    at = data.draw(st.integers(1, course.num_steps - 1)) if course.num_steps > 1 else 0
    found = redirected(course, at, other)
    if not at or found.sigmas[at + 1] == 0:
        return
    level = other.sigmas.index(found.sigmas[at + 1])
    above = other.sigmas[level - 1] if level else 2 * other.sigmas[0] - other.sigmas[1]
    assert found.sigmas[at] - found.sigmas[at + 1] >= 0.4999 * (above - found.sigmas[at + 1])


def test_a_hair_more_shift_is_not_a_step_more() -> None:
    course = make_course("unipc", num_steps=20, shift=5.0)
    for shift in (4.99, 5.01):
        other = make_course("unipc", num_steps=20, shift=shift)
        for at in range(1, 20):
            assert redirected(course, at, other).num_steps == 20


@pytest.mark.parametrize("at", [-1, 8, 100])
def test_a_step_that_is_not_there(at: int) -> None:
    course = make_course("unipc", num_steps=8)
    with pytest.raises(ValueError, match=rf"step {at} of 8: expected 0 to 7"):
        redirected(course, at, course)


def test_a_step_before_an_earlier_change() -> None:
    changed = redirected(make_course("euler", num_steps=8), 5, make_course("unipc", num_steps=8))
    with pytest.raises(ValueError, match="changed at step 5 already"):
        redirected(changed, 3, make_course("euler", num_steps=8))


@settings(max_examples=30, deadline=None)
@given(course=courses, other=courses, seed=st.integers(0, 2**31), data=st.data())
def test_a_changed_course_can_be_walked(course, other, seed, data) -> None:
    """The history that the later weights ask for is there when its step comes, and a state goes on exactly."""
    at = data.draw(st.integers(0, course.num_steps - 1))
    scheduler = follow_course(redirected(course, at, other))
    generator = torch.Generator().manual_seed(seed)
    state = scheduler.start(torch.randn(6, generator=generator))
    while state.step < scheduler.num_steps:
        velocity = torch.randn(6, generator=generator)
        stored = {name: tensor.clone() for name, tensor in state.to_tensors().items()}
        fresh = step_noise(seed, state.step, (6,))
        again = scheduler.step(scheduler.from_tensors(stored), velocity, fresh)
        state = scheduler.step(state, velocity, fresh)
        assert torch.equal(again.latents, state.latents)
    assert state.history == ()


def test_a_constant_velocity_field_is_followed_exactly_through_any_change() -> None:
    """Data in one point: every solver is exact on it, whatever came before, so the end is that point."""
    point, noise = torch.tensor([0.3, -2.0]), torch.tensor([1.5, 0.4])
    for first in SCHEDULERS:
        for second in SCHEDULERS:
            course = make_course(first, num_steps=9)
            scheduler = follow_course(
                redirected(course, 4, make_course(second, num_steps=7, shift=2.0))
            )
            sigma = float(scheduler.sigmas[0])
            state = scheduler.start((1 - sigma) * point + sigma * noise)
            while state.step < scheduler.num_steps:
                sigma = scheduler.sigmas[state.step]
                fresh = step_noise(1, state.step, (2,))
                state = scheduler.step(state, (state.latents - point) / sigma, fresh)
            assert torch.allclose(state.latents, point, atol=1e-5)


# A course that begins late


@given(course=courses, data=st.data())
def test_a_late_course_is_that_of_its_levels(course: Course, data) -> None:
    at = data.draw(st.integers(0, course.num_steps - 1))
    late = course_from(course, at)
    assert (late.name, late.sigmas, late.timesteps) == (
        course.name,
        course.sigmas[at:],
        course.timesteps[at:],
    )
    assert late.updates == make_course(course.name, sigmas=course.sigmas[at:-1]).updates
    assert (late.begun, late.num_steps) == (0, course.num_steps - at)
    assert course_from(course, 0) == course


@given(course=courses, other=courses, data=st.data())
def test_a_late_course_begins_where_a_branch_to_another_solver_does(course, other, data) -> None:
    """Both go on without history, so the weights are the same."""
    at = data.draw(st.integers(0, course.num_steps - 1))
    changed = redirected(course, at, other)
    if changed.begun == at:
        assert course_from(changed, at).updates == changed.updates[at:]


def test_a_late_course_of_steps_that_are_not_there() -> None:
    course = make_course("unipc", num_steps=8)
    for at in (-1, 8):
        with pytest.raises(ValueError, match=rf"step {at} of 8: expected 0 to 7"):
            course_from(course, at)
    changed = redirected(make_course("euler", num_steps=8), 5, course)
    with pytest.raises(ValueError, match="changed at step 5 already"):
        course_from(changed, 3)
    assert course_from(changed, 5).name == "unipc"


# Timesteps


def test_timesteps_are_ints_unless_they_are_asked_for_as_they_are() -> None:
    for name in SCHEDULERS:
        course = make_course(name, num_steps=7)
        assert all(type(timestep) is int for timestep in course.timesteps)
        assert follow_course(course).timesteps.dtype == torch.int64
    sigmas = [1.0, 0.9375, 0.83333, 0.625]
    exact = make_course("euler", sigmas=sigmas, fractional=True)
    assert exact.timesteps == (1000.0, 937.5, to_float32(833.33), 625.0)
    assert all(type(timestep) is float for timestep in exact.timesteps)
    assert follow_course(exact).timesteps.dtype == torch.float32
    assert follow_course(exact).timesteps.tolist() == list(exact.timesteps)
    assert (exact.sigmas, exact.updates) == (
        make_course("euler", sigmas=sigmas).sigmas,
        make_course("euler", sigmas=sigmas).updates,
    )


# Names


def test_the_presets_know_just_these_solvers_and_grids() -> None:
    (node,) = (field.type for field in fields(RunSpec) if field.key == "scheduler.name")
    assert sorted(node.values) == sorted(SOLVERS)
    (node,) = (field.type for field in fields(RunSpec) if field.key == "scheduler.grid")
    assert sorted(node.values) == sorted(GRID_NAMES)
    for name, solver in SOLVERS.items():
        for grid in GRID_NAMES:
            spec = RunSpec(scheduler=SchedulerSpec(name=name, grid=grid))
            if grid in solver.grids:
                assert validate(spec) == spec
            else:
                with pytest.raises(PresetError, match=r"scheduler\.grid"):
                    validate(spec)


# The noise of a step


def test_the_noise_of_a_step_is_the_same_for_ever() -> None:
    told = b"modiff step noise" + (7).to_bytes(8, "little") + (3).to_bytes(8, "little")
    expected = int.from_bytes(hashlib.sha256(told).digest()[:8], "little") & (2**63 - 1)
    assert mixed_seed(7, 3) == expected == 2182252368705753773
    drawn = step_noise(7, 3, (2, 3))
    assert (drawn.dtype, drawn.device.type, drawn.shape) == (torch.float32, "cpu", (2, 3))
    generator = torch.Generator().manual_seed(expected)
    assert torch.equal(drawn, torch.randn(2, 3, generator=generator))
    assert step_noise(7, 3, (2, 3), dtype=torch.float64).dtype == torch.float64


def test_no_two_steps_and_seeds_have_one_noise() -> None:
    seeds = {mixed_seed(seed, step) for seed in range(50) for step in range(50)}
    assert len(seeds) == 2500
    # what torch's CPU generator makes of a seed
    assert len({seed % 2**32 for seed in seeds}) == 2500
    assert mixed_seed(2**64 - 1, 999) < 2**63
    assert abs(step_noise(0, 0, (100_000,)).mean()) < 0.01
    assert not torch.equal(
        step_noise(0, 0, (4,)), torch.randn(4, generator=torch.Generator().manual_seed(0))
    )
