"""A run in words: the cells of a list, the lines of its summary. Pure, torch-free."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from tui.text import printable
from tui.units import duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from store.lineage.records import RunLink, RunRecord, StageRecord
    from store.store import Store

At = int | Literal["decode"]

SYMBOLS = {
    "queued": "○",
    "running": "▶",
    "done": "✓",
    "failed": "✖",
    "cancelled": "–",
    "interrupted": "▲",
    "paused": "‖",
}
# a run of one of these goes on where it was
RESUMABLE = ("failed", "cancelled", "interrupted", "paused")


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in a list."""

    record: RunRecord
    tags: tuple[str, ...]
    prompt: str


@dataclass(frozen=True, slots=True)
class Detail:
    """All about one run but its log. spec: of its last part, as plain data. points: after how many steps it can be
    branched with nothing computed again; has_output: whether its file is there; has_video: whether the store has it."""

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

    @property
    def steps(self) -> tuple[RunLink, ...]:
        return tuple(link for link in self.links if link.stage == "step")

    @property
    def video(self) -> RunLink | None:
        """Its video, where the run was done; one that is gone on with has an earlier one at most."""
        if self.record.status != "done":
            return None
        return next((link for link in self.links if link.stage == "video"), None)


def status_word(record: RunRecord) -> str:
    """`✓ done`, `▲ interrupted`."""
    return f"{SYMBOLS.get(record.status, '?')} {record.status}"


def can_go_on(record: RunRecord) -> bool:
    """Whether there is more of it to compute: it stopped before its end, or was to stop early."""
    is_early = record.status == "done" and record.stop_at is not None
    return is_early or record.status in RESUMABLE


def steps_told(record: RunRecord) -> str:
    """How many steps its spec has, `5/20` for one that is to stop early; "" where the spec does not say."""
    total = _num_steps(record.spec_json)
    if not total:
        return ""
    return str(total) if record.stop_at is None else f"{record.stop_at}/{total}"


@lru_cache(maxsize=1024)
def _num_steps(spec_json: bytes) -> int:
    scheduler = json.loads(spec_json).get("scheduler")
    if not isinstance(scheduler, dict):
        return 0
    return len(scheduler.get("sigmas") or ()) or int(scheduler.get("steps") or 0)


def age(ns: int) -> str:
    """Whole units, the largest that fits: `now` for less than a minute, `5 min`, `3 h`, `9 d`."""
    seconds = max(0, ns // 1_000_000_000)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return "now"


def cells(row: RunRow, mark: str, now_ns: int) -> tuple[str, ...]:
    """Mark, id, status, preset, prompt, steps, time, age, tags, pin."""
    record = row.record
    return (
        mark,
        record.id,
        status_word(record),
        record.preset,
        row.prompt,
        steps_told(record),
        "" if record.seconds is None else duration(record.seconds),
        age(now_ns - record.created_ns),
        " ".join(row.tags),
        "★" if record.pinned else "",
    )


def lines(detail: Detail) -> list[tuple[str, str]]:
    """(name, value) of a summary; what there is nothing to say of is left out."""
    record = detail.record
    found = [
        ("run", record.id + ("  ★ pinned" if record.pinned else "")),
        ("status", _status(record)),
        ("error", record.error),
        ("preset", record.preset),
        ("parent", _parent(record)),
        ("branches", ", ".join(detail.children)),
        ("prompt", _text(detail, "prompt")),
        ("without", _text(detail, "negative_prompt")),
        ("output", _output(detail)),
        ("note", record.note),
        ("tags", " ".join(detail.tags)),
        ("created", _moment(record.created_ns)),
        ("time", _times(detail)),
        ("steps", _steps(detail)),
        ("branch at", branch_points(detail)),
        ("replay", _replay(detail)),
    ]
    return [(name, printable(value)) for name, value in found if value]


def _status(record: RunRecord) -> str:
    told = status_word(record)
    if record.status == "running" and (record.cancel_requested or record.pause_requested):
        return f"{told}; stops after its present step"
    if record.status == "done" and record.stop_at is not None:
        return f"{told} up to its step {record.stop_at}; r takes it to its end"
    return f"{told}; r resumes it" if can_go_on(record) else told


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
    told = time.strftime("%Y-%m-%d %H:%M", time.localtime(ns / 1e9))
    since = age(time.time_ns() - ns)
    return f"{told}, just now" if since == "now" else f"{told}, {since} ago"


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
    total = steps_told(detail.record)
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


def run_rows(store: Store, records: Sequence[RunRecord]) -> list[RunRow]:
    tags = store.tags_of([record.id for record in records])
    return [RunRow(record, tags[record.id], _prompt(record)) for record in records]


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


def _prompt(record: RunRecord) -> str:
    prompt = json.loads(record.spec_json).get("prompt", "")
    return prompt if isinstance(prompt, str) else ""


def detail(store: Store, run_id: str) -> Detail:
    from engine.runs.branch_points import branch_points
    from store.blobs.blobs import is_stored

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
    )


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
