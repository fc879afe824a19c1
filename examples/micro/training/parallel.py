"""Data parallelism over a few processes of one machine: equal replicas, averaged gradients.

One thread per CPU process is the fastest arrangement for models this small, so the number of ranks is the number of
cores. Every rank must make the same collective calls in the same order.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Rank:
    """One of `count` processes and the device it trains on."""

    index: int = 0
    count: int = 1
    device: torch.device = CPU

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and reports."""
        return self.index == 0


def launch(work: Callable[[Rank], None], *, ranks: int, device: str) -> None:
    """Runs `work` in `ranks` processes, or in this one when `ranks` is 1; it must be picklable.

    `device` is `cpu`, `cuda` (one GPU per rank) or `auto`. An error in any rank ends them all.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if ranks == 1:
        work(Rank(0, 1, torch.device(device)))
        return
    with tempfile.TemporaryDirectory() as folder:
        spawn(_run_rank, (work, ranks, device, str(Path(folder, "rendezvous"))), ranks)


def _run_rank(index: int, work: Callable[[Rank], None], ranks: int, device: str, meet: str) -> None:
    if device == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    else:
        torch.cuda.set_device(index)
    dist.init_process_group(
        "gloo" if device == "cpu" else "nccl",
        init_method=f"file://{meet}",
        rank=index,
        world_size=ranks,
    )
    own = torch.device(device, index) if device == "cuda" else torch.device(device)
    try:
        work(Rank(index, ranks, own))
    finally:
        dist.destroy_process_group()


def average_gradients(rank: Rank, parameters: Iterable[Tensor]) -> None:
    """Replaces every gradient by its mean over the ranks, in one collective call."""
    if rank.count == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= rank.count
    pieces = flat.split([g.numel() for g in gradients])
    torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(pieces, gradients, strict=True)])


def share_from_lead(rank: Rank, tensors: Iterable[Tensor]) -> None:
    """Overwrites the tensors, on whatever device each is, with those of rank 0."""
    if rank.count > 1:
        for tensor in tensors:
            shared = tensor.detach().to(rank.device)
            dist.broadcast(shared, 0)
            tensor.detach().copy_(shared)


def agree(rank: Rank, value: float) -> float:
    """The value that rank 0 has, on every rank."""
    if rank.count == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=rank.device)
    dist.broadcast(shared, 0)
    return float(shared)
