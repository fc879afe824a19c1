"""Muon: updates are orthogonal, as large as their rate says, and resumable."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from examples.micro.training.muon import Muon, orthogonalise


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (24, 24), (1, 32)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_result_is_nearly_orthogonal(shape: tuple[int, int], scale: float) -> None:
    matrices = scale * (normal(3, *shape) + torch.eye(*shape) * 4)
    singular = torch.linalg.svdvals(orthogonalise(matrices, 5))
    # the quintic iteration settles in a band around one, not on it
    assert float(singular.min()) > 0.6
    assert float(singular.max()) < 1.25


def test_directions_are_kept() -> None:
    matrix = normal(1, 12, 30)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    aligned = (u.mT @ orthogonalise(matrix, 5) @ vh.mT)[0]
    assert float(aligned.diagonal().min()) > 0.6
    assert float((aligned - torch.diag(aligned.diagonal())).abs().max()) < 0.05


def test_a_matrix_of_zeros_stays_zero() -> None:
    assert not bool(orthogonalise(torch.zeros(2, 4, 6), 5).any())


def test_one_step_is_an_orthogonal_matrix_of_the_right_size() -> None:
    weight = torch.zeros(16, 64, requires_grad=True)
    weight.grad = normal(16, 64)
    Muon([weight], lr=0.1).step()
    singular = torch.linalg.svdvals(weight.detach()) / (0.1 * 0.2 * math.sqrt(64))
    assert 0.6 < float(singular.min()) <= float(singular.max()) < 1.25
    assert float((weight.detach() * weight.grad).sum()) < 0


def test_kernels_are_matrices_and_shapes_are_batched_without_mixing() -> None:
    kernels = [normal(8, 4, 3, 3, 3, seed=i).requires_grad_() for i in range(3)]
    alone = [k.detach().clone().requires_grad_() for k in kernels]
    for seed, (together, single) in enumerate(zip(kernels, alone, strict=True)):
        together.grad = normal(8, 4, 3, 3, 3, seed=10 + seed)
        single.grad = together.grad.clone()
    Muon(kernels, lr=0.02).step()
    for single in alone:
        Muon([single], lr=0.02).step()
    for together, single in zip(kernels, alone, strict=True):
        assert torch.allclose(together, single, atol=1e-5)


def test_channels_last_kernels_get_the_same_update() -> None:
    plain = normal(8, 4, 3, 3).requires_grad_()
    strided = plain.detach().clone(memory_format=torch.channels_last).requires_grad_()
    plain.grad = normal(8, 4, 3, 3, seed=1)
    strided.grad = plain.grad.clone(memory_format=torch.channels_last)
    for weight in (plain, strided):
        Muon([weight], lr=0.02).step()
    assert torch.equal(plain.detach(), strided.detach())


def test_parameters_without_a_gradient_are_left_alone() -> None:
    weight = normal(4, 4).requires_grad_()
    before = weight.detach().clone()
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(weight.detach(), before)


def test_it_finds_a_minimum() -> None:
    target, weight = normal(8, 8), torch.zeros(8, 8, requires_grad=True)
    optimizer = Muon([weight], lr=0.3)
    for step in range(200):
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 200)
        optimizer.step()
    assert float((weight.detach() - target).square().mean().sqrt()) < 0.05


def test_its_state_resumes_exactly() -> None:
    def walk(weight: Tensor, optimizer: Muon, steps: range) -> None:
        for step in steps:
            weight.grad = normal(6, 10, seed=10 + step)
            optimizer.step()

    weight = normal(6, 10).requires_grad_()
    optimizer = Muon([{"params": [weight], "peak_lr": 0.1}], lr=0.1)
    walk(weight, optimizer, range(2))
    copied = weight.detach().clone().requires_grad_()
    resumed = Muon([{"params": [copied], "peak_lr": 0.0}], lr=0.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for parameter, muon in ((weight, optimizer), (copied, resumed)):
        walk(parameter, muon, range(2, 4))
    assert torch.equal(weight.detach(), copied.detach())


def test_no_closure() -> None:
    with pytest.raises(ValueError, match="closure"):
        Muon([torch.zeros(2, 2)], lr=0.1).step(lambda: 0.0)
