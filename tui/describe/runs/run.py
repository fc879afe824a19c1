"""A run in words: the cells of a list, the lines of its summary. Pure, torch-free."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from tui.describe.expansion import is_to_review, written_by
from tui.describe.guidance import scale_told
from tui.describe.health import MOST_RUNNING
from tui.describe.runs.changes import preset_changes, settings_in, value_told, values_told, varying
from tui.describe.runs.elsewhere import Elsewhere, elsewhere_of
from tui.text import printable
from tui.units import age, duration, moment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.runs.expanded import Expanded
    from presets.settings.by_key import Settings
    from store.index.index import Index
    from store.index.previews import Preview
    from store.lineage.events import Verified
    from store.lineage.records import RunLink, RunRecord, StageRecord
    from store.store import Store
    from tui.describe.runs.filter import Search

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


@dataclass(frozen=True, slots=True)
class Hints:
    """What to do next, in the words of the app or the command line. symbol: before a status."""

    resume: str
    finish: str
    review: str
    has_symbol: bool


APP = Hints("r resumes it", "r takes it to its end", "r asks for it", has_symbol=True)
COMMAND_LINE = Hints(
    "`modiff resume` goes on with it",
    "`modiff finish` takes it to its end",
    "`modiff review` asks for it",
    has_symbol=False,
)


@dataclass(frozen=True, slots=True)
class Detail:
    """All about one run but its log. spec: of its last part, as plain data. points: after how many steps it can be
    branched with nothing computed again; has_output: whether its file is there; has_video: whether the store has it.
    changes: what it has otherwise than its preset, by key.
    expanded: its prompt as a language model wrote it out, where it has one.
    verdict: when (ns) it was last computed again to compare, and what came of that. elsewhere: what components did at
    other hosts, by their kinds. inputs: the pictures and the clip that it begins from, and the words about each.
    changed_file: as of `tui.describe.runs.given.changed_file`, of a run that can go on."""

    record: RunRecord
    tags: tuple[str, ...]
    spec: Mapping[str, Any]
    children: tuple[str, ...]
    stages: tuple[StageRecord, ...]
    links: tuple[RunLink, ...]
    points: tuple[int, ...]
    has_latents: bool
    has_output: bool
    has_video: bool
    changes: Mapping[str, object] = field(default_factory=dict)
    verdict: tuple[int, Verified] | None = None
    elsewhere: Mapping[str, Elsewhere] = field(default_factory=dict)
    inputs: tuple[tuple[str, str], ...] = ()
    expanded: Expanded | None = None
    changed_file: str = ""

    @property
    def steps(self) -> tuple[RunLink, ...]:
        return tuple(link for link in self.links if link.stage == "step")

    @property
    def video(self) -> RunLink | None:
        """Its video, where the run was done; one that is gone on with has an earlier one at most."""
        if self.record.status != "done":
            return None
        return next((link for link in self.links if link.stage == "video"), None)


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
    """Of its spec; 0 where that does not say."""
    return _num_steps(record.spec_json)


@lru_cache(maxsize=2048)
def _num_steps(spec_json: bytes) -> int:
    spec = json.loads(spec_json)
    if _table(spec, "video").get("path"):
        return _num_steps_on_clip(spec_json)
    scheduler = spec.get("scheduler")
    if not isinstance(scheduler, dict):
        return 0
    return len(scheduler.get("sigmas") or ()) or int(scheduler.get("steps") or 0)


def _num_steps_on_clip(spec_json: bytes) -> int:
    """Of a run that begins from a clip, and so at a later step of its schedule."""
    from engine.tasks.route import course_of
    from presets.encoding import decode_spec
    from presets.errors import PresetError

    try:
        return course_of(decode_spec(spec_json)).num_steps
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
        "steps_total": total,
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


def timestamp(ns: int | None) -> str | None:
    """`2026-11-01 14:30:00+00:00`."""
    return None if ns is None else datetime.fromtimestamp(ns / 1e9, UTC).isoformat(" ", "seconds")


def lines(detail: Detail, hints: Hints = APP) -> list[tuple[str, str]]:
    """(name, value) of a summary; what there is nothing to say of is left out."""
    record = detail.record
    found = [
        ("run", record.id + (f"  {PIN} pinned" if record.pinned else "")),
        ("status", _status(record, hints, detail.changed_file)),
        ("error", record.error),
        ("rating", stars(record.rating)),
        ("preset", _preset(detail)),
        ("parent", _parent(record)),
        ("branches", ", ".join(detail.children)),
        ("prompt", _text(detail, "prompt")),
        ("expanded", detail.expanded.text if detail.expanded else ""),
        ("by", written_by(detail.expanded) if detail.expanded else ""),
        ("without", _text(detail, "negative_prompt")),
        *detail.inputs,
        *_settings(detail.spec),
        ("output", _output(detail)),
        ("note", record.note),
        ("tags", " ".join(detail.tags)),
        ("created", _moment(record.created_ns)),
        ("time", _times(detail)),
        ("elsewhere", "; ".join(f"{kind} {each.words}" for kind, each in detail.elsewhere.items())),
        ("steps", _steps(detail)),
        ("branch at", branch_points(detail)),
        ("replay", _replay(detail)),
        ("verified", _verdict(detail)),
    ]
    return [(name, printable(value)) for name, value in found if value]


def _status(record: RunRecord, hints: Hints, changed_file: str) -> str:
    symbol = EARLY if is_early(record) else SYMBOLS.get(record.status, "?")
    told = f"{symbol} {status_words(record)}" if hints.has_symbol else status_words(record)
    if record.status == "running" and (record.cancel_requested or record.pause_requested):
        return f"{told}; stops after its present step"
    if is_to_review(record):
        return f"{told}: its prompt waits for your word; {hints.review}"
    if is_early(record):
        return f"{told}, as it was to; {hints.finish}"
    if not can_go_on(record):
        return told
    return f"{told}; {with_file_back(changed_file)}{hints.resume}"


def with_file_back(changed_file: str) -> str:
    """Before how a run goes on, what it needs for that: a file that is another one now; "" where that is none."""
    return f"{changed_file} is gone or another file now; with that of then " if changed_file else ""


def _preset(detail: Detail) -> str:
    told = values_told(detail.changes)
    return f"{detail.record.preset}, with {told}" if told else detail.record.preset


def _settings(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Those that people change most, of a spec of any version."""

    def number(table: Mapping[str, Any], name: str) -> str:
        value = table.get(name)
        return value_told(value) if isinstance(value, int | float) else ""

    found = [("seed", number(spec, "seed"))]
    width, height, frames = (number(spec, name) for name in ("width", "height", "frames"))
    if width and height and frames:
        found.append(("size", f"{width}x{height}, {frames} frame{'' if frames == '1' else 's'}"))
    scheduler, guidance = (_table(spec, name) for name in ("scheduler", "guidance"))
    if name := scheduler.get("name"):
        sigmas = scheduler.get("sigmas")
        steps = len(sigmas) if sigmas else scheduler.get("steps")
        course = "own sigmas" if sigmas else f"shift {number(scheduler, 'shift')}"
        found.append(("scheduler", f"{name}, {steps} steps, {course}"))
    if "scale" in guidance:
        found.append(("guidance", scale_told(guidance["scale"])))
    return found


def _table(spec: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = spec.get(name)
    return table if isinstance(table, dict) else {}


def _parent(record: RunRecord) -> str:
    parts = []
    if record.parent:
        step = "" if record.parent_step is None else f" after its step {record.parent_step}"
        parts.append(record.parent + step)
    if record.origin == "import":
        parts.append("from a bundle")
    return "; ".join(parts)


def _text(detail: Detail, key: str) -> str:
    text = detail.spec.get(key)
    return text if isinstance(text, str) else ""


def _output(detail: Detail) -> str:
    record = detail.record
    if detail.has_output or not record.output:
        return record.output
    is_made = record.status == "done" and record.stop_at is None
    return f"{record.output} ({'no longer there' if is_made else 'not made yet'})"


def _moment(ns: int) -> str:
    since = age(time.time_ns() - ns)
    return f"{moment(ns)}, just now" if since == "now" else f"{moment(ns)}, {since} ago"


def _times(detail: Detail) -> str:
    total = detail.record.seconds
    stages = [
        f"{stage.name} {'cached' if stage.cached else duration(stage.seconds)}"
        for stage in detail.stages
    ]
    told = [] if total is None else [duration(total)]
    return ": ".join([*told, ", ".join(stages)] if stages else told)


def _steps(detail: Detail) -> str:
    counts = {
        name: sum(link.source == name for link in detail.steps) for name in ("reused", "computed")
    }
    told = " and ".join(f"{count} {name}" for name, count in counts.items() if count)
    total = str(num_steps(detail.record) or "")
    return f"{told} of {total}" if told and total else told or total


def branch_points(detail: Detail) -> str:
    """`0-12, 20, decode`: after which steps its state is stored."""
    if not detail.steps:
        return ""
    return points_told(detail.points, has_latents=detail.has_latents)


def _replay(detail: Detail) -> str:
    """From what a replay would make the output again; nothing for a run that has not made one."""
    if detail.record.status != "done":
        return ""
    if detail.has_video:
        return "at once: the store has the video"
    if detail.has_latents:
        return "decoded again: the store has the last latents"
    last = detail.points[-1] if detail.points else 0
    return f"computed again from {f'step {last} on' if last else 'the noise'}"


def _verdict(detail: Detail) -> str:
    if detail.verdict is None:
        return ""
    ns, verdict = detail.verdict
    if verdict.identical:
        return f"identical, {_moment(ns)}"
    far = "" if verdict.relative_l2 is None else f" by {verdict.relative_l2:.1e} (relative L2)"
    return f"differs first at {verdict.first}{far}, {_moment(ns)}"


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


def detail(store: Store, run_id: str) -> Detail:
    from engine.runs.branch_points import branch_points
    from engine.runs.expanded import expanded_prompt
    from store.blobs.blobs import is_stored
    from tui.describe.runs.given import changed_file

    record = store.run(run_id)
    links = store.links_of(run_id)
    points = branch_points(store, record, [link for link in links if link.stage == "step"])
    return Detail(
        record=record,
        tags=store.tags_of([run_id])[run_id],
        spec=json.loads(record.spec_json),
        children=tuple(child.id for child in store.children(run_id)),
        stages=tuple(store.stages(run_id)),
        links=tuple(links),
        points=tuple(points),
        has_latents=is_stored(store.root, record.latents),
        has_output=bool(record.output) and os.path.exists(record.output),
        has_video=any(
            link.stage == "video" and is_stored(store.root, link.digest) for link in links
        ),
        changes=preset_changes(record, preset_settings(record.preset)),
        verdict=store.last_verdict(run_id),
        elsewhere=elsewhere_of(store.calls(run_id)),
        inputs=_inputs(record),
        expanded=expanded_prompt(store, record, links),
        changed_file=changed_file(store, record, links) if can_go_on(record) else "",
    )


def _inputs(record: RunRecord) -> tuple[tuple[str, str], ...]:
    """None of a spec that this version cannot read."""
    from presets.encoding import decode_spec
    from presets.errors import PresetError
    from tui.describe.inputs import inputs_told

    try:
        return tuple(inputs_told(decode_spec(record.spec_json)))
    except PresetError:
        return ()


def points_told(points: Sequence[int], *, has_latents: bool) -> str:
    """`0-12, 20, decode`: after which steps the state is stored, by rising numbers."""
    parts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges(points)]
    return ", ".join([*parts, *(["decode"] if has_latents else [])])


def ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Rising numbers as runs of consecutive ones: first and last of each."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
