"""Hosts as text: the rows of a table, and the objects of `--json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tui.text import printable

if TYPE_CHECKING:
    from engine.remote.asking import Asked
    from engine.remote.hosts import KnownHost


def rows(asked: Sequence[Asked]) -> list[list[str]]:
    """Name, address, what it serves, how long its answer took; of one that is of no use, why."""
    return [
        [
            printable(each.host.name),
            printable(each.host.url),
            "" if each.seconds is None else f"{each.seconds * 1000:.0f} ms",
            printable(each.error or ", ".join(each.kinds).replace("_", "-") or "serves nothing"),
        ]
        for each in asked
    ]


def as_json(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    return [
        {
            **known_as_json(each.host),
            "answers": each.seconds is not None,
            "kinds": list(each.kinds),
            "seconds": each.seconds,
            "error": each.error,
        }
        for each in asked
    ]


def known_as_json(host: KnownHost) -> dict[str, Any]:
    return {
        "name": host.name,
        "url": host.url,
        "token_file": host.token_file,
        "token_env": host.token_env,
        "ca_file": host.ca_file,
    }
