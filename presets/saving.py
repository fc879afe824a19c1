"""Saving settings as a preset of one's own, by the rules of `modiff presets save`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from presets.library import list_presets, save_preset

if TYPE_CHECKING:
    from pathlib import Path

    from presets.spec import RunSpec


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
