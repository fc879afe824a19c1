"""What a run would compute, as rows for people: the plan, with times and sizes from this machine's own past."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from engine.components.memory.halves import copies
from engine.runs.estimates import experience_with
from engine.tasks.stages import DECODE, ENCODE, EXPAND, IMAGE_ENCODE, LOAD, READ, told
from tui.describe.inputs import file_name, inputs_of, looked_at
from tui.units import duration, size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.components.needed import Needed
    from engine.fit.work import Memory
    from engine.plan import Plan, State
    from engine.runs.estimates import Experience
    from presets.spec.run import RunSpec
    from store.lineage.records import Segment
    from store.store import Store


@dataclass(frozen=True, slots=True)
class Row:
    """A part of a plan. state: stored, compute, skip where nothing needs it, or warm for what is in the engine's
    memory. first, last: the steps that it is about, from 1, or None. seconds: None where nothing is known; bytes: to
    be stored. about: what is done with pictures and clips, "" for the rest. on: the devices or the address that its
    settings name, "" where it needs no component."""

    name: str
    first: int | None
    last: int | None
    state: str
    seconds: float | None
    bytes: int
    about: str = ""
    on: str = ""


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan in rows. stored_steps of total_steps need not be computed; needs: components to load. seconds: None
    unless all of it is known; memory_bytes, device_bytes: the most that like runs took, None where there is none.
    warnings: what is said of the prompts, a line each; notes: what is sent elsewhere, and what there is to say of the
    pictures and the clip that it begins from. missing: where models of it are
    not here, every model of the run; then the plan is an estimate from what is published, and weights: kind -> the
    bytes of its weights in memory. memory: what each stage takes, where that was asked for."""

    rows: tuple[Row, ...]
    total_steps: int
    stored_steps: int
    needs: tuple[str, ...]
    seconds: float | None
    bytes: int
    memory_bytes: int | None
    device_bytes: int | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    missing: tuple[Needed, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    memory: Memory | None = None

    @property
    def is_stored(self) -> bool:
        """Whether nothing of it is to be computed."""
        return all(row.state != "compute" for row in self.rows)


def planned(
    store: Store,
    spec: RunSpec,
    *,
    segments: Sequence[Segment] = (),
    stop_at: int | None = None,
    with_memory: bool = False,
) -> Planned:
    """The plan of a run, its published models here or not. Nothing is queued, loaded or written. Raises as
    `engine.client.submit` does, but for a model that can be downloaded. with_memory: also what each stage takes, which
    needs torch and some seconds the first time."""
    from engine import client
    from engine.components.choice import absences
    from engine.components.needed import ModelsAbsent
    from engine.fit.dry_run import memory_of
    from engine.output.taken import check_output
    from tui.describe.prompts.expansion import expansion_notes
    from tui.describe.prompts.warnings import prompt_warnings

    check_output(store, spec)
    spec, given = looked_at(store, spec)
    missing: tuple[Needed, ...] = ()
    weights: dict[str, int] = {}
    try:
        made = client.plan(store, spec, segments=segments, stop_at=stop_at)
    except ModelsAbsent as error:
        missing = error.needed
        made, weights = client.plan_unseen(store, spec, segments=segments, stop_at=stop_at)
    past = experience_with(store, spec)
    rows = _rows(made, spec, past, is_warm=not missing and client.is_warm(store, made))
    known = [row.seconds for row in rows if row.seconds is not None]
    return Planned(
        rows=tuple(rows),
        total_steps=len(made.chain),
        stored_steps=made.num_stored_steps,
        needs=tuple(made.needs),
        seconds=sum(known) if len(known) == len(rows) else None,
        bytes=sum(row.bytes for row in rows),
        memory_bytes=past.memory_bytes,
        device_bytes=past.device_bytes,
        warnings=(*prompt_warnings(spec), *absences(made.parts)),
        notes=(*given, *(expansion_notes(spec) if made.state(EXPAND.name) == "compute" else ())),
        missing=missing,
        weights=weights,
        memory=memory_of(store, made) if with_memory else None,
    )


def shown(row: Row) -> tuple[str, str, str, str, str]:
    """Stage, steps, state, time and disk as text."""
    steps = f"{row.first}-{row.last}"
    if row.first in (None, row.last):
        steps = "" if row.first is None else str(row.first)
    seconds = "?" if row.seconds is None else duration(row.seconds) if row.seconds else ""
    state = {"compute": "to compute", "skip": "not needed"}.get(row.state, row.state)
    return row.name, steps, state, seconds, size(row.bytes) if row.bytes else ""


def memory_estimate(planned: Planned) -> str:
    """What the weights will take, for a run whose models are not here: `40.4 GB of weights (denoiser 28.6 GB, ...)`."""
    largest = sorted(planned.weights.items(), key=lambda item: -item[1])
    each = ", ".join(f"{kind.replace('_', ' ')} {size(num)}" for kind, num in largest)
    return f"{size(sum(planned.weights.values()))} of weights ({each})"


def _rows(plan: Plan, spec: RunSpec, past: Experience, *, is_warm: bool) -> list[Row]:
    """The stages in order, the denoising steps split where the stored ones end."""
    load = "warm" if is_warm and plan.needs else "compute" if plan.needs else "skip"
    rows = [_row(LOAD.name, load, past.seconds.get(LOAD.name))]
    for title in plan.titles:
        if told(title).unit == "step":
            rows += [
                replace(row, on=_on(plan, title)) for row in _step_rows(title, plan, spec, past)
            ]
        else:
            num_bytes = round(past.video_bytes or 0) if title == DECODE.name else 0
            row = _row(title, _state(plan, title), past.seconds.get(title), num_bytes)
            rows.append(replace(row, about=_about(title, spec), on=_on(plan, title)))
    return rows


def _on(plan: Plan, title: str) -> str:
    """Where a stage runs: `auto`, `cuda:0 and cuda:1`, or the address of a server."""
    parts = [node.part for node in plan.nodes(title) if node.part is not None]
    named = (
        [getattr(part, "url", "")]
        if getattr(part, "url", "")
        else [each.device for each in copies(part)]
        for part in parts
    )
    return " and ".join(dict.fromkeys(itertools.chain.from_iterable(named)))


def _state(plan: Plan, title: str) -> State:
    """Of a stage; mixing noise into a clip that is encoded already is no work to speak of."""
    state = plan.state(title)
    nodes = plan.nodes(title)
    if title == ENCODE.name and state == "compute":
        computed = [node for node in nodes if plan.states[node] == "compute"]
        return state if any(node.stage.component for node in computed) else "stored"
    return state


def _about(stage: str, spec: RunSpec) -> str:
    """What a stage does with what a run begins from: `cat.png, for the denoiser to look at`."""
    files = {name: file_name(path) for name, path in inputs_of(spec).items()}
    pictures = " and ".join(file for name, file in files.items() if name != "video")
    if stage == READ.name:
        return pictures
    if stage == IMAGE_ENCODE.name:
        return f"{pictures}, as the image encoder sees it"
    if stage == ENCODE.name:
        frames = f"{pictures} as given frames" if pictures else ""
        return " and ".join(filter(None, (frames, files.get("video")))) + ", into latents"
    return ""


def _step_rows(stage: str, plan: Plan, spec: RunSpec, past: Experience) -> list[Row]:
    start, total, latent_bytes = plan.num_stored_steps, len(plan.chain), plan.latent_bytes
    step = past.seconds.get(stage)
    rows = []
    if start:
        rows.append(Row(stage, 1, start, "stored", 0.0, 0))
    if start < total:
        seconds = None if step is None else step * (total - start)
        num_bytes = journal_bytes(spec, start, total, latent_bytes) + latent_bytes
        rows.append(Row(stage, start + 1, total, "compute", seconds, num_bytes))
    return rows


def _row(stage: str, state: str, seconds: float | None, num_bytes: int = 0) -> Row:
    is_computed = state == "compute"
    return Row(stage, None, None, state, seconds if is_computed else 0.0, num_bytes * is_computed)


def journal_bytes(spec: RunSpec, start: int, total: int, latent_bytes: int) -> int:
    """What the steps after the first `start` of `total` store."""
    from engine.chain.thinning import KEYFRAME_LATENTS, kept_steps

    kept = kept_steps(spec.keep, total, latent_bytes)
    if kept is None:
        return (total - start) * latent_bytes
    return sum(step > start for step in kept) * KEYFRAME_LATENTS * latent_bytes


def decode_seconds(store: Store, run_id: str) -> float | None:
    from engine.runs.estimates import experience_with
    from presets.encoding import decode_spec

    return experience_with(store, decode_spec(store.run(run_id).spec_json)).seconds.get(DECODE.name)


def sigmas(store: Store, run_id: str) -> tuple[float, ...]:
    from engine.tasks.route import route_of_run
    from presets.errors import PresetError

    try:
        return route_of_run(store.run(run_id)).course.sigmas
    except PresetError:
        return ()
