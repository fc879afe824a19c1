"""What a bundle leaves out: where things lie on this machine, and whose machine it is.

Each function returns its text as it was when there is nothing to leave out, and what it returned
once it returns unchanged: so an import can hold a bundle to it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

_PROMPTS = {"prompt", "negative_prompt"}
# what is of people's words, and holds no path: a slash in it is one
_AS_IT_IS = {*_PROMPTS, "expansion"}
_NOWHERE = {"path": "", "overwrite": False}
_PERSONAL = {
    "argv", "cwd", "env", "environ", "executable", "home", "host", "hostname", "login", "node",
    "user", "username",
}  # fmt: skip
_ABSOLUTE = re.compile(r"/|~|[A-Za-z]:[\\/]|\\\\|[A-Za-z][A-Za-z0-9+.-]*://")
_SEPARATOR = re.compile(r"[/\\]")
# Controls but for newline and tab, changes of direction, and what is no character at all.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def portable_spec(text: str) -> str:
    """A spec in which every path is its last part, and which says nothing of where to write.

    An address of another machine is left out altogether: it may hold a token.
    """
    data = json.loads(text)
    cleaned = {
        name: value if name in _AS_IT_IS else _mapped(value, _file_name)
        for name, value in data.items()
    }
    output = cleaned.get("output")
    if type(output) is dict:
        output.update((name, value) for name, value in _NOWHERE.items() if name in output)
    return text if cleaned == data else _encoded(cleaned)


def portable_json(text: str) -> str:
    """Facts or an environment without absolute paths, and without who and where; {} for no object."""
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if type(data) is not dict:
        return "{}"
    cleaned = _without_persons(data)
    return text if cleaned == data else _encoded(cleaned)


def portable_text(text: str) -> str:
    """A note without what a terminal could act on: control characters and changes of direction."""
    return _UNPRINTABLE.sub("", text)


def portable_preset(name: str) -> str:
    """The name of a preset, or of the file that it came from."""
    return portable_text(_file_name(name)).replace("\n", "").replace("\t", "")


def file_name(path: str) -> str:
    """The last part of a path; empty where that tells whose home it is, or is an address."""
    if "://" in path:
        return ""
    last = next((part for part in reversed(_SEPARATOR.split(path)) if part), "")
    return "" if last in (".", "..") or last.startswith("~") else last


def _file_name(text: str) -> str:
    is_path = _SEPARATOR.search(text) or text.startswith("~") or text in (".", "..")
    return file_name(text) if is_path else text


def _without_persons(value: Any, name: str = "") -> Any:
    if type(value) is dict:
        return {
            key: _without_persons(item, key)
            for key, item in value.items()
            if key.lower() not in _PERSONAL
        }
    if type(value) is list:
        return [_without_persons(item, name) for item in value]
    if type(value) is str and name not in _PROMPTS and _ABSOLUTE.match(value):
        return file_name(value)
    return value


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The value with every text in it changed; names of fields stay."""
    if type(value) is dict:
        return {name: _mapped(item, change) for name, item in value.items()}
    if type(value) is list:
        return [_mapped(item, change) for item in value]
    return change(value) if type(value) is str else value


def _encoded(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()
