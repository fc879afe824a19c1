"""What this machine's runs have taken against what was told of them before, by device. Small, in the store's index.
Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from store.index.index import Index

_PLACE = "memory/learned"
_KEPT = 12

# Less than this is the process's own more than the work's.
LEAST_BYTES = 1 << 28

_ASSUMED_RATIO = 1.1
# Of the process: Python, torch and its libraries, or a context of CUDA.
CONTEXT_BYTES = 500_000_000


class Learned(msgspec.Struct, frozen=True):
    """ratios: what was reached over what was told, without the process's own, of the last stages that ran there."""

    ratios: tuple[float, ...] = ()

    @property
    def ratio(self) -> float:
        """By what is told is to be multiplied: the most that was seen, or what is assumed where nothing was. No less
        than 1."""
        return max(1.0, *self.ratios) if self.ratios else _ASSUMED_RATIO

    def needed(self, num_bytes: int) -> int:
        """What a device needs for so many bytes that are told, the process's own included."""
        return round(self.ratio * num_bytes) + CONTEXT_BYTES if num_bytes else 0


def learned(index: Index) -> dict[str, Learned]:
    """By device, of those that something is known of."""
    found = index.get(_PLACE)
    return {} if found is None else msgspec.json.decode(found, type=dict[str, Learned])


def learn(index: Index, device: str, told: int, reached: int) -> None:
    """Takes down what a stage took of a device. told: the peak that was told. reached: all that the process had of it
    at most."""
    if told < LEAST_BYTES:
        return
    known = learned(index)
    ratio = round(max(0, reached - CONTEXT_BYTES) / told, 4)
    known[device] = Learned((*known.get(device, Learned()).ratios, ratio)[-_KEPT:])
    index.put(_PLACE, msgspec.json.encode(known))
