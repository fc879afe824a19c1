"""What came of computing a run again, in words, from the data of `modiff replay --verify --json`. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping


def verdict_lines(verdict: Mapping[str, Any]) -> list[str]:
    """Identical, or the first difference and what differs in the environment."""
    if verdict["identical"]:
        return [f"identical: all {verdict['checked']} links computed again have their bytes"]
    far = verdict["relative_l2"]
    at = "" if far is None else f", by {far:.1e} (relative L2)"
    lines = [f"it differs first at {verdict['first_difference']}{at}"]
    for name, sides in verdict["environment"].items():
        lines.append(f"{name} was {sides['then']}, is {sides['now']}")
    if not verdict["environment"]:
        lines.append("nothing differs in the environment; the code or the weights changed")
    return [printable(line) for line in lines]
