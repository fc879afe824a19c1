"""Where the chains of two runs part, and what time each run took, from the rows of the store. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import median

from store.lineage.records import COMPUTED, RunLink, RunRecord, StageRecord


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of one run. stages: as they ran. step: the median over the steps that it computed itself,
    None where there are none. total: from lease to end, None before the end."""

    stages: tuple[StageRecord, ...]
    step: float | None
    total: float | None
    computed: int
    reused: int


@dataclass(frozen=True, slots=True)
class Chain:
    """shared: how many leading steps have the same keys. strays: those of them (from 0) that nevertheless
    gave other bytes in the two runs, as another machine or version of torch may. sigmas_a, sigmas_b: the noise level
    before each step."""

    shared: int
    strays: tuple[int, ...]
    sigmas_a: tuple[float | None, ...]
    sigmas_b: tuple[float | None, ...]


def timings(run: RunRecord, stages: Sequence[StageRecord], steps: Sequence[RunLink]) -> Timings:
    computed = [step.seconds for step in steps if step.source == COMPUTED]
    return Timings(
        stages=tuple(stages),
        step=median(computed) if computed else None,
        total=run.seconds,
        computed=len(computed),
        reused=len(steps) - len(computed),
    )


def chain(a: Sequence[RunLink], b: Sequence[RunLink]) -> Chain:
    """a, b: the steps of two runs, in order and complete from the first on."""
    shared = list(takewhile(lambda pair: pair[0].key == pair[1].key, zip(a, b, strict=False)))
    strays = [old.index for old, new in shared if _is_other(old, new)]
    return Chain(
        shared=len(shared),
        strays=tuple(strays),
        sigmas_a=tuple(step.sigma for step in a),
        sigmas_b=tuple(step.sigma for step in b),
    )


def _is_other(a: RunLink, b: RunLink) -> bool:
    pairs = ((a.digest, b.digest), (a.latents, b.latents))
    return any(old and new and old != new for old, new in pairs)
