"""Which models stay in memory beside others and beside work, and when an engine gives them back."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import torch

from engine.components import registry
from engine.components.memory import residents as in_memory
from engine.components.memory.residents import Residents
from engine.components.memory.room import Free, is_short, leaving, work_room
from engine.components.protocols import Description
from engine.runner import Runner
from presets.spec.components import DenoiserSpec, TextEncoderSpec, VAESpec
from store.lineage.records import HeldModel

PARTS = {
    "text_encoder": TextEncoderSpec(device="cpu"),
    "denoiser": DenoiserSpec(device="cpu"),
    "vae": VAESpec(device="cpu"),
}


@dataclass
class Kept:
    kind: str
    num_bytes: int
    device: str = "card"
    uses: int = 0


def held(**sizes: int) -> OrderedDict[str, Kept]:
    return OrderedDict((kind, Kept(kind, num_bytes)) for kind, num_bytes in sizes.items())


@pytest.mark.parametrize(
    ("card", "beside"), [(80, ["text_encoder", "vae"]), (56, ["vae"]), (24, [])]
)
def test_14b_in_bf16_has_the_encoder_beside_it_only_where_there_is_room_for_its_work(
    card: int, beside: list[str]
) -> None:
    """The sizes of docs/memory.md in GiB: 27 of weights, 11 of work."""
    others = held(text_encoder=11, vae=1)
    gone = leaving(others, "denoiser", "card", 27 + 11, 0.8 * card)
    assert [kind for kind in others if kind not in gone] == beside


def test_what_nobody_knows_leaves_half_of_a_device_for_the_work() -> None:
    def stays(card: int) -> bool:
        budget = 0.8 * card
        wanted = 27 + work_room(None, budget)
        return not leaving(held(text_encoder=11), "denoiser", "card", wanted, budget)

    assert stays(80)
    assert not stays(48)
    assert work_room(3, 100) == 3
    assert work_room(0, 100) == 0


def test_for_what_is_in_use_others_go_and_it_does_not() -> None:
    all_of_it = held(text_encoder=11, denoiser=27, vae=1)
    all_of_it["vae"].uses = 1
    assert leaving(all_of_it, "", "card", 20, 64) == []
    assert leaving(all_of_it, "", "card", 30, 64) == ["text_encoder"]
    assert leaving(all_of_it, "", "card", 60, 64) == ["text_encoder", "denoiser"]
    assert leaving(all_of_it, "", "another", 60, 64) == []


class Box:
    """Residents over components that are nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, budgets: dict[str, int]) -> None:
        monkeypatch.setattr(registry, "provider", lambda kind, name: self)
        self.residents = Residents(budgets)
        self.loads = 0
        self.told: int | None = 0

    def load(self, part: Any, about: Description) -> object:
        self.loads += 1
        self.told = about.work_bytes
        return object()

    def use_it(self, kind: str, num_bytes: int, work_bytes: int | None = None) -> list[str]:
        """What is held while it is in use."""
        about = Description({}, {}, kind, num_bytes)
        with self.residents.use(kind, PARTS[kind], about, work_bytes=work_bytes):
            return [each.kind for each in self.residents.models()]


def test_room_is_made_for_work_also_where_nothing_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box = Box(monkeypatch, {"cpu": 100})
    box.use_it("vae", 5, 0)
    box.use_it("text_encoder", 20, 0)
    assert box.use_it("denoiser", 30, 10) == ["vae", "text_encoder", "denoiser"]
    assert box.use_it("vae", 5, 60) == ["denoiser", "vae"]
    assert box.use_it("vae", 5, 90) == ["vae"]
    assert box.loads == 3


@pytest.mark.parametrize("work_bytes", [None, 17])
def test_what_is_loaded_knows_of_the_work(
    monkeypatch: pytest.MonkeyPatch, work_bytes: int | None
) -> None:
    box = Box(monkeypatch, {"cpu": 100})
    box.use_it("denoiser", 20, work_bytes)
    assert box.told == work_bytes


def test_on_the_host_what_others_have_taken_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = type("Memory", (), {"total": 1000, "available": 1000})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    box = Box(monkeypatch, {})
    box.use_it("text_encoder", 300, 0)
    assert box.use_it("denoiser", 300, 0) == ["text_encoder", "denoiser"]
    memory.available = 100
    # 600 are held, and 100 may be taken
    assert box.use_it("denoiser", 300, 100) == ["text_encoder", "denoiser"]
    assert box.use_it("denoiser", 300, 101) == ["denoiser"]


def test_release_says_what_went_and_keeps_what_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box(monkeypatch, {"cpu": 100})
    about = Description({}, {}, "denoiser", 30)
    box.use_it("vae", 5, 0)
    with box.residents.use("denoiser", PARTS["denoiser"], about, work_bytes=0):
        assert box.residents.release() == (HeldModel("vae", "wan-vae", "cpu", 5),)
        assert box.residents.release() == ()
    assert box.residents.models() == (HeldModel("denoiser", "wan-dit", "cpu", 30),)
    assert box.residents.release(but="denoiser") == ()
    assert [each.kind for each in box.residents.release()] == ["denoiser"]
    assert box.residents.models() == ()


@pytest.mark.parametrize(
    ("now", "at_rest", "short"),
    [
        (50, 50, False),
        (9, 50, True),  # somebody took it, and little is left
        (11, 50, False),  # much is left
        (5, 5, False),  # it is the engine itself that has it
        (5, 5.9, False),  # and what comes and goes by itself
        (5, 6, True),
    ],
)
def test_a_system_is_short_where_others_take_what_is_left(
    now: float, at_rest: float, short: bool
) -> None:
    total = 1000
    assert is_short(Free(int(now * 10), total), Free(int(at_rest * 10), total)) is short


def test_an_idle_engine_gives_back_once_what_others_come_to_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And does not load and unload for ever: what the next run loads stays until others take more again."""
    free = [500]
    monkeypatch.setattr(in_memory, "free_memory", lambda device: Free(free[0], 1000))
    box = Box(monkeypatch, {"cpu": 100})
    runner = Runner(None, box.residents)  # type: ignore[arg-type]
    assert runner.relieve() == ()  # it holds nothing

    def given_back(*levels: int) -> list[int]:
        found = []
        for level in levels:
            free[0] = level
            found.append(len(runner.relieve()))
        return found

    box.use_it("vae", 5)
    assert given_back(500, 300, 200, 101, 99, 50) == [0, 0, 0, 0, 1, 0]
    box.use_it("vae", 5)
    runner._at_rest = {}  # as each run does
    assert given_back(60, 60, 55, 50) == [0, 0, 0, 1]


def test_cuda_counts_what_torch_holds_and_does_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 45)
    assert in_memory.available_bytes(torch.device("cuda")) == 15
    assert in_memory.free_memory("cuda:0") == Free(10, 100)
