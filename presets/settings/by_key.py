"""The settings of a spec by their dotted keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from presets.spec.run import RunSpec

Settings = dict[str, Any]
"""Values by dotted key."""

LATER: Settings = {
    "url": "",
    "quantise": "",
    "unpack": "auto",
    "activations": "plain",
    "resident_blocks": "all",
    "guidance_device": "",
}
"""Options of components that runs on record may not say, since these are older, by name: the values at which they do
nothing."""


def settings_of(spec: RunSpec) -> Settings:
    """All settings of a spec, those with their defaults too."""
    return flatten(msgspec.to_builtins(spec, builtin_types=(tuple,)))


def flatten(value: Mapping[str, Any], prefix: str = "") -> Settings:
    """Nested tables as dotted keys; a list of tables by position (`extensions[0].name`), others as a value."""
    flat: Settings = {}
    for name, part in value.items():
        if isinstance(part, list) and part and all(isinstance(each, dict) for each in part):
            for place, each in enumerate(part):
                flat |= flatten(each, f"{prefix}{name}[{place}].")
        elif isinstance(part, dict):
            flat |= flatten(part, f"{prefix}{name}.")
        else:
            flat[prefix + name] = part
    return flat


def changed_keys(before: RunSpec, after: RunSpec) -> list[str]:
    """The keys of which two specs have different values, in the order of the RunSpec."""
    a, b = settings_of(before), settings_of(after)
    # a table of options may be empty in one of them
    return [key for key in {**a, **b} if key not in a or key not in b or a[key] != b[key]]
