"""The run that is meant by its id, the beginning of that, or a file that it wrote; and settings from such a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import click

from tui.describe.runs.of_file import ENDINGS, is_file_name, path_of, settings_of_file, written_by

if TYPE_CHECKING:
    from presets.spec.run import RunSpec
    from store.store import Store


def resolve_run(store: Store, given: str) -> str:
    """The id of the run that is meant; where others made the same file, that is told. Raises UnknownRun."""
    if not is_file_name(given):
        return store.resolve(given)
    path = path_of(given)
    found = written_by(store, path)
    if told := found.told(path):
        click.echo(told, err=True)
    return found.run_id


def load_settings(
    preset: str, overrides: Iterable[str] = (), *, values: Mapping[str, object] | None = None
) -> tuple[RunSpec, str]:
    """The run that a preset describes, or that wrote a file, as `presets.library.loading.load_preset` has it; and the
    name of the preset, "" for a file. Raises PresetError, UnknownRun."""
    from presets.library.loading import load_preset, override
    from store.store import open_as_it_is

    if not preset.lower().endswith(ENDINGS):
        return load_preset(preset, overrides, values=values), preset
    with open_as_it_is() as store:
        spec, _ = settings_of_file(store, path_of(preset))
    return override(spec, overrides, values=values), ""


def preset_of_file(store: Store, given: str) -> str:
    """The preset that the settings in a file came from, "" where that is not known. Raises UnknownRun, PresetError."""
    return settings_of_file(store, path_of(given))[1]
