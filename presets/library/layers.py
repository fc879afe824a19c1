"""The layers that a preset is made of: its parents and its own file, each checked on its own."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from presets.encoding import check_format
from presets.errors import PresetError
from presets.fields.checks import build
from presets.fields.listing import groups
from presets.library.files import read_preset_text
from presets.library.paths import preset_path
from presets.spec.run import PresetFile, RunSpec


@dataclass(frozen=True, slots=True)
class Layer:
    """One preset file: where it lies, what it sets, and its two keys about itself."""

    path: Path
    values: dict[str, Any]
    extends: str
    description: str


def chain_of(path: Path, text: str | None = None) -> list[Layer]:
    """The layers of a preset, its farthest parent first. text: of the preset itself, where it is not the file's."""
    layers = [read_layer(path, text)]
    while parent := layers[-1].extends:
        child = layers[-1].path
        try:
            # Only names: a preset from elsewhere must not reach for files of its own choosing.
            if parent.endswith(".toml"):
                raise PresetError(f'expected the name of a preset, got the file "{parent}"')
            parent_path = preset_path(parent)
        except PresetError as error:
            raise PresetError(error.problem, key="extends", source=str(child)) from None
        if any(parent_path.resolve() == layer.path.resolve() for layer in layers):
            names = " -> ".join([*(layer.path.stem for layer in layers), parent])
            raise PresetError(f"{names} goes in a circle", key="extends", source=str(child))
        layers.append(read_layer(parent_path))
    return layers[::-1]


def read_layer(path: Path, text: str | None = None) -> Layer:
    """One file, or `text` in its place, checked on its own. Raises `PresetError`, naming the file."""
    text = read_preset_text(path) if text is None else text
    try:
        values = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and an integer of thousands of digits
        is_syntax = isinstance(error, tomllib.TOMLDecodeError)
        if not is_syntax and (key := _key_of_long_integer(text)):
            problem = "an integer of thousands of digits is too large"
            raise PresetError(problem, key=key, source=str(path)) from None
        raise PresetError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise PresetError(f"{path}: not valid TOML: arrays or tables nested too deeply") from None
    source = str(path)
    check_format(values, source=source)
    try:
        file = build(values, PresetFile)
    except PresetError as error:
        raise PresetError(error.problem, key=error.key, source=source) from None
    own = {key: value for key, value in values.items() if key not in ("extends", "description")}
    return Layer(path, own, file.extends, file.description)


def _key_of_long_integer(text: str) -> str:
    """The dotted key of the first integer that has more digits than Python reads, or ""."""
    found = re.search(
        r"^[ \t]*([A-Za-z0-9_.-]{1,64})[ \t]*=[ \t]*[+-]?[0-9_]{4301}", text, re.MULTILINE
    )
    if found is None:
        return ""
    header = r"^[ \t]*\[([A-Za-z0-9_.-]{1,64})\][ \t]*(?:#.*)?$"
    tables = re.findall(header, text[: found.start()], re.MULTILINE)
    return ".".join([*tables[-1:], found[1]])


def merge(base: dict[str, Any], changes: Mapping[str, Any], prefix: str = "") -> None:
    """Tables of settings key by key, everything else, options too, as a whole; `base` is changed, `changes` is
    not.
    """
    for key, value in changes.items():
        if prefix + key in groups(RunSpec):
            merge(base.setdefault(key, {}), value, f"{prefix}{key}.")
        else:
            base[key] = value


def source_of(key: str, merged: Mapping[str, Any], layers: Sequence[Layer]) -> str:
    """The file that set `key` last, or nothing when an override or a default did."""
    path = key.partition("[")[0].split(".")  # an item of an array is where the array is
    for layer in reversed(layers):
        found, value = _lookup(layer.values, path)
        if found:
            return str(layer.path) if value == _lookup(merged, path)[1] else ""
    return ""


def _lookup(values: Mapping[str, Any], path: Sequence[str]) -> tuple[bool, object]:
    value: object = values
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return False, None
        value = value[name]
    return True, value
