"""TeaCache: the blocks are left out of a step while the time embedding has hardly moved (arXiv:2411.19108).

How far the embedding e of the timestep moved since the step before, mean|e - e'| / mean|e'|, is mapped by a polynomial
to how far the output of the blocks will have moved, and summed up. While the sum is below the threshold the blocks'
last residual (output - input) is used again; when it is reached they are computed and the sum begins anew. Both use
the embedding before its projection, and what was said of the step before is said at every step, computed or not.

Source: TeaCache, `TeaCache4Wan2.1/teacache_generate.py`, without `--use_ret_steps`. As there the first step and the
last one are always computed. Unlike there, branches and windows are told apart by name, not by the parity of a
counter, and one that was not asked for at the step before begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from engine.errors import ComponentError
from engine.extensions.extension import Facts
from presets.errors import PresetError

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models.seams import At, Tokens

# Highest power first, as numpy has them. Those of Wan are the published ones. Those of "micro" were fitted by
# `python -m tests.benchmark.models.bench_teacache --fit`.
COEFFICIENTS: Mapping[str, tuple[float, ...]] = {
    "wan2.1-t2v-1.3b": (2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774),
    "wan2.1-t2v-14b": (
        -5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404,
    ),
    "wan2.1-i2v-14b-480p": (-302.331670, 223.948934, -52.5463970, 5.87348440, -0.201973289),
    "wan2.1-i2v-14b-720p": (
        -114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683,
    ),
    "micro": (425.357928, -205.683187, 31.6151724, -0.66554426, 0.025383456),
}  # fmt: skip

Key = tuple[str, tuple[int, ...] | None]  # branch and window


@dataclass
class _Seen:
    """What is kept of one branch and window.

    step: of its last call. computed: the last step whose blocks ran. total: the sum since then. signal: the time
    embedding of `step`. residual: of `computed`; None after `restore`, which only that step can mend.
    """

    step: int
    computed: int
    total: float
    signal: Tensor
    residual: Tensor | None


class TeaCache:
    exact: ClassVar[bool] = False
    version: ClassVar[int] = 1
    facts_in_key: ClassVar[tuple[str, ...]] = ("model",)  # it chooses the polynomial

    class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        threshold: Annotated[
            float,
            Meta(
                ge=0,
                le=10,
                description="predicted change of the blocks' output up to which they are left out; published: 0.05 "
                "to 0.08 for t2v-1.3b, 0.14 to 0.2 for t2v-14b, 0.13 to 0.3 for i2v",
            ),
        ] = 0.05
        start: Annotated[
            float,
            Meta(
                ge=0, le=1, description="share of the steps before the first", extra={"when": True}
            ),
        ] = 0.0
        end: Annotated[
            float,
            Meta(ge=0, le=1, description="share of the steps up to the last", extra={"when": True}),
        ] = 1.0

    def __init__(self, options: Options, facts: Facts) -> None:
        model = str(facts.get("model", ""))
        if model not in COEFFICIENTS:
            raise ComponentError(
                f"teacache has no coefficients for {model or 'a model without a published name'}; it has them for "
                f"{', '.join(COEFFICIENTS)}"
            )
        if options.end < options.start:
            raise PresetError(f"expected at least start, {options.start}", key="end")
        self.options = options
        self.coefficients = COEFFICIENTS[model]
        self.step = -1  # the last that was asked for
        self.seen: dict[Key, _Seen] = {}
        self.skipped: set[int] = set()  # steps at which anything was left out

    def is_active(self, step: int, total: int) -> bool:
        is_last = step == total - 1
        return self.options.start <= step / total <= self.options.end and not is_last

    def blocks(self, next: Callable[[Tokens, At], Tensor], tokens: Tokens, at: At) -> Tensor:
        self.step = at.step
        # residuals are large, and those of two steps ago are never used again
        self.seen = {key: seen for key, seen in self.seen.items() if seen.step >= at.step - 1}
        seen = self.seen.get((at.branch, at.window))
        if seen is not None and seen.step == at.step - 1:
            seen.total += _value(self.coefficients, _relative_change(tokens.signal, seen.signal))
            seen.step, seen.signal = at.step, tokens.signal
            if seen.total < self.options.threshold and seen.residual is not None:
                self.skipped.add(at.step)
                return tokens.x + seen.residual
        x = next(tokens, at)
        self.seen[at.branch, at.window] = _Seen(
            at.step, at.step, 0.0, tokens.signal, residual=x - tokens.x
        )
        return x

    def state(self) -> dict[str, Tensor]:
        """Of every branch and window that may be used again: `signal`, `total` and `steps` (its last, and the last
        computed); and all steps at which anything was left out."""
        import torch

        tensors = {}
        for (branch, window), seen in self._live().items():
            frames = "" if window is None else ",".join(map(str, window))
            name = f"{branch}@{frames}"
            tensors[f"{name}/signal"] = seen.signal
            tensors[f"{name}/total"] = torch.tensor(seen.total, dtype=torch.float64)
            tensors[f"{name}/steps"] = torch.tensor([seen.step, seen.computed])
        if self.skipped:
            tensors["skipped"] = torch.tensor(sorted(self.skipped))
        return tensors

    def resume_at(self) -> int | None:
        """The last step from which every residual in use is computed again, with nothing left out at that step: what
        was left out there would need a residual from before."""
        step = min((seen.computed for seen in self._live().values()), default=None)
        while step is not None and step in self.skipped:
            step -= 1
        return step

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.step, self.seen = -1, {}
        self.skipped = set(tensors["skipped"].tolist()) if "skipped" in tensors else set()
        for name in tensors:
            label, _, field = name.rpartition("/")
            if field != "steps":
                continue
            branch, _, frames = label.rpartition("@")
            window = tuple(map(int, frames.split(","))) if frames else None
            step, computed = tensors[name].tolist()
            total, signal = float(tensors[f"{label}/total"]), tensors[f"{label}/signal"]
            self.seen[branch, window] = _Seen(step, computed, total, signal, residual=None)
            self.step = max(self.step, step)

    def _live(self) -> dict[Key, _Seen]:
        """Those that were asked for at the last step: the others begin anew at the next."""
        return {key: seen for key, seen in self.seen.items() if seen.step == self.step}


def _relative_change(now: Tensor, before: Tensor) -> float:
    """mean|now - before| / mean|before|."""
    return float((now - before.to(now.device)).abs().mean() / before.to(now.device).abs().mean())


def _value(coefficients: tuple[float, ...], x: float) -> float:
    """The polynomial at x, by Horner's rule."""
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value
