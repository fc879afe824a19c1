"""Solutions that are known exactly, in float64: the solvers, their orders and their edges."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from itertools import pairwise

import pytest
import torch

from engine.schedulers.course import SCHEDULERS, make_course
from engine.schedulers.flow_unipc import corrector_weights, phi_functions
from engine.schedulers.scheduler import create_scheduler

SHIFTS = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0)
STEPS = (*range(1, 11), 13, 20, 30, 50)
DETERMINISTIC = tuple(
    name
    for name in SCHEDULERS
    if not any(update.noise for update in make_course(name, num_steps=3).updates)
)


def noise(count: int = 16) -> torch.Tensor:
    return torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def log_snr(sigma: float) -> float:
    return math.log((1 - sigma) / sigma)


def trajectory(scheduler, velocity, latents: torch.Tensor) -> list[torch.Tensor]:
    """Latents before the first and after every step."""
    state = scheduler.start(latents)
    visited = [state.latents]
    for sigma in scheduler.sigmas[:-1].tolist():
        state = scheduler.step(state, velocity(state.latents, sigma))
        visited.append(state.latents)
    return visited


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_single_data_point_is_solved_exactly(name, shift):
    # All data at one point: x0 is constant, paths are straight lines, every solver is exact.
    target = noise().flip(0)
    for steps in STEPS:
        scheduler = create_scheduler(name, num_steps=steps, shift=shift)
        sigmas = scheduler.sigmas.tolist()
        visited = trajectory(scheduler, lambda x, sigma: (x - target) / sigma, noise())
        for sigma, latents in zip(sigmas, visited, strict=True):
            line = target + sigma / sigmas[0] * (noise() - target)
            assert (latents - line).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("name", "order", "constant"), [("euler", 1, 7.5), ("dpm++", 2, 100.0), ("unipc", 2, 90.0)]
)
@pytest.mark.parametrize("shift", SHIFTS)
def test_normal_data_is_approached(gaussian, name, order, constant, shift):
    # Every solver ends with a first-order step that jumps to 0; its error is the schedule's.
    for steps in STEPS:
        scheduler = create_scheduler(name, num_steps=steps, shift=shift)
        sigmas = scheduler.sigmas.tolist()
        visited = trajectory(scheduler, gaussian.velocity, noise())
        for sigma, latents in zip(sigmas[:-1], visited[:-1], strict=True):
            exact = gaussian.solution(noise(), sigmas[0], sigma)
            assert (latents - exact).abs().max() < constant / steps**order
        jump = visited[-2] - sigmas[-2] * gaussian.velocity(visited[-2], sigmas[-2])
        assert (visited[-1] - jump).abs().max() < 1e-14


@pytest.mark.parametrize(("name", "order"), [("euler", 1.0), ("dpm++", 2.0), ("unipc", 3.0)])
def test_order_of_convergence(gaussian, name, order):
    # Even steps in the solvers' own time, away from its infinite ends: there the order shows.
    start, end = log_snr(0.95), log_snr(0.05)
    errors = []
    for steps in (40, 80, 160, 320):
        grid = [1 / (1 + math.exp(start + (end - start) * i / steps)) for i in range(steps + 1)]
        scheduler = create_scheduler(name, sigmas=grid)
        sigmas = scheduler.sigmas.tolist()
        reached = trajectory(scheduler, gaussian.velocity, noise())[steps]
        exact = gaussian.solution(noise(), sigmas[0], sigmas[steps])
        errors.append(float((reached - exact).abs().max()))
    observed = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(abs(rate - order) < 0.1 for rate in observed), observed


def unipc_in_two_stages(velocity, sigmas: list[float], latents: torch.Tensor):
    """UniPC-2 (bh2, x0 prediction) as the paper writes it: correct, then predict, and keep both.

    Yields the latents after each step.
    """
    count = len(sigmas) - 1
    predictions: list[torch.Tensor] = []
    before, order = latents, 0
    for index in range(count):
        predictions.append(latents - sigmas[index] * velocity(latents, sigmas[index]))
        if index:
            latents = _unipc_stage(before, sigmas, index - 1, order, predictions)
        order = min(2, count - index, index + 1)
        before = latents
        latents = _unipc_stage(before, sigmas, index, order, predictions)
        yield latents


def _unipc_stage(before, sigmas, source, order, predictions):
    """From `source` to the level after it; a corrector if that level has a prediction already."""
    start, end = sigmas[source], sigmas[source + 1]
    model = predictions[source]
    if end == 0:
        return model
    h = log_snr(end) - log_snr(start)
    factor = math.expm1(-h)
    residual = torch.zeros_like(before)
    if order == 2:
        ratio = (log_snr(sigmas[source - 1]) - log_snr(start)) / h
        difference = (predictions[source - 1] - model) / ratio
    if len(predictions) == source + 1:
        if order == 2:
            residual = 0.5 * difference
    else:
        newest = predictions[source + 1] - model
        if order == 1:
            residual = 0.5 * newest
        else:
            first = factor / -h - 1
            second = first / -h - 0.5
            conditions = torch.tensor([[1.0, 1.0], [ratio, 1.0]], dtype=torch.float64)
            right = torch.tensor([first / factor, 2 * second / factor], dtype=torch.float64)
            rho = torch.linalg.solve(conditions, right)
            residual = rho[0] * difference + rho[1] * newest
    return end / start * before - (1 - end) * factor * (model + residual)


@pytest.mark.parametrize("shift", SHIFTS)
def test_merged_unipc_is_the_two_stage_one(gaussian, shift):
    for steps in STEPS:
        scheduler = create_scheduler("unipc", num_steps=steps, shift=shift)
        visited = trajectory(scheduler, gaussian.velocity, noise())[1:]
        apart = unipc_in_two_stages(gaussian.velocity, scheduler.sigmas.tolist(), noise())
        for merged, separate in zip(visited, apart, strict=True):
            assert (merged - separate).abs().max() < 1e-10


def dpm_as_published(velocity, sigmas: list[float], latents: torch.Tensor):
    """DPM-Solver++(2M) as the paper writes it, for sigmas below 1. Yields each step's latents."""
    previous = None
    for index in range(len(sigmas) - 1):
        start, end = sigmas[index], sigmas[index + 1]
        model = latents - start * velocity(latents, start)
        if end == 0:
            latents = model
        else:
            h = log_snr(end) - log_snr(start)
            slope = torch.zeros_like(model)
            if previous is not None:
                ratio = (log_snr(start) - log_snr(sigmas[index - 1])) / h
                slope = (model - previous) / ratio
            latents = end / start * latents - (1 - end) * math.expm1(-h) * (model + slope / 2)
        previous = model
        yield latents


@pytest.mark.parametrize("shift", SHIFTS)
def test_dpm_is_the_papers(gaussian, shift):
    for steps in STEPS:
        scheduler = create_scheduler("dpm++", num_steps=steps, shift=shift, grid="diffusers")
        visited = trajectory(scheduler, gaussian.velocity, noise())[1:]
        paper = dpm_as_published(gaussian.velocity, scheduler.sigmas.tolist(), noise())
        for ours, theirs in zip(visited, paper, strict=True):
            assert (ours - theirs).abs().max() < 1e-10


def test_unipc_corrector_integrates_a_quadratic_exactly():
    # x0 quadratic in lambda: d(x / sigma) = e^lambda x0 dlambda has a closed integral, and the
    # corrector of order 2 must reproduce it however wrong the prediction before it was.
    sigmas = create_scheduler("unipc", sigmas=(0.9, 0.8, 0.62, 0.5, 0.33)).sigmas.tolist()

    def clean(sigma: float) -> float:
        point = log_snr(sigma)
        return 0.3 - 0.8 * point + 0.25 * point**2

    def solution(sigma: float) -> float:
        point = log_snr(sigma)
        derivative, second = -0.8 + 0.5 * point, 0.5
        return (1 - sigma) * (clean(sigma) - derivative + second) + sigma * 1.7

    scheduler = create_scheduler("unipc", sigmas=sigmas[:-1])
    # The predicted latents at sigmas[3], from the exact latents at sigmas[2].
    x2, m2, m1 = solution(sigmas[2]), clean(sigmas[2]), clean(sigmas[1])
    predicted = _second_order_predictor(sigmas, 2, x2, m2, m1)
    expected = _second_order_predictor(sigmas, 3, solution(sigmas[3]), clean(sigmas[3]), m2)
    latents = torch.tensor([predicted], dtype=torch.float64)
    history = {f"history.{age}": torch.full_like(latents, m) for age, m in enumerate((m2, m1))}
    state = scheduler.from_tensors({"latents": latents, "step": torch.tensor(3), **history})
    stepped = scheduler.step(state, (latents - clean(sigmas[3])) / sigmas[3])
    assert abs(predicted - solution(sigmas[3])) > 1e-3
    assert stepped.latents.item() == pytest.approx(expected, abs=1e-12)


def _second_order_predictor(sigmas, index, latents, model, before):
    start, end = sigmas[index], sigmas[index + 1]
    h = log_snr(end) - log_snr(start)
    ratio = (log_snr(sigmas[index - 1]) - log_snr(start)) / h
    slope = 0.5 * (before - model) / ratio
    return end / start * latents - (1 - end) * math.expm1(-h) * (model + slope)


@pytest.mark.parametrize("z", [-1e-9, -1e-4, -0.03, -0.999999, -1.0, -1.5, -7.0, -40.0])
def test_phi_functions_to_the_last_digits(z):
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(z)
        phi = [exact.exp()]
        for k in range(3):
            phi.append((phi[-1] - 1 / Decimal(math.factorial(k))) / exact)
    for ours, theirs in zip(phi_functions(z), phi[1:], strict=True):
        assert ours == pytest.approx(float(theirs), rel=1e-14)


def test_corrector_weights_have_their_limits():
    assert corrector_weights(-1.0, 1e-9) == pytest.approx((1 / 12, 5 / 12), abs=1e-8)
    assert corrector_weights(-math.inf, 1e-9) == pytest.approx((0.0, 0.5), abs=1e-8)
    assert corrector_weights(-1.0, 1e9) == pytest.approx((0.0, 1.0), abs=1e-8)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_from_pure_noise(gaussian, name, steps):
    # Sigma exactly 1 has lambda = -inf; the limit is finite and close to the neighbouring sigma.
    sigmas = [1.0, 0.6, 0.3][:steps]
    nearly = [1.0 - 2.0**-24, *sigmas[1:]]
    exact, close = (
        trajectory(create_scheduler(name, sigmas=grid), gaussian.velocity, noise())
        for grid in (sigmas, nearly)
    )
    for ours, theirs in zip(exact, close, strict=True):
        assert ours.isfinite().all()
        # The extrapolation over a far first step fades only as one over its length, here 16.
        assert (ours - theirs).abs().max() < 0.05
    x0 = exact[-2] - torch.tensor(sigmas[-1]).item() * gaussian.velocity(exact[-2], sigmas[-1])
    assert (exact[-1] - x0).abs().max() < 1e-7


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_stochastic_solver_ends_in_a_single_data_point(shift):
    # Around one point the levels are known without the path: latents are the point, 1 - sigma of
    # it, and noise of deviation sigma, whatever noise came when.
    target = 0.7
    for steps in (1, 2, 5, 20):
        scheduler = create_scheduler("sde-dpm++", num_steps=steps, shift=shift)
        generator = torch.Generator().manual_seed(steps)
        state = scheduler.start(torch.randn(20_000, dtype=torch.float64, generator=generator))
        for sigma in scheduler.sigmas[:-1].tolist():
            spread = (state.latents - (1 - sigma) * target) / sigma
            assert abs(spread.mean()) < 0.03
            assert abs(spread.std() - 1) < 0.03
            velocity = (state.latents - target) / sigma
            drawn = torch.randn(20_000, dtype=torch.float64, generator=generator)
            state = scheduler.step(state, velocity, drawn)
        assert (state.latents - target).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["dpm++", "unipc"])
def test_first_steps_from_sigma_one_are_first_order(name):
    scheduler = create_scheduler(name, sigmas=(1.0, 0.7, 0.4, 0.2))
    first, second = scheduler.updates[:2]
    assert first.x0 == pytest.approx((1 - 0.7,))
    assert first.latents == pytest.approx(0.7)
    if name == "dpm++":
        assert len(second.x0) == 1
        assert second.latents == pytest.approx(0.4 / 0.7)
    assert all(math.isfinite(weight) for update in scheduler.updates for weight in update.x0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_last_step_returns_the_clean_prediction_bit_for_bit(name):
    for steps in (1, 2, 3, 10):
        scheduler = create_scheduler(name, num_steps=steps)
        generator = torch.Generator().manual_seed(steps)
        state = scheduler.start(torch.randn(5, 7, generator=generator))
        for _ in range(steps - 1):
            velocity, noise = (torch.randn(5, 7, generator=generator) for _ in range(2))
            state = scheduler.step(state, velocity, noise)
        velocity = torch.randn(5, 7, generator=generator)
        final = scheduler.step(state, velocity)
        sigma = scheduler.sigmas[-2].item()
        assert torch.equal(final.latents, state.latents.sub(velocity, alpha=sigma))
        assert final.history == ()
