"""What can be said of a queued run before it starts: what it changes of its preset, and what it may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import EngineError
from engine.runs.estimates import experience_with, likeness
from engine.tasks.stages import DECODE, DENOISE, ENCODE, IMAGE_ENCODE, READ, TEXT_ENCODE
from presets.encoding import decode_spec
from presets.errors import PresetError
from tui.describe.runs.changes import preset_changes, values_told
from tui.describe.runs.run import num_steps, preset_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from engine.runs.estimates import Experience
    from presets.spec.run import RunSpec
    from store.lineage.records import RunRecord
    from store.store import Store


# A plan takes about 10 ms of CPU time, of a thousand steps 50.
MOST_PLANNED = 50
_BESIDES = (READ, IMAGE_ENCODE, ENCODE, TEXT_ENCODE, DECODE)


@dataclass(frozen=True, slots=True)
class Expected:
    """changes: what the run changes of its preset, "" for nothing. step_seconds, besides_seconds: what a step and all
    else may take with models that are loaded and nothing stored, decode_seconds its last part; None where no like run
    is on record. is_stored: nothing of it is to be computed."""

    changes: str
    step_seconds: float | None = None
    besides_seconds: float = 0.0
    decode_seconds: float | None = None
    is_stored: bool = False

    def seconds_left(self, record: RunRecord, steps_done: int) -> float | None:
        """Of a run of which so many steps are done."""
        if self.is_stored:
            return 0.0
        if self.step_seconds is None:
            return None
        done = max(steps_done, record.parent_step or 0)
        total = num_steps(record) if record.stop_at is None else record.stop_at
        left = max(0, total - done)
        return left * self.step_seconds + self.besides_seconds


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
            found[record.id] = Expected("settings of another version of modiff")
            continue
        if record.preset not in presets:
            presets[record.preset] = preset_settings(record.preset)
        changes = [values_told(preset_changes(record, presets[record.preset]))]
        if record.parent and record.parent_step is not None:
            changes.insert(0, f"after step {record.parent_step} of {record.parent}")
        kind = likeness(spec)
        if kind not in past:
            past[kind] = experience_with(store, spec)
        known = past[kind]
        found[record.id] = Expected(
            ", ".join(filter(None, changes)),
            known.seconds.get(DENOISE.name),
            sum(known.seconds.get(stage.name) or 0.0 for stage in _BESIDES),
            known.seconds.get(DECODE.name),
            len(found) < MOST_PLANNED and _is_stored(store, record, spec),
        )
    return found


def _is_stored(store: Store, record: RunRecord, spec: RunSpec) -> bool:
    """Whether nothing of a run is to be computed; False where it cannot be planned."""
    from engine import client

    try:
        made = client.plan(store, spec, segments=record.segments, stop_at=record.stop_at)
    except (PresetError, EngineError):
        return False
    return "compute" not in made.states.values()
