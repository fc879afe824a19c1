"""Weights that hold no numbers: looked for once what was made of them is none, never before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoints.formats.table import TensorInfo
from engine.checkpoints.layout import Layout
from engine.checkpoints.load import Weights
from engine.checkpoints.source import Source


@dataclass(frozen=True, slots=True)
class NoNumbers:
    """A tensor of a file, under its name there. what: "NaN" or "infinite numbers". is_stored: whether the file itself
    holds them; else the numbers are too large for the dtype that was asked for."""

    file: Path
    name: str
    what: str
    is_stored: bool


def no_numbers(
    source: Source,
    layout: Layout,
    dtype_of: Callable[[str], torch.dtype | None] = lambda name: None,
    check: Callable[[], None] = lambda: None,
) -> NoNumbers | None:
    """The first tensor of a checkpoint that is not finite, be it once rounded to `dtype_of` its original name; None
    where all are. Reads the weights whole, some megabytes at a time. check: called at each tensor; may raise to stop.

    Raises CheckpointError where a file cannot be read or changes meanwhile.
    """
    names = {(info.file, info.start): name for name, info in source.tensors.items()}
    found: list[NoNumbers] = []

    def look(dtype: torch.dtype | None, part: TensorInfo, values: Tensor) -> None:
        numbers = values.float() if values.dtype.itemsize == 1 else values  # fp8 cannot tell itself
        rounded = numbers.to(dtype)
        if not found and not bool(rounded.isfinite().all()):
            is_stored = not bool(numbers.isfinite().all())
            what = "NaN" if bool(rounded.isnan().any()) else "infinite numbers"
            name = names.get((part.file, part.start), "")
            found.append(NoNumbers(part.file, name, what, is_stored))

    with Weights(layout.entries) as weights:
        for name in layout.entries:
            check()
            weights.read(name, partial(look, dtype_of(name)))
            if found:
                return found[0]
    return None
