"""The components that are in memory, and what they run on.

Each is loaded when its node computes, and stays for the next one that needs it until its device has no room for
another, or for what another one works on: then the least recently used goes first. Nothing that is in use is released,
and nobody else holds one.
"""

from __future__ import annotations

import gc
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import torch

from engine.components import registry
from engine.components.memory.held import held_name
from engine.components.memory.room import Free, leaving, work_room
from engine.components.protocols import Description
from engine.dtypes import torch_device
from store.lineage.records import HeldModel

# What of a device's memory components and their work may take; the rest is for what nobody counts.
SHARE = 0.8


@dataclass
class _Resident:
    kind: str
    name: str
    device: torch.device
    num_bytes: int
    loaded: Any
    uses: int = 0
    names: set[str] = field(default_factory=set)


class Residents:
    """budgets: bytes by device ("cpu", "cuda:0"), for those that are not to take their share of its memory."""

    def __init__(self, budgets: Mapping[str, int] | None = None) -> None:
        self._budgets = dict(budgets or {})
        self._held: OrderedDict[tuple[str, str], _Resident] = OrderedDict()

    def holds(self, part: Any, about: Description) -> bool:
        """Whether `use` would load nothing."""
        return _place(part, about) in self._held

    @contextmanager
    def use(
        self,
        kind: str,
        part: Any,
        about: Description,
        loaded: Callable[[float], None] = lambda seconds: None,
        work_bytes: int | None = None,
    ) -> Iterator[Any]:
        """The component of a spec, loaded where it is not in memory. loaded: called with the seconds that took.
        work_bytes: what it is about to take beside its weights, None where nobody knows.

        Raises as its provider does, and as memory does.
        """
        place = _place(part, about)
        provider = registry.provider(kind, part.name)
        device = torch_device(part.device)
        if place not in self._held:
            num_bytes = about.on(device.type).num_bytes
            self._make_room(kind, device, num_bytes, work_bytes)
            begun = time.perf_counter()
            model = provider.load(part, replace(about, work_bytes=work_bytes))
            # some find out as they are loaded how much there is room for
            num_bytes = getattr(model, "num_bytes", num_bytes)
            self._held[place] = _Resident(kind, part.name, device, num_bytes, model)
            del model
            loaded(time.perf_counter() - begun)
        resident = self._held[place]
        self._held.move_to_end(place)
        resident.names.add(held_name(kind, part, about))
        bind = getattr(provider, "use", None)
        resident.uses += 1
        try:
            self._make_room("", device, 0, work_bytes)
            yield resident.loaded if bind is None else bind(resident.loaded, part)
        finally:
            resident.uses -= 1

    def names(self) -> tuple[str, ...]:
        """What is in memory, as of `held_name`, sorted."""
        return tuple(sorted({name for held in self._held.values() for name in held.names}))

    def models(self) -> tuple[HeldModel, ...]:
        """What is in memory, for people."""
        return tuple(_told(each) for each in self._held.values())

    def devices(self) -> set[str]:
        """The devices that something is held on."""
        return {str(each.device) for each in self._held.values()}

    def release(self, *, but: str = "") -> tuple[HeldModel, ...]:
        """Gives back everything that is not in use, and what was of use to nobody any more; says what was held. but: of
        this kind it stays."""
        gc.collect()  # what an error has left behind may still use one
        idle = [place for place, held in self._held.items() if not held.uses and held.kind != but]
        told = tuple(_told(self._held[place]) for place in idle)
        self._drop(idle)
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return told

    def _make_room(
        self, kind: str, device: torch.device, num_bytes: int, work_bytes: int | None
    ) -> None:
        budget = self._budget(device)
        wanted = num_bytes + work_room(work_bytes, budget)
        self._drop(leaving(self._held, kind, device, wanted, budget))

    def _budget(self, device: torch.device) -> float:
        """As of `budget_of`, or what is there for components and their work where others have taken more of it."""
        budget = budget_of(device, self._budgets)
        if {str(device), device.type} & self._budgets.keys():
            return budget
        held = sum(each.num_bytes for each in self._held.values() if each.device == device)
        return min(budget, held + available_bytes(device))

    def _drop(self, places: list[tuple[str, str]]) -> None:
        devices = {self._held.pop(place).device.type for place in places}
        if devices:
            gc.collect()
        if "cuda" in devices:
            torch.cuda.empty_cache()


def budget_of(device: torch.device, given: Mapping[str, int]) -> float:
    """The bytes that components and their work may take of a device: its share, or what is given for it."""
    told = given.get(str(device), given.get(device.type))
    if told is not None:
        return told
    if device.type == "cuda":
        return SHARE * torch.cuda.get_device_properties(device).total_memory
    return SHARE * psutil.virtual_memory().total


def available_bytes(device: torch.device) -> int:
    """What a program may still take of a device's memory; of CUDA with what torch holds and does not
    use."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available


def free_memory(device: str) -> Free:
    """Of a device by its name, for everybody."""
    if torch.device(device).type == "cuda":
        return Free(*torch.cuda.mem_get_info(device))
    memory = psutil.virtual_memory()
    return Free(memory.available, memory.total)


def _told(held: _Resident) -> HeldModel:
    return HeldModel(held.kind, held.name, str(held.device), held.num_bytes)


def _place(part: Any, about: Description) -> tuple[str, str]:
    return about.resident, str(torch_device(part.device))
