"""Runs as presets of one's own, by the rules of `modiff presets save`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from presets.errors import PresetError
from presets.fields.checks import build
from presets.fields.listing import found_out, groups
from presets.library.files import encoded_text, write_whole
from presets.library.layers import chain_of
from presets.library.listing import list_presets
from presets.library.loading import load_preset
from presets.library.paths import check_name, is_shipped, preset_path, user_preset_dir
from presets.spec.run import FORMAT, PresetFile, RunSpec
from presets.validation import to_plain, validate


def save_preset(
    name: str,
    spec: RunSpec,
    *,
    description: str = "",
    extends: str = "",
    overwrite: bool = False,
) -> Path:
    """Write `spec` as the user preset `name` and return its path.

    With `extends` only what differs from that preset is written, otherwise everything. The file
    appears complete or not at all. Raises `PresetError`: a bad or reserved name, a name that is
    taken (without `overwrite`), a chain that would lead back to `name`, a spec that is not valid,
    or a folder that cannot be written.
    """
    check_name(name)
    if is_shipped(name):
        raise PresetError(f'"{name}" is the name of a shipped preset; choose another name')
    path = user_preset_dir() / f"{name}.toml"
    content = _chosen(_from_anywhere(validate(spec)))
    if extends:
        parents = chain_of(preset_path(extends))
        if any(layer.path == path for layer in parents):
            raise PresetError(f'"{extends}" is built on "{name}" itself', key="extends")
        content = _differences(content, to_plain(load_preset(extends)))
        if "template" in content.get("expansion", {}) and spec.expansion.instructions:
            # beside another template those of the parent would not hold
            content["expansion"]["instructions"] = spec.expansion.instructions
    header = {"format": FORMAT, "extends": extends, "description": description}
    document = {**{key: value for key, value in header.items() if value}, **content}
    build(document, PresetFile)
    encoded = encoded_text(tomli_w.dumps(document))
    try:
        write_whole(path, encoded, overwrite=overwrite)
    except FileExistsError:
        raise PresetError(
            f'a preset named "{name}" is already there; choose another name or add --overwrite'
        ) from None
    except OSError as error:
        raise PresetError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def extended_by(name: str, parent: str) -> tuple[str, str]:
    """What a preset `name` that is made from `parent` extends, and the description that it has until it gets
    another: only the differences from a named parent are written, a file elsewhere is copied in full, and a
    preset that is changed in place keeps its own parent and description."""
    if parent != name:
        return ("" if parent.endswith(".toml") else parent), ""
    own = next((info for info in list_presets() if info.name == name), None)
    return (own.extends, own.description) if own else ("", "")


def save_from(
    name: str, spec: RunSpec, *, parent: str, description: str | None, overwrite: bool
) -> Path:
    """Save `spec`, made from the preset `parent` (empty for none); where it lies. Raises PresetError."""
    extends, own_description = extended_by(name, parent)
    return save_preset(
        name,
        spec,
        description=own_description if description is None else description,
        extends=extends,
        overwrite=overwrite,
    )


def dump_preset(spec: RunSpec) -> str:
    """`spec` as the TOML of a preset without parents, every default written out."""
    return tomli_w.dumps(_chosen(spec))


def _chosen(spec: RunSpec) -> dict[str, Any]:
    """A spec as plain data, without what was found out of the files that it names."""
    plain: dict[str, Any] = to_plain(spec)
    for key in found_out(RunSpec):
        table, _, name = key.rpartition(".")
        if table:
            del plain[table][name]
    return plain


def _from_anywhere(spec: RunSpec) -> RunSpec:
    """With the paths of pictures and clips that are in the current folder told from the root: a preset of the library
    is used in any folder."""
    for name in ("image", "last_image", "video"):
        given = getattr(spec, name)
        path = os.path.abspath(os.path.expanduser(given.path))
        if given.path and os.path.isfile(path):
            spec = msgspec.structs.replace(
                spec, **{name: msgspec.structs.replace(given, path=path)}
            )
    return spec


def _differences(
    values: Mapping[str, Any], parent: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in values.items():
        if prefix + key in groups(RunSpec):
            if inner := _differences(value, parent[key], f"{prefix}{key}."):
                changed[key] = inner
        # As bytes, because to Python true equals 1 and 1 equals 1.0.
        elif _written(value) != _written(parent[key]):
            changed[key] = value
    return changed


def _written(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")
