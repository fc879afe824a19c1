"""What a key takes and what was given, in words: expectations by type and limits, values as TOML would show them."""

from __future__ import annotations

import datetime
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import inspect

from presets.errors import PresetError

# Longer text is named by its size in messages, never echoed.
MAX_ECHO = 60


def refusal(value: object, node: inspect.Type, extra: Mapping[str, Any], key: str) -> PresetError:
    """The error for a value that is not of a type."""
    hint = ""
    if isinstance(node, inspect.LiteralType) and isinstance(value, str):
        hint = did_you_mean(nearest(value, [str(v) for v in node.values]))
    elif isinstance(node, inspect.IntType) and type(value) is int:
        hint = _nearest_on_grid(value, node, extra)
    return PresetError(f"expected {expected(node, extra)}, got {quote(value)}{hint}", key=key)


def expected(node: inspect.Type, extra: Mapping[str, Any]) -> str:
    """What a type takes. extra: of its annotation, as of `presets.fields`."""
    if "expected" in extra:
        return str(extra["expected"])
    match node:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            kind = "an integer"
            if "step" in extra:
                kind = f"an integer {extra['step']}n+{node.ge}"
            elif node.multiple_of is not None:
                kind = f"a multiple of {node.multiple_of}"
            return kind + _limits(node)
        case inspect.FloatType():
            return "a finite number" + _limits(node)
        case inspect.StrType():
            return _expected_text(node, extra)
        case inspect.LiteralType():
            return _either([quote(value) for value in node.values])
        case inspect.VarTupleType():
            return f"an array{_counts(node)}, each item {expected(*_unwrap_node(node.item_type))}"
        case inspect.UnionType():
            return _either([expected(*_unwrap_node(option)) for option in node.types])
        case inspect.StructType() | inspect.DictType():
            return "a table"
    raise AssertionError(f"no words for {node}")


def quote(value: object) -> str:
    """`value` as TOML would show it, shortened to a description when it is long."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            if len(value) <= MAX_ECHO:
                return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
            return f"text of {len(value.encode('utf-8', 'surrogatepass'))} bytes"
        case int():
            digits = value.bit_length() * math.log10(2)
            return str(value) if digits < MAX_ECHO else f"an integer of about {digits:.0f} digits"
        case float():
            return repr(value)
        case datetime.date() | datetime.time():
            return f"the date or time {value}"
        case Mapping():
            return "a table"
        case list() | tuple():
            return f"an array of {len(value)}"
    return f"a value of type {type(value).__name__}"


def did_you_mean(candidates: Sequence[str], *, quoted: bool = True) -> str:
    """`, did you mean "a" or "b"?`, or nothing without candidates."""
    if not candidates:
        return ""
    return f", did you mean {_either([quote(c) for c in candidates] if quoted else candidates)}?"


def nearest(word: str, candidates: Sequence[str], *, cutoff: float = 0.6) -> list[str]:
    """The candidate most like `word` regardless of case, as a list of at most one."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(word.lower()[:100], by_lower, n=1, cutoff=cutoff)
    return [by_lower[match] for match in found]


def _nearest_on_grid(value: int, node: inspect.IntType, extra: Mapping[str, Any]) -> str:
    """`; nearest valid: 816, 832` for an integer that keeps a step, nothing for others."""
    step = extra.get("step") or node.multiple_of
    if step is None or node.ge is None or node.le is None:
        return ""
    low = node.ge if "step" in extra else -(-node.ge // step) * step
    high = low + (node.le - low) // step * step
    below = min(max(low + (value - low) // step * step, low), high)
    valid = sorted({below, min(below + step, high) if value > below else below})
    return f"; nearest valid: {', '.join(map(str, valid))}"


def _unwrap_node(node: inspect.Type) -> tuple[inspect.Type, Mapping[str, Any]]:
    return (node.type, node.extra or {}) if isinstance(node, inspect.Metadata) else (node, {})


def _expected_text(node: inspect.StrType, extra: Mapping[str, Any]) -> str:
    if "max_bytes" in extra:
        return f"text of at most {extra['max_bytes']} bytes"
    if node.max_length is None:
        return "text"
    if node.min_length:
        return f"text of {node.min_length} to {node.max_length} characters"
    return f"text of at most {node.max_length} characters"


def _counts(node: inspect.VarTupleType) -> str:
    limits = [
        f"{word} {count}"
        for word, count in (("at least", node.min_length), ("at most", node.max_length))
        if count is not None
    ]
    return f" ({', '.join(limits)})" if limits else ""


def _limits(node: inspect.IntType | inspect.FloatType) -> str:
    limits = [
        f" {sign} {limit:g}" if isinstance(limit, float) else f" {sign} {limit}"
        for sign, limit in ((">=", node.ge), (">", node.gt), ("<=", node.le), ("<", node.lt))
        if limit is not None
    ]
    return " and".join(limits)


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
