"""The blocks of a model of which some come for each call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from engine.models.swap.residency import NUM_SLOTS
from engine.models.swap.rotation import Rotation
from engine.models.swap.slabs import Slab, slab_of
from engine.models.swap.sources import Source


class Swap:
    """blocks: those not in `resident` on the meta device, with the dtypes in which they are held. device: of the slots.
    source: where those come from. in_use: what is to live as long as they may be asked for."""

    def __init__(
        self,
        blocks: nn.ModuleList,
        resident: frozenset[int],
        device: torch.device,
        source: Source,
        in_use: object = None,
    ) -> None:
        self._in_use = in_use
        self.resident = resident
        self.source = source
        self.slabs = {i: slab_of(block) for i, block in enumerate(blocks) if i not in resident}
        self.slots = new_slots(self.slabs, device)
        self._blocks = blocks
        self._views: dict[tuple[int, Slab], dict[str, nn.Parameter]] = {}
        self._elsewhere = {i: dict(blocks[i].named_parameters()) for i in self.slabs}
        self._rotation: Rotation | None = None

    @property
    def told(self) -> str:
        """How many blocks stay where, and where the others are, in one line."""
        count, device = len(self._blocks), self.slots[0].device
        return (
            f"block swap: {len(self.resident)} of {count} blocks stay on {device}, {len(self.slabs)} come for each "
            f"call ({self.source.told})"
        )

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """From here to its end blocks may be used: what brings them is there, and gone afterwards."""
        if self._rotation is not None:
            raise RuntimeError("the blocks of this model are in use")
        with self.source.transfers(self.slots) as transfers:
            self._rotation = Rotation([*self.slabs], len(self.slots), transfers)
            try:
                yield
            finally:
                self._rotation = None

    @contextmanager
    def block(self, i: int) -> Iterator[None]:
        """For as long as block i is computed with. Raises what reading it raised."""
        if i in self.resident:
            yield
            return
        if self._rotation is None:
            raise RuntimeError("a block that is swapped is only there within `at_work`")
        slot = self._rotation.take(i)
        try:
            self._put(i, self._parameters(slot, self.slabs[i]))
            yield
        finally:
            self._put(i, self._elsewhere[i])
            self._rotation.give_back(i)

    def _parameters(self, slot: int, slab: Slab) -> dict[str, nn.Parameter]:
        place = slot, slab
        if place not in self._views:
            self._views[place] = {
                name: nn.Parameter(view, requires_grad=False)
                for name, view in slab.views(self.slots[slot]).items()
            }
        return self._views[place]

    def _put(self, i: int, parameters: dict[str, nn.Parameter]) -> None:
        block = self._blocks[i]
        for name, parameter in parameters.items():
            module, _, leaf = name.rpartition(".")
            setattr(block.get_submodule(module), leaf, parameter)


def new_slots(slabs: dict[int, Slab], device: torch.device) -> list[Tensor]:
    largest = max(slab.num_bytes for slab in slabs.values())
    count = min(NUM_SLOTS, len(slabs))
    return [torch.empty(largest, dtype=torch.uint8, device=device) for _ in range(count)]
