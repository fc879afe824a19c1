"""`modiff plan`: what of a run is stored, what would be computed, and what that would take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from tui.commands.runs import print_json
from tui.options import (
    json_option,
    named_values,
    overwrite_option,
    preset_argument,
    prompt_options,
    set_option,
)
from tui.text import columns, duration, size

if TYPE_CHECKING:
    from engine.pipelines.plan import Plan
    from presets.spec import RunSpec
    from store.store import Store
    from tui.estimates import Experience

_EPILOG = """\b
Examples:
  modiff plan micro
  modiff plan wan2.1-t2v-14b --set scheduler.steps=30 --seed 7
  modiff plan micro --json
"""


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


@click.command(epilog=_EPILOG)
@preset_argument
@prompt_options
@set_option
@click.option("--output", metavar="FILE", help="As of `modiff run`; nothing is written.")
@overwrite_option
@click.option(
    "--stop-at", type=click.IntRange(min=1), metavar="STEP", help="For a run of only so many steps."
)
@json_option
def plan(
    preset: str,
    prompt: str | None,
    negative_prompt: str | None,
    seed: int | None,
    overrides: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    stop_at: int | None,
    as_json: bool,
) -> None:
    """Tell what a run would compute, before it does.

    PRESET is a name from `modiff presets list` or a path that ends in .toml; the options are those of
    `modiff run`. Nothing is queued, loaded or written. Times are those of like runs on this machine.
    """
    from engine import client
    from presets.library import load_preset
    from store.store import open_store
    from tui.estimates import experience_with

    values = named_values(
        prompt=prompt,
        negative_prompt=negative_prompt,
        seed=seed,
        output__path=output,
        output__overwrite=overwrite,
    )
    spec = load_preset(preset, overrides, values=values)
    with open_store() as store:
        made = client.plan(store, spec, stop_at=stop_at)
        rows = _rows(made, experience_with(store, made.spec), _latent_bytes(store, made.spec))
    known = [row.seconds for row in rows if row.seconds is not None]
    is_known = len(known) == len(rows)
    if as_json:
        print_json(
            {
                "total_steps": made.total,
                "stored_steps": made.total if made.stages["denoise"] == "stored" else made.start,
                "needs": list(made.needs),
                "stages": [asdict(row) for row in rows],
                "seconds": round(sum(known), 3) if is_known else None,
                "bytes": sum(row.bytes for row in rows),
            }
        )
        return
    for line in columns([("STAGE", "STEPS", "STATE", "TIME", "DISK"), *map(_shown, rows)]):
        click.echo(line)
    if not is_known:
        click.echo("no like run is on record here, so not all times are known", err=True)


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


def _latent_bytes(store: Store, spec: RunSpec) -> int:
    from engine.pipelines.identities import Identities
    from engine.pipelines.plan import step_bytes
    from engine.registry import load
    from store.index import open_index

    with open_index(store.root) as index:
        channels = Identities(index, load).latent_channels(spec.components.denoiser)
    return step_bytes(spec, channels)


def _shown(row: Row) -> tuple[str, ...]:
    steps = "" if row.first is None else f"{row.first}-{row.last}"
    seconds = "?" if row.seconds is None else duration(row.seconds) if row.seconds else ""
    state = {"compute": "to compute", "skip": "not needed"}.get(row.state, row.state)
    return row.stage, steps, state, seconds, _disk(row.bytes)


def _disk(num_bytes: int) -> str:
    if not num_bytes:
        return ""
    return size(num_bytes) if num_bytes >= 1 << 20 else f"{num_bytes / 1024:.0f} KiB"
