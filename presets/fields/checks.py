"""Values against annotations: msgspec decides what is valid, the code here finds the key that is to blame."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import inspect, structs

from presets.errors import PresetError
from presets.fields.annotations import arguments, unwrap, variants
from presets.fields.listing import members, tag_of
from presets.fields.lookup import unknown_in
from presets.fields.wording import MAX_ECHO, expected, refusal

S = TypeVar("S", bound=msgspec.Struct)
_TABLES = (inspect.StructType, inspect.DictType)


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
    _check_extra_rules(built, "")
    _refuse_unstorable(msgspec.to_builtins(built), "")
    return built


def check_value(value: object, annotation: object, key: str, root: type[msgspec.Struct]) -> None:
    """Raises `PresetError` for a value that does not fit the annotation of its key."""
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        raise _explain(value, annotation, key, root) from None
    except UnicodeEncodeError:  # as in `build`
        _refuse_unstorable(value, key)
        raise
    node, _, extra = unwrap(annotation)
    if not _keeps_extra_rules(value, node, extra):
        raise refusal(value, node, extra, key)
    _refuse_unstorable(value, key)


def _explain(
    value: object, annotation: object, key: str, root: type[msgspec.Struct]
) -> PresetError:
    """The refusal for the first part of `value`, which is known not to fit `annotation`."""
    node, _, extra = unwrap(annotation)
    if isinstance(node, inspect.UnionType):
        if (tagged := variants(node)) and isinstance(value, Mapping):
            tag = tagged[0].tag_field
            given = value.get(tag) if tag is not None else None
            if tag is not None and given not in {variant.tag for variant in tagged}:
                field = tag_of(node, _joined(key, tag), given, "")
                return refusal(given, field.type, {}, field.key)
        option = _option_like(value, annotation)
        if option is not None:
            return _explain(value, option, key, root)
    parts: Iterator[tuple[object, object, str]] = iter(())
    if isinstance(node, inspect.StructType) and isinstance(value, Mapping):
        known = {info.encode_name: info for info in structs.fields(node.cls)}
        for name in value:
            if name not in known and name != node.tag_field:
                siblings = [f"{key}.{sibling}" if key else sibling for sibling in known]
                return unknown_in(_joined(key, name), siblings, root)
        for name, info in known.items():
            if info.required and name not in value:
                wanted = expected(*unwrap(info.type)[::2])
                return PresetError(f"missing, expected {wanted}", key=_joined(key, name))
        parts = ((value[n], info.type, _joined(key, n)) for n, info in known.items() if n in value)
    elif isinstance(node, inspect.VarTupleType) and isinstance(value, list | tuple):
        item = arguments(annotation)[0]
        parts = ((part, item, f"{key}[{index}]") for index, part in enumerate(value))
    elif isinstance(node, inspect.DictType) and isinstance(value, Mapping):
        name_type, item = arguments(annotation)
        for name in value:
            if not _converts(name, name_type):
                wanted = expected(*unwrap(name_type)[::2])
                return PresetError(f"expected a name that is {wanted}", key=_joined(key, name))
        parts = ((part, item, _joined(key, name)) for name, part in value.items())
    for part, part_annotation, part_key in parts:
        if not _converts(part, part_annotation):
            return _explain(part, part_annotation, part_key, root)
    return refusal(value, node, extra, key)


def _option_like(value: object, annotation: object) -> object | None:
    """Of a union that takes arrays or tables the option that is meant by `value`; None where there is none."""
    options = [(option, unwrap(option)[0]) for option in arguments(annotation)]
    for option, node in options:
        if isinstance(node, inspect.StructType) and node.tag is not None:
            assert node.tag_field is not None
            if isinstance(value, Mapping) and value.get(node.tag_field) == node.tag:
                return option
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
    if len(shown) > MAX_ECHO:
        shown = shown[:MAX_ECHO] + "..."
    return f"{key}.{shown}" if key else shown


def _check_extra_rules(struct: msgspec.Struct, prefix: str) -> None:
    for member in members(type(struct)):
        field, value = member.field, getattr(struct, member.name)
        if isinstance(value, msgspec.Struct):
            _check_extra_rules(value, f"{prefix}{field.key}.")
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, msgspec.Struct):
                    _check_extra_rules(item, f"{prefix}{field.key}[{index}].")
        elif not _keeps_extra_rules(value, field.type, field.extra):
            raise refusal(value, field.type, field.extra, prefix + field.key)


def _keeps_extra_rules(value: object, node: inspect.Type, extra: Mapping[str, Any]) -> bool:
    if "step" in extra and isinstance(node, inspect.IntType):
        assert isinstance(value, int)
        assert node.ge is not None
        return (value - node.ge) % int(extra["step"]) == 0
    if "max" in extra:
        assert isinstance(value, int)
        return value <= int(extra["max"])
    if "max_bytes" in extra:
        assert isinstance(value, str)
        return len(value.encode("utf-8", "surrogatepass")) <= int(extra["max_bytes"])
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
