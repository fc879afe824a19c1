"""The order in which blocks come into slots and leave them, over copies and waits that are somebody else's. Torch-free.

Blocks are taken in a circle, from the last to the first of the next call. While one is computed with, the copies of
the following ones are under way into the other slots; once it is given back, into its own too. Nothing here waits:
what keeps a copy from overwriting what is still read, and a reader from beginning before its copy is there, are the
`Transfers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Transfers(Protocol):
    """Copies into slots. Each slot is sent to, received and freed in turns, a copy that nobody receives left out."""

    def send(self, block: int, slot: int) -> None:
        """Have a block copied into a slot, once what was computed up to its last `free` is done."""
        ...

    def receive(self, slot: int) -> None:
        """What is computed from now on begins once the last copy into a slot is there. Raises what the copy raised."""
        ...

    def free(self, slot: int) -> None:
        """What was computed up to now was the last to read a slot."""
        ...


class Rotation:
    """swapped: the blocks that come, in the order in which they are computed."""

    def __init__(self, swapped: Sequence[int], num_slots: int, transfers: Transfers) -> None:
        self._next = dict(zip(swapped, [*swapped[1:], swapped[0]], strict=True))
        self._held: list[int | None] = [None] * num_slots
        self._taken: int | None = None
        self._transfers = transfers
        self._fetch(swapped[-1])

    def take(self, block: int) -> int:
        """The slot that a block is in, for what is computed from now on. One at a time, in any order, though only in
        their own is each under way before it is asked for."""
        if block not in self._held:
            self._send(block, keep=())
        slot = self._held.index(block)
        self._taken = slot
        self._fetch(block)
        try:
            self._transfers.receive(slot)
        except BaseException:  # whatever ended the wait, the slot holds nothing that may be read
            self._held[slot], self._taken = None, None
            raise
        return slot

    def give_back(self, block: int) -> None:
        """What is computed from now on does not read its slot."""
        slot = self._held.index(block)
        self._taken = None
        self._transfers.free(slot)
        self._fetch(block)

    def _fetch(self, block: int) -> None:
        """Sends for what follows a block, as far as there are slots that are not in use."""
        following: list[int] = []
        for _ in range(len(self._held) - (self._taken is not None)):
            block = self._next[block]
            following.append(block)
        for each in following:
            if each not in self._held:
                self._send(each, keep=following)

    def _send(self, block: int, keep: Sequence[int]) -> None:
        slot = next(
            i
            for i, held in enumerate(self._held)
            if i != self._taken and (held is None or held not in keep)
        )
        self._held[slot] = block
        self._transfers.send(block, slot)
