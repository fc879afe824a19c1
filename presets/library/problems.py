"""All that is wrong with a preset at once: what was found is left out, and the rest is looked at again."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from presets.errors import PresetError
from presets.fields.keys import parse_key
from presets.library.files import read_preset_text
from presets.library.loading import load_preset
from presets.library.paths import preset_path

# More are those of a file that is no preset.
MAX_PROBLEMS = 20


def preset_problems(
    name_or_path: str | Path, overrides: Iterable[str] = (), *, text: str | None = None
) -> list[PresetError]:
    """What is wrong with a preset, in the order in which it is found; nothing for one that can be loaded.

    name_or_path, overrides, text: as of `load_preset`. Of a list with a wrong item, of a parent and of overrides only
    the first is told; what is no TOML has one.
    """
    overrides = tuple(overrides)
    found: list[PresetError] = []
    left_out: set[str] = set()
    while len(found) < MAX_PROBLEMS:
        try:
            load_preset(name_or_path, overrides, text=text)
            return found
        except PresetError as error:
            # what is missing now because it was left out is no problem of the file
            if error.key not in left_out:
                found.append(error)
            try:
                path = preset_path(name_or_path)
                settings = tomllib.loads(read_preset_text(path) if text is None else text)
            except (PresetError, ValueError, RecursionError):
                return found
            if error.source != str(path) or not (key := _leave_out(settings, error.key)):
                return found
            left_out.add(key)
            text = tomli_w.dumps(settings)
    return found


def _leave_out(settings: dict[str, Any], key: str) -> str:
    """Take a key out of nested settings, or what holds it: the list that its item is in, and where the key is missing
    the table. Returns `key`, "" where there is nothing of it."""
    names = list(parse_key(key) or ())
    while names:
        if isinstance(names[-1], str):  # without one item the others would have other numbers
            here = _at(settings, names[:-1])
            if isinstance(here, dict) and names[-1] in here:
                del here[names[-1]]
                return key
        names.pop()
    return ""


def _at(settings: Any, path: Sequence[str | int]) -> Any:
    """What lies at a path, None for nothing."""
    for name in path:
        try:
            settings = settings[name]
        except (KeyError, IndexError, TypeError):
            return None
    return settings
