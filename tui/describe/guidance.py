"""Guidance that changes between steps, in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby


def scale_told(scale: object) -> str:
    """`5`; `6×8 1×12` for a list, each number with how many steps have it; `6 in 0–0.4` for pieces.

    scale: as plain data, as a spec's JSON has it.
    """
    if not isinstance(scale, list | tuple):
        return _number(scale)
    if all(isinstance(part, Mapping) for part in scale):
        return ", ".join(_piece(part) for part in scale)
    return " ".join(f"{_number(part)}×{len(list(same))}" for part, same in groupby(scale))


def _piece(piece: Mapping[str, object]) -> str:
    start, stop, scale = (_number(piece.get(name)) for name in ("from", "to", "scale"))
    return f"{scale} in {start}–{stop}"


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
