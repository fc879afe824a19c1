"""JSON of a stranger, and the error for all that a bundle must not be."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DEPTH = 64


class BundleRefused(StoreError):
    """A file is not a bundle, or not one that may be imported; nothing of it was."""


def strict_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object in which no key is there twice, no number leaves 64 bits, nothing is too deep."""
    try:
        text.encode()
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refused_constant,
            parse_float=_finite,
            parse_int=_of_64_bits,
        )
    except RecursionError:
        raise BundleRefused(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise BundleRefused(f"{what} is not strict JSON ({error})") from None
    if type(value) is not dict:
        raise BundleRefused(f"{what} is not a JSON object")
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
    if level:
        raise BundleRefused(f"{what} is nested too deeply")
    return value


def _children(value: Any) -> list[Any]:
    if type(value) is dict:
        return list(value.values())
    return value if type(value) is list else []


def first_twin(names: Iterable[str]) -> str | None:
    """The first of the names that was there before; None where each is there once. Looks at each name once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"the key {first_twin(name for name, _ in pairs)!r} is there twice")
    return found


def _refused_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _of_64_bits(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError("a number is too large")
    return int(text)
