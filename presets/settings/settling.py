"""Settings of one layer, such as a file or a recorded run: what it leaves open or says by an older name is settled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The extension that became `components.denoiser.resident_blocks`: it was exact, and so in no key.
BLOCK_SWAP = "block-swap"


def settle_steps(values: Mapping[str, Any], *, anew: bool = False) -> dict[str, Any]:
    """`values`, one layer of settings; where it sets sigmas and no steps, the sigmas set them. anew: whatever the
    steps are."""
    scheduler = values.get("scheduler")
    if not isinstance(scheduler, Mapping) or ("steps" in scheduler and not anew):
        return dict(values)
    sigmas = scheduler.get("sigmas")
    if not isinstance(sigmas, list | tuple) or not sigmas:
        return dict(values)
    return {**values, "scheduler": {**scheduler, "steps": len(sigmas)}}


def settle_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, one layer of settings, with what has become another setting under its present name. What is not
    understood of it stays, and is refused by its name."""
    listed = values.get("extensions")
    components = values.get("components", {})
    if not isinstance(listed, list | tuple) or not isinstance(components, Mapping):
        return dict(values)
    left, part = [], components.get("denoiser", {})
    for each in listed:
        number = _swapped(each)
        if number is None or not isinstance(part, Mapping):
            left.append(each)
        elif each.get("enabled", True) and part.get("resident_blocks", "all") == "all":
            part = {**part, "resident_blocks": str(number)}
    if len(left) == len(listed):
        return dict(values)
    settled = {**values, "extensions": left}
    return {**settled, "components": {**components, "denoiser": part}} if part else settled


def _swapped(extension: Any) -> int | None:
    """The blocks that stayed by the extension that block swap once was; None for any other."""
    if not isinstance(extension, Mapping) or extension.get("name") != BLOCK_SWAP:
        return None
    options = extension.get("options", {})
    if extension.keys() - {"name", "enabled", "options"} or not isinstance(options, Mapping):
        return None
    number = options.get("resident_blocks", 0)
    is_known = not options.keys() - {"resident_blocks"} and type(number) is int
    return number if is_known and 0 <= number <= 1000 else None


def settle_instructions(values: dict[str, Any]) -> dict[str, Any]:
    """`values`, one layer of settings; where it names a template and no instructions, those of others do not hold."""
    expansion = values.get("expansion")
    if not isinstance(expansion, dict) or "template" not in expansion:
        return values
    return {**values, "expansion": {"instructions": "", **expansion}}
