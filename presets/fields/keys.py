"""Dotted keys that reach into lists and tables: `extensions[0].options.threshold`.

A name that is not of letters, digits, `_` and `-` alone is quoted as TOML quotes it; an index counts from 0, and from
the end where it is negative.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

Path = tuple[str | int, ...]
"""Names of settings and indices of list items."""

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
_NAME = r'(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*")'
_INDEX = r"\[-?[0-9]{1,6}\]"
_KEY = re.compile(rf"{_NAME}(?:{_INDEX})*(?:\.{_NAME}(?:{_INDEX})*)*")
_PART = re.compile(rf"\.?({_NAME})|\[(-?[0-9]{{1,6}})\]")


def split_key(text: str) -> tuple[str, str]:
    """The key that a text begins with, empty where it does with none, and what follows it."""
    found = _KEY.match(text)
    return (found[0], text[found.end() :]) if found else ("", text)


def parse_key(key: str) -> Path | None:
    """None for what is no key."""
    if not _KEY.fullmatch(key):
        return None
    try:
        return tuple(
            int(index) if index else json.loads(name) if name.startswith('"') else name
            for name, index in _PART.findall(key)
        )
    except ValueError:  # a quoted name with an escape that there is not
        return None


def key_of(path: Path) -> str:
    """What `parse_key` reads as this path."""
    key = ""
    for part in path:
        if isinstance(part, int):
            key += f"[{part}]"
        else:
            name = part if _BARE.match(part) else json.dumps(part, ensure_ascii=False)
            key = f"{key}.{name}" if key else name
    return key


def value_at(value: object, path: Path) -> Any:
    """What lies at a path in structs, tables and lists. Raises LookupError where there is nothing."""
    for part in path:
        if isinstance(value, msgspec.Struct):
            value = _member(value, part)
        elif isinstance(value, Mapping) or (
            isinstance(value, Sequence) and not isinstance(value, str) and isinstance(part, int)
        ):
            value = value[part]  # type: ignore[index]
        else:
            raise KeyError(part)
    return value


def _member(value: msgspec.Struct, name: str | int) -> object:
    config = value.__struct_config__
    if config.tag_field is not None and name == config.tag_field:
        return config.tag
    names = dict(zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True))
    return getattr(value, names[name])  # type: ignore[index]
