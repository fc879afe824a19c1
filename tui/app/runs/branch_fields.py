"""What the form of a branch changes: its fields, their values in the parent, and what differs as overrides. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import inspect

from presets.fields.listing import fields
from presets.settings.overrides import text_override, toml_value
from presets.spec.run import RunSpec

if TYPE_CHECKING:
    from tui.describe.runs.run import At

TEXTS = ("prompt", "negative_prompt")
FIELDS = (
    "guidance.scale",
    "scheduler.name",
    "scheduler.steps",
    "scheduler.shift",
    *TEXTS,
)


def solvers() -> tuple[str, ...]:
    """What a solver's name can be."""
    node = next(field.type for field in fields(RunSpec) if field.key == "scheduler.name")
    assert isinstance(node, inspect.LiteralType)
    return tuple(map(str, node.values))


def values_of(spec: Mapping[str, Any]) -> dict[str, str]:
    """What a run has in the fields, as it is typed; "" for what its spec does not say."""
    return {key: _typed(_value(spec, key.split("."))) for key in FIELDS}


def _value(spec: object, path: Sequence[str]) -> object:
    for name in path:
        spec = spec.get(name) if isinstance(spec, Mapping) else None
    return spec


def _typed(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else toml_value(value)


def overrides_of(before: Mapping[str, str], typed: Mapping[str, str], more: str) -> list[str]:
    """`KEY=VALUE` for every field that has another value now, then those of the free line.

    A field that was emptied means the parent's value, but for texts. Raises ValueError for a quotation that is not
    closed in the free line.
    """
    found = []
    for key, value in typed.items():
        if value == before.get(key):
            continue
        if key in TEXTS:
            found.append(text_override(key, value))
        elif value.strip():
            found.append(f"{key}={value.strip()}")
    return [*found, *shlex.split(more)]


def first_step(points: Collection[int], total: int) -> int:
    """The step to begin with: in the middle of a run of so many, or the last one before that is stored. points: after
    which steps the state is stored."""
    return max((point for point in points if point <= total // 2), default=0)


def shares(at: At, total: int) -> str:
    """What a branch at a step has in common with its parent of so many steps."""
    if at == "decode":
        return f"shares all {total} steps"
    if at == 0:
        return "shares no step"
    steps = "step 1" if at == 1 else f"steps 1-{at}"
    return f"shares {steps} of {total}"
