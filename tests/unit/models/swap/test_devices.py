"""Blocks that come to another device than the CPU, pretended: from memory of this process, or through it from the
file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from engine.components.memory import swapping
from engine.components.providers import wan_dit
from engine.models.diffusion.config import WanDiTConfig
from engine.models.diffusion.wandit import WanDiT
from engine.models.seams import At
from engine.models.swap import sources
from engine.models.swap.residency import usual_work
from engine.models.swap.slabs import slab_of
from engine.models.swap.transfers import OneStream
from presets.spec.components import DenoiserSpec
from tests.pretended import device_of, pretended


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whose copies are done when they are asked for."""
    monkeypatch.setattr(sources, "streams_of", lambda device: OneStream())
    monkeypatch.setattr(sources, "pin", lambda memory: lambda: None)
    with pretended(monkeypatch):
        yield


def velocities(**settings: Any) -> tuple[wan_dit.LocalDenoiser, list[torch.Tensor]]:
    spec = DenoiserSpec(checkpoint="builtin:micro", dtype="fp32", **settings)
    on = wan_dit.use(wan_dit.load(spec), spec)
    texts = {name: torch.linspace(-1, 1, 128 * 3).view(3, 128) for name in ("positive", "negative")}
    ats = [At(0, 4, 1.0, name) for name in texts]
    found: list[torch.Tensor] = []
    with on.begin({name: {"text": text} for name, text in texts.items()}) as predict:
        for step in range(2):
            found += predict(torch.ones(1, 16, 1, 4, 4), torch.tensor([700.0 - step]), ats)
    return on, [each.cpu() for each in found]


@pytest.mark.usefixtures("cards")
@pytest.mark.parametrize(
    ("device", "share", "told"),
    [
        ("cuda:1", 1.0, "cuda:1, 4 come for each call (0.0 GB in memory, 0.0 of them pinned)"),
        (
            "cuda:1",
            0.5,
            "cuda:1, 4 come for each call (3 from memory, 0.0 GB in memory, 0.0 of them pinned, "
            "the others from the file)",
        ),
        ("cuda:1", 0.0, "cuda:1, 4 come for each call (from the file)"),
        ("mps", 1.0, "mps, 4 come for each call (from the file)"),
    ],
)
def test_they_come_to_the_same_bits_there(
    device: str, share: float, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wan_dit, "BATCHED_GUIDANCE_TOKENS", 0)
    monkeypatch.setattr(swapping, "_HOST_SHARE", share)
    monkeypatch.setattr(swapping, "_free_bytes", lambda device: 8_000_000)  # a block has 1.3 MB
    _, expected = velocities(device="cpu")
    on, found = velocities(device=device, resident_blocks="2")
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert on.told == f"block swap: 2 of 6 blocks stay on {told}"
    assert on.model.swap is not None
    assert {str(device_of(slot)) for slot in on.model.swap.slots} == {device}


@pytest.mark.usefixtures("cards")
def test_auto_keeps_what_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DenoiserSpec(checkpoint="builtin:micro", device="cuda:0", resident_blocks="auto")
    work = 32 * 128 * 32_760
    kept = []
    for room in (0, 5_000_000, 1 << 40):
        monkeypatch.setattr(swapping, "_free_bytes", lambda device, room=room: room + work * 2)
        swap = wan_dit.load(spec).swap
        kept.append(6 if swap is None else len(swap.resident))
    assert kept[0] <= kept[1] <= kept[2] == 6


def test_auto_knows_what_a_dry_run_has_told_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is usual, for a model of this width."""
    config = WanDiTConfig(dim=128, ffn_dim=256, num_heads=2, num_layers=6, text_dim=32)
    with torch.device("meta"):
        model = WanDiT(config)
    others = sum(p.nbytes for name, p in model.named_parameters() if not name.startswith("blocks"))
    block = slab_of(model.blocks[0]).num_bytes
    assert usual_work(config.dim) > 100 * block
    for stay in range(4):
        free = others + (stay + 2) * block + 7000
        monkeypatch.setattr(swapping, "_free_bytes", lambda device, free=free: free / 0.8)
        told = [swapping.staying(model, "auto", torch.device("cpu"), work) for work in (6900, None)]
        assert [len(each) for each in told] == [stay, 0]


def test_memory_that_the_system_does_not_pin_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Runtime:
        """Pins one piece."""

        pinned: list[int] = []  # noqa: RUF012

        def cudaHostRegister(self, pointer: int, num_bytes: int, flags: int) -> int:
            if self.pinned:
                return 2
            self.pinned.append(pointer)
            return 0

        def cudaHostUnregister(self, pointer: int) -> int:
            self.pinned.remove(pointer)
            return 0

    monkeypatch.setattr(torch.cuda, "cudart", Runtime)
    monkeypatch.setattr(sources, "_forget_error", lambda memory: None)
    monkeypatch.setattr(
        torch.Tensor, "is_pinned", lambda tensor: tensor.data_ptr() in Runtime.pinned
    )
    slabs = {i: torch.empty(1 << 28, dtype=torch.uint8) for i in range(2)}
    memory = sources.HostMemory(slabs, torch.device("cuda"))
    assert memory.told == "0.5 GB in memory, 0.3 of them pinned"
    assert "the system pins no more" in caplog.text
    del memory
    assert not Runtime.pinned  # before the memory goes


@pytest.mark.usefixtures("cards")
def test_what_lies_between_file_and_device_goes_when_nobody_uses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread ends first, then what it has asked for is waited for, then its memory goes."""
    ended: list[str] = []

    class Waited(OneStream):
        are_two = True

        def __init__(self) -> None:
            super().__init__()
            self.copying.synchronize = lambda: ended.append(names())  # type: ignore[method-assign]

    def names() -> str:
        return (
            "with" if any(t.name.startswith("blocks") for t in threading.enumerate()) else "without"
        )

    monkeypatch.setattr(sources, "streams_of", lambda device: Waited())
    monkeypatch.setattr(sources, "pin", lambda memory: lambda: ended.append("unpinned"))
    monkeypatch.setattr(swapping, "_HOST_SHARE", 0.0)
    velocities(device="cuda:0", resident_blocks="2")
    assert ended[-3:] == ["without", "unpinned", "unpinned"]
