"""What tells the runs of a set from each other: the settings of which not all have the same value. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from presets.settings import flatten
from tui.describe.guidance import scale_told
from tui.text import printable, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

# Where a run writes and what it keeps is no difference of what it makes.
_NOT_TOLD = ("format", "output.", "keep.")
_MAX_VALUE = 24


def varying(specs: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """For each spec, as plain data, its values of the settings that vary, by dotted key in the order of the specs.

    A setting that a spec lacks is None there. Equal specs, and a single one, have nothing that varies.
    """
    flat = [flatten(_with_whole_scale(spec)) for spec in specs]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    found = [
        key
        for key in keys
        if not key.startswith(_NOT_TOLD)
        # as text, because to Python true equals 1
        and len({json.dumps(settings.get(key), sort_keys=True) for settings in flat}) > 1
    ]
    return [{key: settings.get(key) for key in found} for settings in flat]


def label(values: Mapping[str, object]) -> str:
    """`seed 7, steps 400`: each value after the last part of its key; texts, which are long, come last."""
    names = _names(list(values))
    ordered = sorted(values, key=lambda key: key.endswith("prompt"))
    return ", ".join(f"{names[key]} {_value(values[key])}" for key in ordered)


def _names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of a key where no other of these has it too."""
    lasts = [key.rpartition(".")[2] for key in keys]
    return {
        key: last if lasts.count(last) == 1 else key.removeprefix("components.")
        for key, last in zip(keys, lasts, strict=True)
    }


def _value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float | list | tuple):
        return shorten(scale_told(value), _MAX_VALUE) if value else "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shorten(printable(text), _MAX_VALUE) if text else '""'


def _with_whole_scale(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """A scale that changes between steps is one value, also where its pieces are tables."""
    guidance = spec.get("guidance")
    if not isinstance(guidance, dict) or not isinstance(scale := guidance.get("scale"), list):
        return spec
    return {**spec, "guidance": {**guidance, "scale": tuple(scale)}}
