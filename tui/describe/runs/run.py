"""A run in a list: how it stands, how far it is, and that in words. Torch-free."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from tui.describe.health import MOST_RUNNING
from tui.describe.prompts.expansion import is_to_review
from tui.describe.runs.changes import preset_changes, settings_in, varying

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from presets.settings.by_key import Settings
    from store.index.index import Index
    from store.index.previews import Preview
    from store.lineage.records import RunRecord, Segment, StageRecord
    from store.store import Store
    from tui.describe.runs.finding.filter import Search

At = int | Literal["decode"]

MOST_PAUSED = 100
SYMBOLS = {
    "queued": "○",
    "running": "▶",
    "done": "✓",
    "failed": "✖",
    "cancelled": "–",
    "interrupted": "▲",
    "paused": "‖",
}
EARLY = "◐"  # done, but only up to a step that was asked for
PIN = "◆"
# a run of one of these goes on where it was
RESUMABLE = ("failed", "cancelled", "interrupted", "paused")


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in a list. steps_done: of which there is a record, while it is not done. differs: the settings in which
    the runs of the list differ, with its values."""

    record: RunRecord
    tags: tuple[str, ...]
    prompt: str
    steps_done: int = 0
    differs: Mapping[str, object] = field(default_factory=dict)


def status_words(record: RunRecord) -> str:
    """`done`, `done 5/20` for a run that was to stop early, and `to review` for one whose prompt is to be read."""
    if is_to_review(record):
        return "to review"
    return f"done {steps_told(record)}" if is_early(record) else record.status


def status_word(record: RunRecord) -> str:
    """The same behind a symbol, as short as it can be: `✓ done`, `◐ 5/20`, `▲ interrupted`."""
    if is_early(record):
        return f"{EARLY} {'to review' if is_to_review(record) else steps_told(record)}"
    return f"{SYMBOLS.get(record.status, '?')} {record.status}"


def is_early(record: RunRecord) -> bool:
    """Whether it is done, up to a step that was asked for."""
    return record.status == "done" and record.stop_at is not None


def can_go_on(record: RunRecord) -> bool:
    """Whether there is more of it to compute: it stopped before its end, or was to stop early."""
    return is_early(record) or record.status in RESUMABLE


def steps_of(record: RunRecord, steps_done: int = 0) -> tuple[int, int]:
    """How many steps are done, and how many its spec has; 0 where that does not say.

    steps_done: of which there is a record; of a run that is done they may be gone.
    """
    total = num_steps(record)
    if record.status == "done":
        return (total if record.stop_at is None else min(record.stop_at, total)), total
    return min(steps_done, total), total


def steps_told(record: RunRecord, steps_done: int = 0) -> str:
    """How many steps its spec has, `5/20` where only some of them are done; "" where the spec does not say."""
    done, total = steps_of(record, steps_done)
    if not total:
        return ""
    is_part = is_early(record) or 0 < done < total
    return f"{done}/{total}" if is_part else str(total)


def num_steps(record: RunRecord) -> int:
    """Of its spec, for a branch with those that it shares; 0 where that does not say."""
    return _num_steps(record.spec_json, record.segments)


@lru_cache(maxsize=2048)
def _num_steps(spec_json: bytes, segments: tuple[Segment, ...]) -> int:
    spec = json.loads(spec_json)
    scheduler = spec.get("scheduler")
    is_other = any(json.loads(each.spec_json).get("scheduler") != scheduler for each in segments)
    if is_other or table_in(spec, "video").get("path"):
        return _num_steps_of_course(spec_json, segments)
    if not isinstance(scheduler, dict):
        return 0
    return len(scheduler.get("sigmas") or ()) or int(scheduler.get("steps") or 0)


def _num_steps_of_course(spec_json: bytes, segments: tuple[Segment, ...]) -> int:
    """Of a run that begins from a clip, and so at a later step of its schedule, or that comes to another schedule at
    one of its steps."""
    from engine.tasks.route import route_of
    from presets.encoding import decode_spec
    from presets.errors import PresetError

    try:
        return route_of(decode_spec(spec_json), segments).num_steps
    except PresetError:
        return 0


def stars(rating: int) -> str:
    """`★★★★`, "" where nobody has said."""
    return "★" * rating


def data(row: RunRow) -> dict[str, Any]:
    """A run as JSON; times are UTC, seconds count from the lease to the end."""
    record = row.record
    done, total = steps_of(record, row.steps_done)
    return {
        "run": record.id,
        "status": record.status,
        "steps_done": done,
        "total_steps": total,
        "preset": record.preset,
        "prompt": row.prompt,
        "differs": dict(row.differs),
        "output": record.output,
        "error": record.error,
        "cancel_requested": record.cancel_requested,
        "parent": record.parent or None,
        "parent_step": record.parent_step,
        "tags": list(row.tags),
        "note": record.note,
        "rating": record.rating,
        "pinned": record.pinned,
        "created": timestamp(record.created_ns),
        "started": timestamp(record.started_ns),
        "ended": timestamp(record.ended_ns),
        "seconds": None if record.seconds is None else round(record.seconds, 3),
    }


def stages_data(stages: Iterable[StageRecord]) -> list[dict[str, Any]]:
    """Stages as JSON, with seconds to the millisecond."""
    return [asdict(stage) | {"seconds": round(stage.seconds, 3)} for stage in stages]


def timestamp(ns: int | None) -> str | None:
    """`2026-11-01 14:30:00+00:00`."""
    return None if ns is None else datetime.fromtimestamp(ns / 1e9, UTC).isoformat(" ", "seconds")


def table_in(spec: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = spec.get(name)
    return table if isinstance(table, dict) else {}


def run_rows(
    store: Store, records: Sequence[RunRecord], *, among: Sequence[RunRecord] = ()
) -> list[RunRow]:
    """Runs as rows; what differs is told among them and `among`."""
    ids = [record.id for record in records]
    tags = store.tags_of(ids)
    unfinished = [record.id for record in records if record.status != "done"]
    steps_done = store.steps_done(unfinished) if unfinished else {}
    differs = varying([*records, *among])
    return [
        RunRow(
            record,
            tags[record.id],
            prompt_of(record),
            steps_done.get(record.id, 0),
            differs[record.id],
        )
        for record in records
    ]


def found_rows(store: Store, search: Search, limit: int) -> list[RunRow]:
    """The runs that fit, newest first."""
    return run_rows(store, search.find(store, limit))


def queue_rows(store: Store) -> list[RunRow]:
    """The runs at work first, then the queued ones in their order, then those that were paused, the newest first."""
    running = store.runs(limit=MOST_RUNNING, status="running")
    paused = store.runs(limit=MOST_PAUSED, status="paused")
    return run_rows(store, [*reversed(running), *store.queued(), *paused])


def preset_settings(name: str) -> Settings:
    """Of a preset as it is now; {} where there is none, or none that can be read."""
    from presets.encoding import encode_spec
    from presets.errors import PresetError
    from presets.library.loading import load_preset

    try:
        return settings_in(encode_spec(load_preset(name))) if name else {}
    except PresetError:
        return {}


def changes_of_preset(record: RunRecord) -> dict[str, Any]:
    """The settings that a run has otherwise than its preset as it is now, by key; {} where that is not known."""
    return preset_changes(record, preset_settings(record.preset))


def ancestors(store: Store, rows: Sequence[RunRow]) -> list[RunRow]:
    from store.errors import UnknownRun

    passed = {row.record.id for row in rows}
    found: list[RunRecord] = []
    for row in rows:
        parent = row.record.parent
        while parent and parent not in passed:
            passed.add(parent)
            try:
                found.append(store.run(parent))
            except UnknownRun:
                break
            parent = found[-1].parent
    return run_rows(store, found)


def thumbnails(store: Store, index: Index, run_ids: Sequence[str]) -> dict[str, Preview]:
    from engine.runs.thumbnails import thumbnail

    found = {run_id: thumbnail(index, store.links_of(run_id)) for run_id in run_ids}
    return {run_id: each[0] for run_id, each in found.items() if each is not None}


def prompt_of(record: RunRecord) -> str:
    """As it was given, before any expansion; empty for a run without."""
    prompt = json.loads(record.spec_json).get("prompt", "")
    return prompt if isinstance(prompt, str) else ""
