"""What is counted, and what is told of it: parts of a plan, and the most that a stage takes of a device. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from engine.components.protocols import Description
    from engine.graph import Node


class Use(msgspec.Struct, frozen=True):
    """The most that a stage takes of a device at one time.

    stage: as events call it. device: as torch names it, also one that is not here. peak_bytes: all of it, of which
    weights_bytes are the parameters of the stage's own component and kept_bytes those of others that stay loaded.
    operation, module: what was made last when the peak was reached, and in which part of the model; "" where nothing
    rose above what was there.
    """

    stage: str
    device: str
    peak_bytes: int
    weights_bytes: int
    kept_bytes: int
    operation: str
    module: str


class Brought(msgspec.Struct, frozen=True):
    """What a component brings from its files. read_bytes: their size. moved_bytes: of blocks that come to `device` for
    each call: from the host's memory as far as it has room, else, and always to the CPU, from their files."""

    kind: str
    device: str
    read_bytes: int
    moved_bytes: int


class Memory(msgspec.Struct, frozen=True):
    """uncounted: a line for each stage that is computed and whose memory is not told, with the reason. brought: what
    the components of the others bring."""

    uses: tuple[Use, ...]
    uncounted: tuple[str, ...] = ()
    brought: tuple[Brought, ...] = ()

    @property
    def largest(self) -> dict[str, Use]:
        """device -> the use with the highest peak on it."""
        found: dict[str, Use] = {}
        for use in self.uses:
            if use.device not in found or use.peak_bytes > found[use.device].peak_bytes:
                found[use.device] = use
        return found

    @property
    def peak_bytes(self) -> dict[str, dict[str, int]]:
        """stage -> device -> bytes."""
        found: dict[str, dict[str, int]] = {}
        for use in self.uses:
            found.setdefault(use.stage, {})[use.device] = use.peak_bytes
        return found


@dataclass(frozen=True)
class Work:
    """A part of a plan that stands for all alike. nodes: one, or steps that follow each other. pictures: (width,
    height) of those that it looks at."""

    nodes: tuple[Node, ...]
    about: Description
    pictures: tuple[tuple[int, int], ...] = ()

    @property
    def stage(self) -> str:
        return self.nodes[0].stage.told

    @property
    def kind(self) -> str:
        return self.nodes[0].stage.component

    @property
    def part(self) -> Any:
        return self.nodes[0].part


def latents_shape(step: Node) -> list[int]:
    """The shape of the latents of a chain, from what it begins with."""
    node = step
    while "before" in node.inputs:
        node = node.before
    shape: list[int] = node.params["shape"]
    return shape
