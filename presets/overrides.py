"""`KEY=VALUE` of a command line -> settings.

A value is TOML where it parses and bare text otherwise. Every key is checked against `RunSpec`, so
an error names the key as it was typed.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING, Any

from msgspec import inspect

from presets.errors import PresetError
from presets.fields import Field, build, did_you_mean, fields, groups, nearest_keys, unknown_key
from presets.spec import PresetFile, RunSpec
from presets.validation import to_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z")


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """`["scheduler.steps=12", "prompt=a red circle"]` -> nested settings, types checked.

    The last value of a key wins. Raises `PresetError` for anything else, naming the key.
    """
    values: dict[str, object] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not _KEY.match(key):
            raise PresetError(
                f'expected an override like scheduler.steps=12, got "{override[:60]}"'
                + (
                    did_you_mean([f"{near}=..." for near in nearest_keys(key, RunSpec)])
                    if not equals
                    else ""
                )
            )
        values[key] = _parse_value(text, _field(key))
    return nest(values)


def nest(values: Mapping[str, object]) -> dict[str, Any]:
    """`{"scheduler.steps": 12}` -> `{"scheduler": {"steps": 12}}`, types checked."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        _field(key)
        *path, leaf = key.split(".")
        group = nested
        for name in path:
            group = group.setdefault(name, {})
        group[leaf] = to_plain(value)
    build(nested, RunSpec)
    return nested


def toml_value(value: Any) -> str:
    """Plain data as a TOML value on one line, as `--set` takes it."""
    match value:
        case str():
            # a JSON string is a TOML string, but for DEL
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool() | int():
            return str(value).lower()
        case list() | tuple():
            return f"[{', '.join(map(toml_value, value))}]"
        case dict():
            inner = ", ".join(
                f"{name if _BARE.match(name) else toml_value(name)} = {toml_value(part)}"
                for name, part in value.items()
            )
            return f"{{{inner}}}"
    return repr(value)


def _field(key: str) -> Field:
    for field in fields(RunSpec):
        if key == field.key:
            return field
        if key.startswith(f"{field.key}."):
            raise PresetError(
                f"cannot be set in parts; set the whole of it, {field.key}=...", key=key
            )
    if key in groups(RunSpec):
        inside = [field.key for field in fields(RunSpec) if field.key.startswith(f"{key}.")]
        raise PresetError(f"holds other keys; set one of {', '.join(inside)}", key=key)
    if key in {field.key for field in fields(PresetFile)}:
        raise PresetError("belongs in a preset file and cannot be set for a run", key=key)
    raise unknown_key(key, RunSpec)


def _parse_value(text: str, field: Field) -> object:
    wants_text = isinstance(field.type, inspect.StrType) or (
        isinstance(field.type, inspect.LiteralType)
        and all(isinstance(value, str) for value in field.type.values)
    )
    try:
        document = tomllib.loads(f"value = {text.strip()}")
    except (ValueError, RecursionError):  # ValueError: also an integer of thousands of digits
        return text
    # A line break in the text can start a second key; then the text is no TOML value.
    if document.keys() != {"value"} or (wants_text and not isinstance(document["value"], str)):
        return text
    return document["value"]


def text_override(key: str, text: str) -> str:
    """`KEY=VALUE` that sets exactly this text, whatever it looks like."""
    # A JSON string is a TOML string, but for DEL.
    quoted = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"{key}={quoted}"
