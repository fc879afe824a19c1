"""What a run would take in memory, as rows for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tui.units import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.fit.work import Memory, Use

HEADINGS = ("STAGE", "DEVICE", "PEAK", "WEIGHTS", "OTHERS", "AT")

# what nobody needs to see of a stage that works on another device
_SMALL_BYTES = 10**6


def memory_rows(memory: Memory) -> list[tuple[str, ...]]:
    """Stage, device, peak, of it the stage's own weights and those of other models that stay loaded, and what was made
    last: for each stage its largest device, and others on which it takes something of note itself."""
    most: dict[str, int] = {}
    for use in memory.uses:
        most[use.stage] = max(most.get(use.stage, 0), use.peak_bytes)
    return [
        _row(use)
        for use in memory.uses
        if use.peak_bytes == most[use.stage]
        or (use.peak_bytes >= _SMALL_BYTES and use.peak_bytes > use.kept_bytes)
    ]


@dataclass(frozen=True, slots=True)
class Planned:
    """The most that a plan told of a device, and in which stage."""

    num_bytes: int
    device: str
    stage: str

    @property
    def words(self) -> str:
        return f"planned {size(self.num_bytes)}, in {self.stage}"


def planned_peak(
    peak_bytes: Mapping[str, Mapping[str, int]], host_bytes: int = 0
) -> Planned | None:
    """Of what a plan told, the most on a GPU where it uses one, else of host memory. peak_bytes: stage -> device ->
    bytes. host_bytes: what the process has on the host beside that."""
    found = [
        Planned(num_bytes + (host_bytes if device == "cpu" else 0), device, stage)
        for stage, by_device in peak_bytes.items()
        for device, num_bytes in by_device.items()
    ]
    most = max(found, key=lambda each: each.num_bytes, default=None)
    on_gpu = [each for each in found if each.device != "cpu" and each.num_bytes >= _SMALL_BYTES]
    return max(on_gpu, key=lambda each: each.num_bytes, default=most)


def memory_lines(memory: Memory, total_bytes: int) -> Iterator[str]:
    """What follows from the rows. total_bytes: the memory of this machine."""
    for device, use in memory.largest.items():
        if use.peak_bytes >= _SMALL_BYTES and use.peak_bytes > use.kept_bytes:
            here = f", and this machine has {size(total_bytes)}" if device == "cpu" else ""
            yield f"at most {size(use.peak_bytes)} of {device}, in {use.stage}{_alone(memory, use)}{here}"
    for line in memory.uncounted:
        yield f"not counted: {line}"
    if not memory.uses and not memory.uncounted:
        yield "nothing of it is to be computed on a model, so that it takes no memory to speak of"


def _alone(memory: Memory, largest: Use) -> str:
    """What a device needs where nothing stays loaded that is not in use."""
    if not largest.kept_bytes:
        return ""
    on_it = [use for use in memory.uses if use.device == largest.device]
    alone = max(on_it, key=lambda use: use.peak_bytes - use.kept_bytes)
    return f"; without the others {size(alone.peak_bytes - alone.kept_bytes)}, in {alone.stage}"


def _row(use: Use) -> tuple[str, ...]:
    parts = (use.weights_bytes, use.kept_bytes)
    shares = (size(num_bytes) if num_bytes else "" for num_bytes in parts)
    place = f"{use.module}: {use.operation}" if use.module else use.operation
    return use.stage, use.device, size(use.peak_bytes), *shares, place
