"""One thread of torch for all of it, and the folders and signals that every test of the project has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from examples.micro.tests import tiny
from examples.micro.training import train_vae
from tests.conftest import copied_stores, own_folders, own_signals, tmp_path

__all__ = ["copied_stores", "one_thread", "own_folders", "own_signals", "tmp_path"]


@pytest.fixture
def tiny_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The VAE trains on few pixels: its convolutions are in bf16, slow on a CPU without an instruction for it."""
    for name in ("CURRICULUM", "FINETUNE"):
        monkeypatch.setattr(train_vae, name, tiny.cropped(getattr(train_vae, name)))


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second thread; on a busy machine, where threads wait for each other
    by spinning, it takes four times the CPU time of one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
