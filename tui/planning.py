"""What a run would compute, as rows for people: the plan, with times and sizes from this machine's own past."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tui.estimates import experience_with
from tui.text import duration, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.pipelines.plan import Plan
    from presets.spec import RunSpec
    from store.lineage.records import Segment
    from store.store import Store
    from tui.estimates import Experience


@dataclass(frozen=True, slots=True)
class Row:
    """A part of a plan. state: stored, compute, or skip where nothing needs it. first, last: the
    steps that it is about, from 1, or None. seconds: None where nothing is known; bytes: to be stored."""

    stage: str
    first: int | None
    last: int | None
    state: str
    seconds: float | None
    bytes: int


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan in rows. stored_steps of total_steps need not be computed; needs: components to load. seconds: None
    unless all of it is known; memory_bytes, device_bytes: the most that like runs took, None where there is none."""

    rows: tuple[Row, ...]
    total_steps: int
    stored_steps: int
    needs: tuple[str, ...]
    seconds: float | None
    bytes: int
    memory_bytes: int | None
    device_bytes: int | None


def planned(
    store: Store,
    spec: RunSpec,
    *,
    segments: Sequence[Segment] = (),
    stop_at: int | None = None,
) -> Planned:
    """The plan of a run. Nothing is queued, loaded or written. Raises as `engine.client.submit` does."""
    from engine import client

    made = client.plan(store, spec, segments=segments, stop_at=stop_at)
    past = experience_with(store, made.spec)
    rows = _rows(made, past, _latent_bytes(made))
    known = [row.seconds for row in rows if row.seconds is not None]
    return Planned(
        rows=tuple(rows),
        total_steps=made.total,
        stored_steps=made.total if made.stages["denoise"] == "stored" else made.start,
        needs=made.needs,
        seconds=sum(known) if len(known) == len(rows) else None,
        bytes=sum(row.bytes for row in rows),
        memory_bytes=past.memory_bytes,
        device_bytes=past.device_bytes,
    )


def shown(row: Row) -> tuple[str, str, str, str, str]:
    """Stage, steps, state, time and disk as text."""
    steps = "" if row.first is None else f"{row.first}-{row.last}"
    seconds = "?" if row.seconds is None else duration(row.seconds) if row.seconds else ""
    state = {"compute": "to compute", "skip": "not needed"}.get(row.state, row.state)
    return row.stage, steps, state, seconds, size(row.bytes) if row.bytes else ""


def _rows(plan: Plan, past: Experience, latent_bytes: int) -> list[Row]:
    """The stages in order, the denoising steps split where the stored ones end."""
    state = plan.stages
    is_loaded = bool(plan.needs)
    rows = [
        Row(
            "load",
            None,
            None,
            "compute" if is_loaded else "skip",
            past.load if is_loaded else 0.0,
            0,
        ),
        _row("text_encode", state["text_encode"], past.text_encode),
    ]
    start = plan.total if state["denoise"] == "stored" else plan.start
    if start:
        rows.append(Row("denoise", 1, start, "stored", 0.0, 0))
    if start < plan.total:
        seconds = None if past.step is None else past.step * (plan.total - start)
        num_bytes = _journal_bytes(plan, start, latent_bytes) + latent_bytes
        rows.append(Row("denoise", start + 1, plan.total, "compute", seconds, num_bytes))
    rows.append(_row("decode", state["decode"], past.decode, round(past.video_bytes or 0)))
    return rows


def _row(stage: str, state: str, seconds: float | None, num_bytes: int = 0) -> Row:
    is_computed = state == "compute"
    return Row(stage, None, None, state, seconds if is_computed else 0.0, num_bytes * is_computed)


def _journal_bytes(plan: Plan, start: int, latent_bytes: int) -> int:
    from engine.pipelines.thinning import KEYFRAME_LATENTS, kept_steps

    kept = kept_steps(plan.spec.keep, plan.total, latent_bytes)
    if kept is None:
        return (plan.total - start) * latent_bytes
    return sum(step > start for step in kept) * KEYFRAME_LATENTS * latent_bytes


def _latent_bytes(plan: Plan) -> int:
    from engine.pipelines.plan import step_bytes

    return step_bytes(plan.spec, plan.latent_channels)
