"""The components that are in memory, and what they run on.

Each is loaded when its node computes, and stays for the next one that needs it until its device has no room for
another: then the least recently used goes first. Nothing that is in use is released, and nobody else holds one.
"""

from __future__ import annotations

import gc
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch

from engine.components import registry
from engine.components.held import held_name
from engine.components.protocols import Description
from engine.components.room import leaving
from engine.dtypes import torch_device

# What of a device's memory components may take; the rest is for what they work on.
SHARE = 0.8


@dataclass
class _Resident:
    kind: str
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
    ) -> Iterator[Any]:
        """The component of a spec, loaded where it is not in memory. loaded: called with the seconds that took.

        Raises as its provider does, and as memory does.
        """
        place = _place(part, about)
        provider = registry.provider(kind, part.name)
        if place not in self._held:
            device = torch_device(part.device)
            self._make_room(kind, device, about.num_bytes)
            begun = time.perf_counter()
            model = provider.load(part, about)
            self._held[place] = _Resident(kind, device, about.num_bytes, model)
            del model
            loaded(time.perf_counter() - begun)
        resident = self._held[place]
        self._held.move_to_end(place)
        resident.names.add(held_name(kind, part, about))
        bind = getattr(provider, "use", None)
        resident.uses += 1
        try:
            yield resident.loaded if bind is None else bind(resident.loaded, part)
        finally:
            resident.uses -= 1

    def names(self) -> tuple[str, ...]:
        """What is in memory, as of `held_name`, sorted."""
        return tuple(sorted({name for held in self._held.values() for name in held.names}))

    def release(self) -> None:
        """Give back everything that is not in use."""
        self._drop([place for place, held in self._held.items() if not held.uses])

    def _make_room(self, kind: str, device: torch.device, num_bytes: int) -> None:
        self._drop(leaving(self._held, kind, device, num_bytes, budget_of(device, self._budgets)))

    def _drop(self, places: list[tuple[str, str]]) -> None:
        devices = {self._held.pop(place).device.type for place in places}
        if devices:
            gc.collect()
        if "cuda" in devices:
            torch.cuda.empty_cache()


def budget_of(device: torch.device, given: Mapping[str, int]) -> float:
    """The bytes that components may take of a device: its share, or what is given for it."""
    told = given.get(str(device), given.get(device.type))
    if told is not None:
        return told
    if device.type == "cuda":
        return SHARE * torch.cuda.get_device_properties(device).total_memory
    return SHARE * psutil.virtual_memory().total


def _place(part: Any, about: Description) -> tuple[str, str]:
    return about.resident, str(torch_device(part.device))
