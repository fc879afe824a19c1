"""Which options of a component count in the key of a result."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import msgspec

from presets.fields.listing import fields
from presets.validation import to_plain


def counting(part: msgspec.Struct) -> dict[str, Any]:
    """The options of a validated `part` that its numbers depend on, as plain data by key.

    Left out are those that say where something runs or lies (`extra={"place": True}`) and those at their
    neutral value (`extra={"neutral": ...}`), so that a new option changes no key of those who do not use it.
    """
    found = {}
    for field in fields(type(part)):
        value = to_plain(attrgetter(field.key)(part))
        if not field.extra.get("place") and not _is_neutral(value, field.extra):
            found[field.key] = value
    return found


def _is_neutral(value: object, extra: Mapping[str, Any]) -> bool:
    # as bytes, because to Python false equals 0
    return "neutral" in extra and _written(value) == _written(extra["neutral"])


def _written(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")
