"""The presets that there are, broken ones too."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from presets.errors import PresetError
from presets.library.layers import read_layer
from presets.library.loading import load_preset
from presets.library.paths import (
    NAME,
    SHIPPED,
    check_name,
    is_shipped,
    shipped_files,
    user_files,
    user_preset_dir,
)


@dataclass(frozen=True, slots=True)
class PresetInfo:
    """One preset in a list. error: why it cannot be used, empty when it can."""

    name: str
    path: Path
    shipped: bool
    description: str
    extends: str
    error: str


def list_presets() -> list[PresetInfo]:
    """All presets, the shipped ones first, each group by name; broken ones carry their error."""
    found = [_info(path, shipped=True) for path in shipped_files()]
    return found + [_info(path, shipped=False) for path in user_files()]


def preset_info(name: str) -> PresetInfo | None:
    """One preset as `list_presets` has it; None where none has this name."""
    for folder, shipped in ((SHIPPED, True), (user_preset_dir(), False)):
        path = folder / f"{name}.toml"
        if NAME.match(name) and os.path.exists(path):
            return _info(path, shipped=shipped)
    return None


def _info(path: Path, *, shipped: bool) -> PresetInfo:
    name, description, extends, error = path.stem, "", "", ""
    try:
        layer = read_layer(path)
        description, extends = layer.description, layer.extends
        if not shipped:
            check_name(name)
            if is_shipped(name):
                raise PresetError(
                    "the name belongs to a shipped preset, which is used in its place"
                )
        load_preset(path)
    except PresetError as problem:
        error = str(problem)
    return PresetInfo(name, path, shipped, description, extends, error)
