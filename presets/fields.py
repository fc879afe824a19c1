"""What annotations say about the keys of a struct: the one source of checks, messages and help.

msgspec decides what is valid; the code here finds the key that is to blame and words the refusal.
Four rules that msgspec cannot state ride in `Meta(extra=...)` and are enforced by `build`:
`step` (an integer is the lower limit plus a multiple of it), `max` (of an integer, where it has more
than 63 bits), `max_bytes` (of text in UTF-8) and finite numbers everywhere. `expected` in `extra`
replaces the worded expectation, for patterns.
"""

from __future__ import annotations

import datetime
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import inspect, structs

from presets.errors import PresetError

S = TypeVar("S", bound=msgspec.Struct)

_TABLES = (inspect.StructType, inspect.DictType)

# Longer text is named by its size in messages, never echoed.
_MAX_ECHO = 60


@dataclass(frozen=True, slots=True)
class Field:
    """One settable key of a struct.

    key: dotted, as in `--set KEY=VALUE`. expected: what it takes, in words. extra: the `extra` of
    its Meta.
    """

    key: str
    type: inspect.Type
    expected: str
    description: str
    default: object
    extra: Mapping[str, Any]


@cache
def fields(struct: type[msgspec.Struct], prefix: str = "") -> tuple[Field, ...]:
    """All settable keys of `struct` in their order; nested structs are opened, lists are not."""
    found: list[Field] = []
    for info in structs.fields(struct):
        key = prefix + info.encode_name
        node, description, extra = _unwrap(info.type)
        if isinstance(node, inspect.StructType):
            found += fields(node.cls, f"{key}.")
            continue
        default = info.default_factory() if callable(info.default_factory) else info.default
        found.append(Field(key, node, _expected(node, extra), description, default, extra))
    return tuple(found)


@cache
def groups(struct: type[msgspec.Struct], prefix: str = "") -> tuple[str, ...]:
    """The dotted keys of `struct` that hold further keys and cannot be set themselves."""
    found: list[str] = []
    for info in structs.fields(struct):
        node, _, _ = _unwrap(info.type)
        if isinstance(node, inspect.StructType):
            key = prefix + info.encode_name
            found += [key, *groups(node.cls, f"{key}.")]
    return tuple(found)


def build(data: object, struct: type[S]) -> S:
    """Plain data -> `struct`; raises `PresetError` naming the first key that is wrong.

    Keys that are left out take their defaults, so a part of a preset can be checked on its own.
    """
    try:
        built = msgspec.convert(data, struct)
    except msgspec.ValidationError:
        raise _explain(data, struct, "", struct) from None
    except UnicodeEncodeError:  # half a pair of surrogates where one of a few texts belongs
        _refuse_unstorable(data, "")
        raise
    for field in fields(struct):
        value = attrgetter(field.key)(built)
        if not _keeps_extra_rules(value, field):
            raise _refusal(value, field.type, field.extra, field.key)
    _refuse_unstorable(msgspec.to_builtins(built), "")
    return built


def unknown_key(key: str, struct: type[msgspec.Struct]) -> PresetError:
    """The error for a dotted `key` that `struct` does not have, naming the nearest it has."""
    return PresetError(
        f"unknown key{did_you_mean(nearest_keys(key, struct), quoted=False)}", key=key
    )


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


def nearest_keys(key: str, struct: type[msgspec.Struct]) -> list[str]:
    """The keys that a mistyped `key` most probably means, none when nothing is near.

    By its letters alone, else by the last word in the same group, else by the last word anywhere,
    else by the whole key.
    """
    keys = [*(field.key for field in fields(struct)), *groups(struct)]
    if found := [k for k in keys if _letters(k) == _letters(key)]:
        return found
    group, _, word = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in keys if k.rpartition(".")[0] == group}
    if found := nearest(word, list(siblings)):
        return [siblings[found[0]]]
    words = [k.rpartition(".")[2] for k in keys]
    if found := nearest(word, words, cutoff=0.8):
        return [k for k in keys if k.rpartition(".")[2] == found[0]]
    return nearest(key, keys)


def quote(value: object) -> str:
    """`value` as TOML would show it, shortened to a description when it is long."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            if len(value) <= _MAX_ECHO:
                return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
            return f"text of {len(value.encode('utf-8', 'surrogatepass'))} bytes"
        case int():
            digits = value.bit_length() * math.log10(2)
            return str(value) if digits < _MAX_ECHO else f"an integer of about {digits:.0f} digits"
        case float():
            return repr(value)
        case datetime.date() | datetime.time():
            return f"the date or time {value}"
        case Mapping():
            return "a table"
        case list() | tuple():
            return f"an array of {len(value)}"
    return f"a value of type {type(value).__name__}"


def _unwrap(annotation: object) -> tuple[inspect.Type, str, Mapping[str, Any]]:
    node = inspect.type_info(annotation)
    description, extra = "", {}
    if isinstance(node, inspect.Metadata):
        description = (node.extra_json_schema or {}).get("description", "")
        extra = node.extra or {}
        node = node.type
    return node, description, extra


def _arguments(annotation: object) -> tuple[object, ...]:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_args(annotation)


def _explain(
    value: object, annotation: object, key: str, root: type[msgspec.Struct]
) -> PresetError:
    """The refusal for the first part of `value`, which is known not to fit `annotation`."""
    node, _, extra = _unwrap(annotation)
    if isinstance(node, inspect.UnionType):
        option = _option_like(value, annotation)
        if option is not None:
            return _explain(value, option, key, root)
    parts: Iterator[tuple[object, object, str]] = iter(())
    if isinstance(node, inspect.StructType) and isinstance(value, Mapping):
        known = {info.encode_name: info for info in structs.fields(node.cls)}
        for name in value:
            if name not in known:
                siblings = [f"{key}.{sibling}" if key else sibling for sibling in known]
                return _unknown_in(_joined(key, name), siblings, root)
        for name, info in known.items():
            if info.required and name not in value:
                expected = _expected(*_unwrap(info.type)[::2])
                return PresetError(f"missing, expected {expected}", key=_joined(key, name))
        parts = ((value[n], info.type, _joined(key, n)) for n, info in known.items() if n in value)
    elif isinstance(node, inspect.VarTupleType) and isinstance(value, list | tuple):
        item = _arguments(annotation)[0]
        parts = ((part, item, f"{key}[{index}]") for index, part in enumerate(value))
    elif isinstance(node, inspect.DictType) and isinstance(value, Mapping):
        name_type, item = _arguments(annotation)
        for name in value:
            if not _converts(name, name_type):
                expected = _expected(*_unwrap(name_type)[::2])
                return PresetError(f"expected a name that is {expected}", key=_joined(key, name))
        parts = ((part, item, _joined(key, name)) for name, part in value.items())
    for part, part_annotation, part_key in parts:
        if not _converts(part, part_annotation):
            return _explain(part, part_annotation, part_key, root)
    return _refusal(value, node, extra, key)


def _option_like(value: object, annotation: object) -> object | None:
    """Of a union that takes arrays or tables the option that is meant by `value`; None where there is none."""
    options = [(option, _unwrap(option)[0]) for option in _arguments(annotation)]
    if not any(isinstance(node, (*_TABLES, inspect.VarTupleType)) for _, node in options):
        return None
    wanted: tuple[type[inspect.Type], ...] = ()
    match value:
        case Mapping():
            wanted = _TABLES
        case list() | tuple():
            wanted = (inspect.VarTupleType,)
        case int() | float() if not isinstance(value, bool):
            wanted = (inspect.FloatType, inspect.IntType)
    return next((option for option, node in options if isinstance(node, wanted)), None)


def _converts(value: object, annotation: object) -> bool:
    try:
        msgspec.convert(value, annotation)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return False
    return True


def _joined(key: str, name: object) -> str:
    shown = str(name)
    if len(shown) > _MAX_ECHO:
        shown = shown[:_MAX_ECHO] + "..."
    return f"{key}.{shown}" if key else shown


def _refusal(value: object, node: inspect.Type, extra: Mapping[str, Any], key: str) -> PresetError:
    hint = ""
    if isinstance(node, inspect.LiteralType) and isinstance(value, str):
        hint = did_you_mean(nearest(value, [str(v) for v in node.values]))
    elif isinstance(node, inspect.IntType) and type(value) is int:
        hint = _nearest_on_grid(value, node, extra)
    return PresetError(f"expected {_expected(node, extra)}, got {quote(value)}{hint}", key=key)


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


def _keeps_extra_rules(value: object, field: Field) -> bool:
    if "step" in field.extra and isinstance(field.type, inspect.IntType):
        assert isinstance(value, int)
        assert field.type.ge is not None
        return (value - field.type.ge) % int(field.extra["step"]) == 0
    if "max" in field.extra:
        assert isinstance(value, int)
        return value <= int(field.extra["max"])
    if "max_bytes" in field.extra:
        assert isinstance(value, str)
        return len(value.encode("utf-8", "surrogatepass")) <= int(field.extra["max_bytes"])
    return True


def _refuse_unstorable(value: object, key: str) -> None:
    """Refuse what msgspec accepts but JSON, TOML, SQLite or a file name cannot hold."""
    match value:
        case float() if not math.isfinite(value):
            raise PresetError(f"expected a finite number, got {value}", key=key)
        case str() if "\0" in value:
            raise PresetError("expected text without NUL characters", key=key)
        case str() if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise PresetError("expected text that is valid Unicode (UTF-8)", key=key)
        case Mapping():
            for name, part in value.items():
                _refuse_unstorable(name, _joined(key, name))
                _refuse_unstorable(part, _joined(key, name))
        case list() | tuple():
            for index, part in enumerate(value):
                _refuse_unstorable(part, f"{key}[{index}]")


def _expected(node: inspect.Type, extra: Mapping[str, Any]) -> str:
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
            return f"an array{_counts(node)}, each item {_expected(*_unwrap_node(node.item_type))}"
        case inspect.UnionType():
            return _either([_expected(*_unwrap_node(option)) for option in node.types])
        case inspect.StructType() | inspect.DictType():
            return "a table"
    raise AssertionError(f"no words for {node}")


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


def _unknown_in(key: str, siblings: Sequence[str], root: type[msgspec.Struct]) -> PresetError:
    found = nearest(key, siblings, cutoff=0.75)
    if not found:
        return unknown_key(key, root)
    return PresetError(f"unknown key{did_you_mean(found, quoted=False)}", key=key)


def _letters(key: str) -> str:
    return key.translate(str.maketrans("", "", "._-")).lower()
