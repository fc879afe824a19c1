"""Which components go when another one needs their device, or room there for its work: one rule for engines and for dry
runs. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

# Of the budget, for the work of a component of which nobody has told what it takes: with 0.8 of a device for the
# budget, what stays in memory has half of the device.
UNKNOWN_WORK = 3 / 8


# Of a device: less than this is little, and so much less than before means that somebody else takes it. The context
# of one more program on a card of 24 GB is twice that.
SHORT = 0.1
TAKEN = 0.01


class Occupant(Protocol):
    """uses: by how many it is in use now."""

    kind: str
    device: Any
    num_bytes: int
    uses: int


Place = TypeVar("Place")


def leaving(
    held: Mapping[Place, Occupant], kind: str, device: Any, num_bytes: float, budget: float
) -> list[Place]:
    """Those of `held`, the least recently used first, that go for one of `kind` on `device`: of a kind one is enough,
    and of the others as many as it takes to hold `num_bytes` more within the budget: weights that are to come, and what
    is worked on with them (`work_room`). For what is held already, and in use, kind is "". Nothing in use goes."""
    idle = [place for place, each in held.items() if not each.uses]
    # at a change of part the old one goes before the new one is read
    going = [place for place in idle if held[place].kind == kind]
    taken = sum(
        each.num_bytes
        for place, each in held.items()
        if each.device == device and place not in going
    )
    for place in idle:
        if place in going or held[place].device != device:
            continue
        if num_bytes + taken <= budget:
            break
        going.append(place)
        taken -= held[place].num_bytes
    return going


def work_room(work_bytes: int | None, budget: float) -> float:
    """What is to be left on a device for the work of a component, beside its weights. work_bytes: what that takes, None
    where it is not known."""
    return UNKNOWN_WORK * budget if work_bytes is None else work_bytes


@dataclass(frozen=True, order=True)
class Free:
    """Of a device's memory, in bytes, what nobody uses and what there is."""

    free: int
    total: int


def is_short(now: Free, at_rest: Free) -> bool:
    """Whether an engine that has nothing to do is to give back what it holds on a device: there is little left, and
    somebody else has taken more since it came to rest. What it takes itself asks for nothing: it would load and unload
    for ever. at_rest: the most that was free since then."""
    taken = at_rest.free - now.free
    return now.free < SHORT * now.total and taken >= TAKEN * now.total
