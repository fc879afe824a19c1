"""Overrides of a command line -> settings.

An override is one of

    KEY=VALUE    sets a key, also one inside a list: `scheduler.steps=12`, `extensions[0].options.threshold=0.2`
    +KEY=VALUE   appends an item to the list KEY; where KEY goes on inside of the item, one of which that is set:
                 `+extensions.name=teacache`, `+scheduler.sigmas=0.1`
    -KEY         takes out an item of a list, or an option of a table: `-extensions[1]`

A value is TOML where it parses and bare text otherwise. Every key is checked against `RunSpec`, so an error names the
key as it was typed. They are applied in their order.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from msgspec import inspect

from presets.errors import PresetError
from presets.fields.annotations import node_of
from presets.fields.checks import check_value
from presets.fields.keys import Path, key_of, parse_key, split_key
from presets.fields.listing import fields, groups
from presets.fields.lookup import annotation_at, is_list, nearest_keys
from presets.fields.wording import did_you_mean
from presets.spec.run import PresetFile, RunSpec
from presets.validation import to_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")


@dataclass(frozen=True, slots=True)
class Change:
    """One override. path: of the setting; of an addition, the list. value: plain data, nothing where one is taken
    out."""

    kind: Literal["set", "add", "remove"]
    key: str
    path: Path
    value: Any = None


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """`["scheduler.steps=12", "prompt=a red circle"]` -> nested settings, types checked.

    The last value of a key wins. Raises `PresetError` for anything else, naming the key.
    """
    return applied({}, parse_changes(overrides))


def nest(values: Mapping[str, object]) -> dict[str, Any]:
    """`{"scheduler.steps": 12}` -> `{"scheduler": {"steps": 12}}`, types checked."""
    return applied({}, changes_of(values))


def parse_changes(overrides: Iterable[str]) -> list[Change]:
    """What overrides say; keys and types are checked. Raises `PresetError`, naming the key."""
    return [_parsed(override) for override in overrides]


def changes_of(values: Mapping[str, object]) -> list[Change]:
    """Values by dotted key, taken as they are. Raises `PresetError`, naming the key."""
    found = []
    for key, value in values.items():
        annotation = _settable(key)
        plain = to_plain(value)
        check_value(plain, annotation, key, RunSpec)
        found.append(Change("set", key, parse_key(key) or (), plain))
    return found


def applied(settings: Mapping[str, Any], changes: Iterable[Change]) -> dict[str, Any]:
    """Nested plain settings with changes made to them, in their order; `settings` stays as it is.

    Raises `PresetError` for an item that is not there.
    """
    changed: dict[str, Any] = _copied(settings)
    for change in changes:
        holder = _holder(changed, change)
        last = change.path[-1]
        if change.kind == "add":
            _appended(holder, change)
        elif change.kind == "set":
            if isinstance(last, int):
                last = _index(holder, last, change, len(change.path) - 1)
            elif _is_tag(change.path):
                holder.clear()  # another kind has other keys
            holder[last] = change.value
        elif isinstance(last, int):
            del holder[_index(holder, last, change, len(change.path) - 1)]
        elif last in holder:
            del holder[last]
        else:
            raise PresetError(f"is not set{did_you_mean(sorted(holder))}", key=change.key)
    return changed


def sets(changes: Iterable[Change], key: str) -> bool:
    """Whether any of the changes is made to a key, or to an item of it."""
    path = parse_key(key) or ()
    return any(change.path[: len(path)] == path for change in changes)


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


def _parsed(override: str) -> Change:
    sign = override.strip()[:1]
    kind: Literal["set", "add", "remove"] = (
        "add" if sign == "+" else "remove" if sign == "-" else "set"
    )
    key, rest = split_key(override.strip()[1:] if kind != "set" else override.lstrip())
    rest = rest.lstrip(" \t")
    if not key or (rest.strip() if kind == "remove" else rest[:1] != "="):
        raise _not_an_override(kind, override)
    path = parse_key(key)
    if path is None:
        raise _not_an_override(kind, override)
    if kind == "remove":
        return _removal(key, path)
    if kind == "add":
        return _addition(key, path, rest[1:])
    annotation = _settable(key)
    value = _parse_value(rest[1:], annotation)
    check_value(value, annotation, key, RunSpec)
    return Change("set", key, path, value)


def _not_an_override(kind: str, override: str) -> PresetError:
    given = override.strip()[kind != "set" :]
    if kind == "remove":
        return PresetError(f'expected an item like extensions[1], got "{given[:60]}"')
    example = "extensions.name=teacache" if kind == "add" else "scheduler.steps=12"
    word = "an addition" if kind == "add" else "an override"
    hint = ""
    if "=" not in override:
        hint = did_you_mean([f"{near}=..." for near in nearest_keys(given.strip(), RunSpec)])
    return PresetError(f'expected {word} like {example}, got "{override[:60]}"{hint}')


def _settable(key: str) -> object:
    """The annotation of a key that can be set. Raises `PresetError`."""
    if key in groups(RunSpec):
        inside = [field.key for field in fields(RunSpec) if field.key.startswith(f"{key}.")]
        raise PresetError(f"holds other keys; set one of {', '.join(inside)}", key=key)
    if "." not in key and key not in RunSpec.__struct_encode_fields__:
        if key in PresetFile.__struct_encode_fields__:
            raise PresetError("belongs in a preset file and cannot be set for a run", key=key)
    elif key == "format":
        raise PresetError("is the version of a file, not a setting of a run", key=key)
    return annotation_at(key, RunSpec)


def _addition(key: str, path: Path, text: str) -> Change:
    """An item for the list that a key names, or that it goes on inside of."""
    for end in range(1, len(path) + 1):
        annotation = annotation_at(key_of(path[:end]), RunSpec)
        if not is_list(annotation):
            continue
        inside = (*path[:end], 0, *path[end:])
        typed = key_of(path)
        item = annotation_at(key_of(inside), RunSpec)
        value = _parse_value(text, item)
        check_value(value, item, typed, RunSpec)
        for name in reversed(path[end:]):
            value = {name: value}
        whole = annotation_at(key_of((*path[:end], 0)), RunSpec)
        check_value(value, whole, key_of(path[:end]), RunSpec)
        return Change("add", key, path[:end], value)
    lists = [field.key for field in fields(RunSpec) if isinstance(field.type, inspect.VarTupleType)]
    raise PresetError(f"is no list; there are {', '.join(lists)}", key=key)


def _removal(key: str, path: Path) -> Change:
    annotation_at(key, RunSpec)
    within = node_of(annotation_at(key_of(path[:-1]), RunSpec)) if len(path) > 1 else None
    if not isinstance(path[-1], int) and not isinstance(within, inspect.DictType):
        raise PresetError(
            "expected an item of a list, like extensions[1], or an option; other settings have a default to be set to",
            key=key,
        )
    return Change("remove", key, path)


def _parse_value(text: str, annotation: object) -> object:
    node = node_of(annotation)
    wants_text = isinstance(node, inspect.StrType) or (
        isinstance(node, inspect.LiteralType)
        and all(isinstance(value, str) for value in node.values)
    )
    try:
        document = tomllib.loads(f"value = {text.strip()}")
    except (ValueError, RecursionError):  # ValueError: also an integer of thousands of digits
        return text
    # A line break in the text can start a second key; then the text is no TOML value.
    if document.keys() != {"value"} or (wants_text and not isinstance(document["value"], str)):
        return text
    return document["value"]


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(part) for name, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list | tuple) else value


def _holder(settings: dict[str, Any], change: Change) -> Any:
    """The table or list that the last part of a change's path is in; what lies on the way and is not there yet begins
    as its default."""
    here: Any = settings
    for place, part in enumerate(change.path[:-1]):
        if isinstance(part, int):
            here = here[_index(here, part, change, place)]
            continue
        following = change.path[place + 1]
        if part not in here:
            here[part] = _default(change.path[: place + 1]) if isinstance(following, int) else {}
        here = here[part]
        if not isinstance(here, list if isinstance(following, int) else dict):
            raise _no_list(change.path[: place + 1], change)
    return here


def _appended(holder: Any, change: Change) -> None:
    last = change.path[-1]
    listed = (
        holder.setdefault(last, _default(change.path)) if isinstance(last, str) else holder[last]
    )
    if not isinstance(listed, list):
        raise _no_list(change.path, change)
    listed.append(_copied(change.value))


def _no_list(path: Path, change: Change) -> PresetError:
    return PresetError(
        f"{key_of(path)} is one value here, no list; set {key_of(path)}=[...] first", key=change.key
    )


def _index(holder: Any, index: int, change: Change, place: int) -> int:
    num_items = len(holder) if isinstance(holder, list) else 0
    if -num_items <= index < num_items:
        return index % num_items
    listed = key_of(change.path[:place])
    there = {0: "it is empty", 1: f"there is {listed}[0] alone"}.get(
        num_items, f"there are {listed}[0] to {listed}[{num_items - 1}]"
    )
    raise PresetError(f"{listed} has no item {index}; {there}", key=change.key)


def _default(path: Path) -> Any:
    """What a list is before anybody sets it."""
    key = key_of(path)
    return next((to_plain(each.default) for each in fields(RunSpec) if each.key == key), [])


@lru_cache(maxsize=1024)
def _is_tag(path: Path) -> bool:
    """Whether a path is that of the tag of a tagged union."""
    if len(path) < 2:
        return False
    parent = node_of(annotation_at(key_of(path[:-1]), RunSpec))
    options = parent.types if isinstance(parent, inspect.UnionType) else ()
    return any(
        isinstance(each, inspect.StructType) and each.tag_field == path[-1] for each in options
    )


def text_override(key: str, text: str) -> str:
    """`KEY=VALUE` that sets exactly this text, whatever it looks like."""
    # A JSON string is a TOML string, but for DEL.
    quoted = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"{key}={quoted}"
