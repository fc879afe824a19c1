"""What engines hold in memory and give back, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.text import printable
from tui.units import size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.lineage.records import EngineRecord, HeldModel

NO_ENGINE = "no engine is running, so that nothing is held"


def held_line(models: Sequence[HeldModel]) -> str:
    """What an engine holds: `in memory: denoiser wan-dit (26.6 GiB of cuda:0), vae wan-vae (484 MiB of cpu)`."""
    return f"in memory: {_told(models)}" if models else "no model is in memory"


def held_words(models: Sequence[HeldModel]) -> str:
    """In few words: `27.5 GiB of cuda:0, 1 MiB of cpu`."""
    on: dict[str, int] = {}
    for each in models:
        on[each.device] = on.get(each.device, 0) + each.num_bytes
    shares = [f"{size(num_bytes)} of {device}" for device, num_bytes in on.items()]
    return printable(", ".join(shares)) or "no model"


def release_line(engine: EngineRecord) -> str:
    """What came of a request to give memory back. engine: after it."""
    if engine.is_to_release:
        at_work = f", which works on run {engine.run}" if engine.run else ""
        return f"the engine (process {engine.pid}){at_work} lets go of idle models when its present step ends"
    if not engine.released:
        kept = f"; {held_line(engine.models)}" if engine.models else ""
        return f"nothing is idle{kept}"
    total = size(sum(each.num_bytes for each in engine.released))
    return f"gave back {total}: {_told(engine.released)}"


def _told(models: Sequence[HeldModel]) -> str:
    return ", ".join(
        printable(f"{each.kind} {each.name} ({size(each.num_bytes)} of {each.device})")
        for each in models
    )
