"""Ranges and tick labels of a plot's axes: round numbers, and room for values that do not vary."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, always `low < high`; two or three `ticks` within it, ascending."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Where `value` lies: 0 at `low`, 1 at `high`, beyond them outside."""
        return (value - self.low) / (self.high - self.low)


def exact_axis(low: float, high: float) -> Axis:
    """An axis that ends where it is told to, with ticks at both ends and in the middle."""
    low, high = _apart(low, high)
    return Axis(low, high, (low, low + (high - low) / 2, high))


def round_axis(low: float, high: float, *, binary: bool = False) -> Axis:
    """An axis around `low..high` that begins and ends at round numbers, its middle too if ticked.

    Round: 1, 2, 2.5 or 5 times a power of ten, with `binary` a power of two (sizes in bytes). Sizes that hardly differ
    are to look so: with `binary` the axis is at least an eighth of them.
    """
    low, high = _apart(low, high)
    if binary:
        low = min(low, high - abs(high) / 8)
    least = (high - low) / 4
    step = _round_step(max(least, _told_apart(high)) if binary else least, binary)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    ticks = [first * step, last * step]
    if (last - first) % 2 == 0:
        ticks.insert(1, (first + last) // 2 * step)
    return Axis(ticks[0], ticks[-1], tuple(ticks))


def number(value: float) -> str:
    """A short number for an axis or a legend: `0.5`, `12`, `1500`, `1.2e+06`, `3e-05`."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        decimals = max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:.{decimals}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{exponent}" if exponent else mantissa


def _apart(low: float, high: float) -> tuple[float, float]:
    """The two in order, half a unit (or a tenth of the value) around them where they are one.

    Within 1e307 and more than 1e-290 apart, so that neither a difference nor its inverse overflows.
    """
    low, high = sorted((max(-1e307, min(1e307, low)), max(-1e307, min(1e307, high))))
    if high - low > max(1e-9 * max(abs(low), abs(high)), 1e-290):
        return low, high
    margin = max(abs(low) / 10, 1e-9) if low else 0.5
    return low - margin, high + margin


def _told_apart(num_bytes: float) -> float:
    """By how much sizes as large as this must differ to differ in words, as `tui.text.size` has them."""
    return 1 << 27 if num_bytes >= 1 << 30 else 1 << 20 if num_bytes >= 1 << 20 else 0


def _round_step(least: float, binary: bool) -> float:
    """The smallest round number that is at least `least`."""
    if binary:
        return 2.0 ** math.ceil(math.log2(least) - 1e-9)
    power = 10.0 ** max(math.floor(math.log10(least)), -300)
    return next(
        (digit * power for digit in (1, 2, 2.5, 5) if digit * power >= least * (1 - 1e-9)),
        10 * power,
    )
