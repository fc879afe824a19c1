"""What can be said of a queued run before it starts: what it changes of its preset, and what it may take."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.runs.estimates import experience_with, likeness
from engine.tasks.stages import DECODE, DENOISE, TEXT_ENCODE
from presets.encoding import decode_spec
from presets.errors import PresetError
from presets.library import load_preset
from presets.settings import settings_of
from presets.spec import RunSpec
from tui.describe.guidance import scale_told
from tui.text import printable, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from engine.runs.estimates import Experience
    from store.lineage.records import RunRecord
    from store.store import Store

# The prompt is told by itself; files are named by their paths once a run is queued, whatever the preset calls them.
_NOT_TOLD = ("format", "prompt", "output.", "keep.")
_NOT_TOLD_ENDS = (".checkpoint", ".tokenizer")
# Names that say nothing without what they are of.
_VAGUE = {"name", "device", "dtype", "scale"}
_MAX_VALUE = 24


@dataclass(frozen=True, slots=True)
class Expected:
    """changes: what the run changes of its preset, "" for nothing. seconds: what it may take with models that are
    loaded and no step stored; None where no like run is on record."""

    changes: str
    seconds: float | None


def expected(store: Store, records: Sequence[RunRecord]) -> dict[str, Expected]:
    """By run. Reads presets and past runs; a spec or preset that cannot be read tells nothing."""
    presets: dict[str, Mapping[str, Any]] = {}
    # each looks through hundreds of runs, and those in a queue are often alike
    past: dict[str, Experience] = {}
    found: dict[str, Expected] = {}
    for record in records:
        try:
            spec = decode_spec(record.spec_json)
        except PresetError:
            found[record.id] = Expected("settings of another version of modiff", None)
            continue
        if record.preset not in presets:
            presets[record.preset] = _settings_of(record.preset)
        changes = _changes(spec, presets[record.preset])
        if record.parent and record.parent_step is not None:
            changes.insert(0, f"after step {record.parent_step} of {record.parent}")
        kind = likeness(spec)
        if kind not in past:
            past[kind] = experience_with(store, spec)
        found[record.id] = Expected(", ".join(changes), _seconds(record, spec, past[kind]))
    return found


def _settings_of(preset: str) -> Mapping[str, Any]:
    try:
        return settings_of(load_preset(preset)) if preset else {}
    except PresetError:
        return {}


def _changes(spec: RunSpec, preset: Mapping[str, Any]) -> list[str]:
    if not preset:
        return []
    return [
        f"{_short(key)} {_shown(_scale(value) if key == 'guidance.scale' else value)}"
        for key, value in settings_of(spec).items()
        if json.dumps(value) != json.dumps(preset.get(key))
        and not key.startswith(_NOT_TOLD)
        and not key.endswith(_NOT_TOLD_ENDS)
        and not (key.endswith("].enabled") and value is True)
    ]


def _short(key: str) -> str:
    parts = key.split(".")
    return ".".join(parts[-2:] if parts[-1] in _VAGUE else parts[-1:])


def _scale(value: object) -> object:
    return scale_told(value) if isinstance(value, tuple) else value


def _shown(value: object) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return shorten(printable(text), _MAX_VALUE)


def _seconds(record: RunRecord, spec: RunSpec, known: Experience) -> float | None:
    step = known.seconds.get(DENOISE.name)
    if step is None:
        return None
    others = (known.seconds.get(stage.name) or 0.0 for stage in (TEXT_ENCODE, DECODE))
    num_steps = (record.stop_at or spec.scheduler.steps) - (record.parent_step or 0)
    return max(0, num_steps) * step + sum(others)
