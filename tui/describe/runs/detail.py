"""All about one run: what the store has of it, and that as the lines of its summary. Torch-free."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tui.describe.guidance import scale_told
from tui.describe.prompts.expansion import is_to_review, written_by
from tui.describe.runs.changes import value_told, values_told
from tui.describe.runs.elsewhere import Elsewhere, elsewhere_of
from tui.describe.runs.given import changed_file
from tui.describe.runs.run import (
    EARLY,
    PIN,
    SYMBOLS,
    can_go_on,
    changes_of_preset,
    is_early,
    num_steps,
    stars,
    status_words,
    table_in,
)
from tui.text import printable
from tui.units import age, duration, moment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.runs.expanded import Expanded
    from store.lineage.events import Verified
    from store.lineage.records import RunLink, RunRecord, StageRecord
    from store.store import Store

# Of a run, beside its stages.
WORTH_TELLING_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Hints:
    """What to do next, in the words of the app or the command line; {run} stands for the id of the run. has_symbol:
    whether a status has its symbol before it."""

    resume: str
    finish: str
    review: str
    has_symbol: bool


APP = Hints("r resumes it", "r takes it to its end", "r asks for it", has_symbol=True)


COMMAND_LINE = Hints(
    "`modiff resume {run}` goes on with it",
    "`modiff finish {run}` takes it to its end",
    "`modiff review {run}` asks for it",
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
    resume, finish, review = (
        way.format(run=record.id) for way in (hints.resume, hints.finish, hints.review)
    )
    if record.status == "running" and (record.cancel_requested or record.pause_requested):
        return f"{told}; stops after its present step"
    if is_to_review(record):
        return f"{told}: its prompt waits for your word; {review}"
    if is_early(record):
        return f"{told}, as it was to; {finish}"
    if not can_go_on(record):
        return told
    return f"{told}; {with_file_back(changed_file)}{resume}"


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
    scheduler, guidance = (table_in(spec, name) for name in ("scheduler", "guidance"))
    if name := scheduler.get("name"):
        sigmas = scheduler.get("sigmas")
        steps = len(sigmas) if sigmas else scheduler.get("steps")
        course = "own sigmas" if sigmas else f"shift {number(scheduler, 'shift')}"
        found.append(("scheduler", f"{name}, {steps} steps, {course}"))
    if "scale" in guidance:
        found.append(("guidance", scale_told(guidance["scale"])))
    return found


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
    rest = (total or 0.0) - sum(stage.seconds for stage in detail.stages)
    if stages and rest >= WORTH_TELLING_SECONDS:
        stages.append(f"other {duration(rest)}")  # what a new engine imports, and waits
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


def detail(store: Store, run_id: str) -> Detail:
    from engine.runs.branch_points import branch_points
    from engine.runs.expanded import expanded_prompt
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
        changes=changes_of_preset(record),
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
