"""A preset, by name or path, as a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from presets.errors import PresetError
from presets.fields.checks import build
from presets.library.layers import chain_of, merge, source_of
from presets.library.paths import preset_path
from presets.settings.overrides import applied, changes_of, parse_changes, sets
from presets.settings.settling import settle_instructions, settle_names, settle_steps
from presets.spec.run import RunSpec
from presets.validation import to_plain, validate

# what is made of other settings, by its key those that decide it
_MADE_BY = {
    "expansion.instructions": ("expansion.template",),
    "expansion.text": (
        "prompt", "expansion.template", "expansion.instructions", "expansion.seed",
    ),
    "image.digest": ("image.path", "image.background"),
    "last_image.digest": ("last_image.path", "last_image.background"),
    "video.digest": ("video.path", "fps", "frames"),
}  # fmt: skip


def load_preset(
    name_or_path: str | Path,
    overrides: Iterable[str] = (),
    *,
    values: Mapping[str, object] | None = None,
    text: str | None = None,
) -> RunSpec:
    """The run that a preset describes, validated.

    name_or_path: a preset's name, or a path ending in `.toml`. overrides: `"scheduler.steps=12"`,
    applied after the file. values: `{"prompt": text}` with dotted keys, taken as they are and
    applied last. text: taken as the file's content, to check it before it is written. Raises
    `PresetError`.
    """
    layers = chain_of(preset_path(name_or_path), text)
    merged: dict[str, Any] = {}
    for layer in layers:
        merge(merged, settle_instructions(settle_steps(settle_names(layer.values))))
    merged = _changed(merged, overrides, values)
    try:
        return validate(build(merged, RunSpec))
    except PresetError as error:
        raise PresetError(
            error.problem, key=error.key, source=source_of(error.key, merged, layers)
        ) from None


def override(
    spec: RunSpec, overrides: Iterable[str] = (), *, values: Mapping[str, object] | None = None
) -> RunSpec:
    """A run with some of its settings changed; overrides and values as of `load_preset`. Raises PresetError."""
    return validate(build(_changed(to_plain(spec), overrides, values), RunSpec))


def _changed(
    settings: Mapping[str, Any], overrides: Iterable[str], values: Mapping[str, object] | None
) -> dict[str, Any]:
    """`settings` with overrides, then values; where either sets sigmas and no steps, the sigmas set them. What was made
    of a setting that changes holds no longer: an expanded prompt, the digest of a picture."""
    changed = dict(settings)
    both = (parse_changes(overrides), changes_of(values or {}))
    for changes in both:
        changed = applied(changed, changes)
        if sets(changes, "scheduler.sigmas") and not sets(changes, "scheduler.steps"):
            changed = settle_steps(changed, anew=True)
    for key, makers in _MADE_BY.items():
        every = [change for changes in both for change in changes]
        if any(sets(every, maker) for maker in makers) and not sets(every, key):
            table, _, name = key.partition(".")
            changed = {**changed, table: {**changed.get(table, {}), name: ""}}
    return changed
