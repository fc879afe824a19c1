"""Block swap: only the first blocks stay on the device, the others come to it for their call.

Exact: where weights lie changes no number. Their host copies stay where they are, so a block is copied to the device
and dropped, never copied back. One block at a time, on the stream that computes: the copy is not hidden behind the
block before. As in ComfyUI-WanVideoWrapper it is the last blocks that move.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from engine.extensions.extension import Facts

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from engine.models.seams import At, Tokens


class BlockSwap:
    exact: ClassVar[bool] = True
    version: ClassVar[int] = 1

    class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        resident_blocks: Annotated[
            int,
            Meta(
                ge=0,
                le=1000,
                description="how many blocks stay on the device; the others are copied to it for each call",
                extra={"place": True},
            ),
        ] = 0

    def __init__(self, options: Options, facts: Facts) -> None:
        self.resident = options.resident_blocks
        self.device: torch.device | None = None
        # block -> (parameter, where it was, its values on the CPU), of those that are swapped
        self.swapped: dict[int, list[tuple[nn.Parameter, torch.device, Tensor]]] = {}

    def is_active(self, step: int, total: int) -> bool:
        return True

    def begin(self, blocks: nn.ModuleList, device: torch.device) -> None:
        """From here to `end` the blocks after the resident ones are on the CPU. On a CPU they are so anyway."""
        if device.type == "cpu":
            return
        self.device = device
        for i, block in enumerate(blocks):
            if i >= self.resident:
                places = [parameter.device for parameter in block.parameters()]
                block.to("cpu")
                self.swapped[i] = [
                    (parameter, place, parameter.data)
                    for parameter, place in zip(block.parameters(), places, strict=True)
                ]
            else:
                block.to(device)

    def end(self) -> None:
        """Every swapped block is where it was before `begin`."""
        for weights in self.swapped.values():
            for parameter, place, held in weights:
                parameter.data = held.to(place)
        self.swapped, self.device = {}, None

    def block(
        self,
        next: Callable[[Tensor, int, Tokens, At], Tensor],
        x: Tensor,
        i: int,
        tokens: Tokens,
        at: At,
    ) -> Tensor:
        weights = self.swapped.get(i, ())
        for parameter, _, held in weights:
            parameter.data = held.to(self.device)
        try:
            return next(x, i, tokens, at)
        finally:
            for parameter, _, held in weights:
                parameter.data = held
