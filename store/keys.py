"""Content keys: equal values have equal keys, on every machine and in every process.

A key is SHA-256 over a canonical encoding, never over `repr`, `hash` or `json.dumps` of whatever
came in: 1, 1.0 and True are three values, 0.0 and -0.0 one, and what has no canonical form is
refused. A change of this file that changes a key makes every stored link a miss; it then needs
another version in _HEADER and _PREFIX.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any

MAX_DEPTH = 64

_HEADER = b"modiff/1\n"
_PREFIX = "k1:"
_DOMAIN = re.compile(r"[a-z0-9][a-z0-9._/-]{0,63}")
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def derive_key(domain: str, value: object) -> str:
    """The key of a value in a domain: "k1:" and 64 hexadecimal digits.

    domain says what the value describes ("step", "text"), so that equal descriptions of different
    things have different keys. Raises ValueError where `canonical` does.
    """
    if not _DOMAIN.fullmatch(domain):
        raise ValueError(
            f"{domain!r} is no domain; expected up to 64 of a-z, 0-9, '.', '_', '/', '-'"
        )
    digest = hashlib.sha256(_HEADER + domain.encode() + b"\n" + canonical(value))
    return _PREFIX + digest.hexdigest()


def canonical(value: object) -> bytes:
    """The one encoding of a value, as JSON in UTF-8 without spaces.

    None, bool, int of 64 bits (-2^63 to 2^64 - 1), finite float, str, list or tuple (alike) and
    dict with str keys, of these very types: a subclass such as numpy.float64 or an Enum is not
    its base. A float is {"$f": float.hex()}, so no key of a dict may begin with "$".

    Raises ValueError for anything else, with the path to it.
    """
    return _ENCODER.encode(_reduced(value, "", 0)).encode()


def _reduced(value: Any, path: str, depth: int) -> Any:
    """The value in types whose JSON is unambiguous; `path` is where it is, for the error."""
    if depth > MAX_DEPTH:
        raise _refusal(path, f"is nested deeper than {MAX_DEPTH}")
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        if not -(2**63) <= value < 2**64:
            raise _refusal(path, f"is {value:#x}, which has more than 64 bits")
        return value
    if kind is float:
        if not math.isfinite(value):
            raise _refusal(path, f"is {value}, which is not finite")
        return {"$f": (value + 0.0).hex()}  # -0.0 + 0.0 is 0.0
    if kind is str:
        return _text(value, path)
    if kind is list or kind is tuple:
        return [_reduced(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    if kind is dict:
        return _reduced_dict(value, path, depth)
    raise _refusal(path, f"is of type {kind.__module__}.{kind.__qualname__}, which has no key")


def _reduced_dict(value: dict[Any, Any], path: str, depth: int) -> dict[str, Any]:
    for name in value:
        if type(name) is not str:
            raise _refusal(path, f"has the key {name!r}, which is not text")
        if name.startswith("$"):
            raise _refusal(path, f'has the key {name!r}; "$" is reserved')
        _text(name, path)
    # Code points sort as their UTF-8 bytes do.
    return {name: _reduced(value[name], _below(path, name), depth + 1) for name in sorted(value)}


def _below(path: str, name: str) -> str:
    if not name.isidentifier():
        return f"{path}[{name!r}]"
    return f"{path}.{name}" if path else name


def _text(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refusal(path, f"holds {text!r}, which is not valid Unicode") from None
    return text


def _refusal(path: str, problem: str) -> ValueError:
    return ValueError(f"{path or 'the value'} {problem}")
