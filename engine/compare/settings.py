"""What two runs were asked to do, key by key, and from which step on it differs. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from engine.tasks.reach import reach
from presets.encoding import decode_spec
from presets.errors import PresetError
from presets.settings.by_key import Settings, flatten, settings_of
from store.lineage.records import RunRecord

# of what was given: beside the path of its file
_DIGEST = ".digest"


@dataclass(frozen=True, slots=True)
class Difference:
    """A key of which two runs have different values; None stands for a run that has no such key.

    It is so for the steps from `start` (counted from 0) to before `stop`, or to the end where that is None.
    """

    key: str
    a: Any
    b: Any
    start: int = 0
    stop: int | None = None


def spec_differences(a: RunRecord, b: RunRecord) -> list[Difference]:
    """Every setting that differs, in the order of the RunSpec, a branched run's by its segments."""
    starts = sorted({0, *(segment.stop for run in (a, b) for segment in run.segments)})
    own_a, own_b = _settings(a.spec_json), _settings(b.spec_json)
    # read once, after the last step: an earlier segment's own values of these have no effect
    found = [each for each in _changes(own_a, own_b) if reach(each.key) == "end"]
    for start, stop in zip(starts, [*starts[1:], None], strict=True):
        at_a, at_b = _settings(_spec_at(a, start)), _settings(_spec_at(b, start))
        for change in _changes(at_a, at_b):
            if reach(change.key) == "end":
                continue
            before = replace(change, stop=start)
            longer = next((i for i, each in enumerate(found) if _ends_as(each, before)), None)
            if longer is None:
                found.append(replace(change, start=start, stop=stop))
            else:
                found[longer] = replace(found[longer], stop=stop)
    order = {key: place for place, key in enumerate([*own_a, *own_b])}
    found.sort(key=lambda each: (order.get(each.key, len(order)), each.start))
    if a.stop_at != b.stop_at:
        found.append(Difference("stop_at", a.stop_at, b.stop_at))
    return found


def environment_differences(a: RunRecord, b: RunRecord) -> list[Difference]:
    """What differs in what the two were computed on; nothing where that is not on record for both."""
    if not (a.environment and b.environment):
        return []
    return list(_changes(flatten(json.loads(a.environment)), flatten(json.loads(b.environment))))


def _settings(spec_json: bytes) -> Settings:
    """All settings with their defaults; of a spec that this version cannot read, what is written in it."""
    try:
        return settings_of(decode_spec(spec_json))
    except PresetError:
        return flatten(json.loads(spec_json))


def _spec_at(run: RunRecord, step: int) -> bytes:
    return next((part.spec_json for part in run.segments if step < part.stop), run.spec_json)


def _changes(a: Settings, b: Settings) -> Iterator[Difference]:
    for key in [*a, *(key for key in b if key not in a)]:
        if key.endswith(_DIGEST) and _path_beside(key, a) != _path_beside(key, b):
            continue  # the path says it
        # As text, because to Python true equals 1.
        if json.dumps(a.get(key)) != json.dumps(b.get(key)):
            yield Difference(key, a.get(key), b.get(key))


def _path_beside(digest: str, settings: Settings) -> Any:
    return settings.get(f"{digest.removesuffix(_DIGEST)}.path")


def _ends_as(each: Difference, before: Difference) -> bool:
    return (each.key, each.a, each.b, each.stop) == (before.key, before.a, before.b, before.stop)
