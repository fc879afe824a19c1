"""Several ranks: processes that meet, and a training whose ranks ask for the same things in the same order."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from examples.micro.training import parallel
from examples.micro.training.parallel import Rank, agree, average_gradients, launch, share_from_lead


def meet(rank: Rank, folder: Path) -> None:
    """Every way that ranks have to talk, in a process that needs nothing but torch."""
    weight = torch.nn.Parameter(torch.full((3,), float(rank.index)))
    frozen = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, 2.0, 3.0]) * (rank.index + 1)
    average_gradients(rank, [frozen, weight])
    share_from_lead(rank, [weight])
    found = {
        "gradient": weight.grad.tolist(),
        "weight": weight.tolist(),
        "agreed": agree(rank, 10.0 + rank.index),
        "leads": rank.leads,
    }
    (folder / f"{rank.index} of {rank.count}.json").write_text(json.dumps(found))


def test_ranks_are_processes_that_average_and_follow_the_lead(tmp_path: Path) -> None:
    launch(partial(meet, folder=tmp_path), ranks=2, device="cpu")
    shared = {"gradient": [1.5, 3.0, 4.5], "weight": [0.0] * 3, "agreed": 10.0}
    for index in range(2):
        found = json.loads((tmp_path / f"{index} of 2.json").read_text())
        assert found == {**shared, "leads": index == 0}


class Meeting:
    """Two ranks as threads of this process; each call of one waits for that of the other."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=600)
        self.own = threading.local()
        self.given: list[Tensor | None] = [None, None]
        self.asked: list[list[str]] = [[], []]

    def _together(self, name: str, tensor: Tensor) -> tuple[Tensor, Tensor]:
        index = self.own.index
        self.asked[index].append(f"{name} {tuple(tensor.shape)}")
        self.given[index] = tensor.clone()
        self.barrier.wait()
        first, second = self.given
        assert first is not None
        assert second is not None
        self.barrier.wait()
        return first, second

    def all_reduce(self, tensor: Tensor) -> None:
        first, second = self._together("all_reduce", tensor)
        tensor.copy_(first + second)

    def broadcast(self, tensor: Tensor, source: int) -> None:
        tensor.copy_(self._together("broadcast", tensor)[source])

    def work(self, index: int, work: Callable[[Rank], None]) -> None:
        self.own.index = index
        try:
            work(Rank(index, 2))
        except BaseException:  # the other rank must not wait for this one
            self.barrier.abort()
            raise


def test_two_ranks_train_on_twice_the_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # not above, where each rank of the other test would import them
    from examples.micro.narration import narrate
    from examples.micro.tests import tiny
    from examples.micro.training.checkpoint import load_checkpoint
    from examples.micro.training.train_dit import train_dit

    latents, out = tiny.write_latents(tmp_path / "latents"), tmp_path / "dit.pt"
    # `narrate` as the command line passes it: everything that a rank gets must be importable there
    work = partial(
        train_dit,
        settings=tiny.dit_training(2),
        latents=latents,
        out=out,
        shape=tiny.DIT,
        log=narrate,
    )
    meeting = Meeting()
    monkeypatch.setattr(parallel.dist, "all_reduce", meeting.all_reduce)
    monkeypatch.setattr(parallel.dist, "broadcast", meeting.broadcast)
    for_each = pickle.loads(pickle.dumps(work))
    ranks = [threading.Thread(target=meeting.work, args=(index, for_each)) for index in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert not meeting.barrier.broken
    assert meeting.asked[0] == meeting.asked[1] != []
    progress = load_checkpoint(out, "dit")["progress"]
    assert (progress["step"], progress["samples"]) == (2, 2 * 2 * 4)
