"""The extensions of runs: in a few words, and set beside those of other runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from presets.settings.by_key import Settings

KEY = "extensions"
_ITEM = re.compile(rf"{KEY}\[(\d+)\]\.([^.]+)(?:\.(.+))?")


def extensions_told(extensions: Sequence[dict[str, Any]]) -> str:
    """`teacache(threshold 0.3) sharpen(off)`, `none`. extensions: as plain data, as a spec's JSON has them."""
    return printable(" ".join(map(_told, extensions))) or "none"


def _told(extension: dict[str, Any]) -> str:
    options = [] if extension.get("enabled", True) else ["off"]
    options += [f"{name} {value}" for name, value in extension.get("options", {}).items()]
    return str(extension.get("name")) + (f"({', '.join(options)})" if options else "")


def extensions_in(settings: Settings) -> list[dict[str, Any]]:
    """Those that settings by dotted keys speak of, as plain data."""
    if KEY in settings:  # none, or joined already
        return list(settings[KEY])
    found: dict[int, dict[str, Any]] = {}
    for key, value in settings.items():
        if item := _ITEM.fullmatch(key):
            extension = found.setdefault(int(item[1]), {})
            if item[3]:
                extension.setdefault(item[2], {})[item[3]] = value
            else:
                extension[item[2]] = value
    return list(found.values())


def aligned(runs: Sequence[Settings]) -> list[Settings]:
    """The settings of runs, by dotted keys, to be compared key by key: where not all have the same extensions, by name,
    these are one value, as a threshold of the one says nothing of the other."""
    names = {tuple(each.get("name") for each in extensions_in(settings)) for settings in runs}
    return list(runs) if len(names) < 2 else [_joined(settings) for settings in runs]


def _joined(settings: Settings) -> Settings:
    joined: Settings = {}
    for key, value in settings.items():
        if not _ITEM.fullmatch(key):
            joined[key] = value
        elif KEY not in joined:
            joined[KEY] = extensions_in(settings)
    return joined
