"""What this machine's runs have taken against what was told of them before, by device. Small, in the store's index.
Torch-free."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from engine.fit.work import Memory
    from store.index.index import Index

_PLACE = "memory/learned"
_KEPT = 12

# Less than this is the process's own more than the work's.
LEAST_BYTES = 1 << 28

_ASSUMED_RATIO = 1.1
# More than this is what else the process held, such as models of runs before.
_MOST = 2.0
# Of the process: Python, torch and its libraries, or a context of CUDA.
CONTEXT_BYTES = 500_000_000
# Less than this is what a stage on another device leaves there, such as its positions.
_SMALL_BYTES = 10**6


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


def expected(memory: Memory, known: Mapping[str, Learned]) -> dict[str, dict[str, int]]:
    """stage -> device -> what a run is expected to take there, with the models that stay loaded; without devices of
    which it takes next to nothing. known: as of `learned`."""
    found: dict[str, dict[str, int]] = {}
    for use in memory.uses:
        if use.peak_bytes >= _SMALL_BYTES:
            needed = known.get(use.device, Learned()).needed(use.peak_bytes)
            found.setdefault(use.stage, {})[use.device] = needed
    return found


def learn(index: Index, device: str, told: int, reached: int) -> None:
    """Takes down what a stage took of a device. told: the peak that was told. reached: all that the process had of it
    at most."""
    if told < LEAST_BYTES:
        return
    known = learned(index)
    ratio = round(max(0, reached - CONTEXT_BYTES) / told, 4)
    if ratio > _MOST:
        return
    known[device] = Learned((*known.get(device, Learned()).ratios, ratio)[-_KEPT:])
    index.put(_PLACE, msgspec.json.encode(known))


@contextmanager
def compared(memory: Memory, index: Index) -> Iterator[None]:
    """Learns from a run what it reaches against what was told of it; of one that does not end well nothing."""
    if not memory.uses:
        yield
        return
    _forget()
    yield
    for device, use in memory.largest.items():
        reached = _reached(device)
        if reached:
            learn(index, device, use.peak_bytes, reached)


def _forget() -> None:
    """Peaks are counted anew, where the system allows that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for i in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(i)


def _reached(device: str) -> int:
    """The most that this process has had of a device since then; 0 where nobody counts it."""
    if device == "cpu":
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) << 10
        return 0
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda") or not torch.cuda.is_initialized():
        return 0
    reserved: int = torch.cuda.max_memory_reserved(torch.device(device))
    return reserved + CONTEXT_BYTES
