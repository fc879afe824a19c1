"""Which components go when another one needs their device: one rule for engines and for dry runs. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar


class Occupant(Protocol):
    """uses: by how many it is in use now."""

    kind: str
    device: Any
    num_bytes: int
    uses: int


Place = TypeVar("Place")


def leaving(
    held: Mapping[Place, Occupant], kind: str, device: Any, num_bytes: int, budget: float
) -> list[Place]:
    """Those of `held`, the least recently used first, that go for one of `kind` on `device`: of a kind one is enough,
    and of the others as many as it takes to hold `num_bytes` more within the budget. Nothing that is in use goes."""
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
