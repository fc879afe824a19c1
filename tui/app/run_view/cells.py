"""What the panels of a run show of its state: cells, lines of plots, sentences. Pure functions, torch-free."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.tasks.stages import told
from tui.app.run_view.stages import StageCell
from tui.app.run_view.timeline import StepCell
from tui.app.widgets.plot import Series
from tui.describe.prompts.expansion import is_to_review
from tui.describe.runs.following.stalling import stalled
from tui.describe.runs.given import given_files
from tui.describe.runs.run import SYMBOLS, status_words
from tui.text import printable
from tui.units import clock, duration, size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from store.lineage.records import RunRecord
    from tui.describe.runs.following.state import RunState, Stage, Step


# Of steps that are shorter nobody sees each.
_SEEN_SECONDS = 0.2


def is_fast(state: RunState) -> bool:
    """Whether steps are done faster than they can be looked at."""
    seconds = state.unit_seconds
    return not state.is_over and seconds is not None and seconds < _SEEN_SECONDS


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a run says. is_output: whether `message` is the path of the run's file; is_problem: whether it
    says what keeps the run from getting on."""

    symbol: str
    status: str
    times: str
    origin: str
    hits: str
    message: str
    is_output: bool
    is_problem: bool = False


def head(
    state: RunState,
    record: RunRecord | None,
    *,
    prompt: str = "",
    changes: str = "",
    decode_seconds: float | None,
    now_ns: int,
    silence: str = "",
) -> Head:
    """The head of a run. record: None where it is not known (yet). prompt: as it was expanded, else empty. changes: of
    its preset, but for what is told beside them. silence: why the engine gives no sign of life, if it gives none."""
    message, is_output = _message(state, record)
    problem = "" if state.is_over else printable(silence) or _stall(state, now_ns)
    return Head(
        symbol=SYMBOLS.get(state.status, "?"),
        status=_status(state, record),
        times="  ".join(filter(None, _times(state, decode_seconds, now_ns))),
        origin=_origin(record, prompt, changes) if record else "",
        hits=_hits(state),
        message=problem or message,
        is_output=is_output,
        is_problem=bool(problem),
    )


def _status(state: RunState, record: RunRecord | None) -> str:
    if state.status == "running" and record is not None and record.status == "running":
        if record.cancel_requested:
            return "running, to be cancelled after this step"
        if record.pause_requested:
            return "running, to be paused after this step"
    if state.status == "done" and record is not None and is_to_review(record):
        return status_words(record)
    return printable(state.status)


def _times(state: RunState, decode_seconds: float | None, now_ns: int) -> list[str]:
    elapsed = state.elapsed_seconds(now_ns)
    total = len(state.steps)
    steps = ""
    if total:
        done = state.steps_done
        steps = f"{done} of {total} steps  {100 * done // total}%"
    return [
        clock(elapsed) if state.started_ns else "",
        state.eta(decode_seconds),
        state.rate,
        steps,
    ]


def _origin(record: RunRecord, expanded: str, changes: str) -> str:
    """Preset, ancestor, seed, what else was changed, and prompt, as it was expanded."""
    spec = json.loads(record.spec_json)
    parts = [record.preset or "no preset"]
    if record.parent:
        at = "" if record.parent_step is None else f" @{record.parent_step}"
        parts.append(f"branch of {record.parent}{at}")
    if isinstance(seed := spec.get("seed"), int):
        parts.append(f"seed {seed}")
    if changes:
        parts.append(changes)
    if files := given_files(spec):
        parts.append(f"from {' and '.join(files)}")
    if isinstance(prompt := expanded or spec.get("prompt"), str) and prompt.strip():
        parts.append(prompt)
    return printable(" · ".join(parts))


def _hits(state: RunState) -> str:
    """What is reused, because the store or the engine's memory has it; empty before there is a plan."""
    if not state.steps:
        return ""
    parts = [stage.name for stage in state.stages.values() if stage.status == "cached"]
    if reused := state.num_steps["reused"]:
        parts.append(f"{reused} of {len(state.steps)} steps")
    if not parts:
        return "all new" if state.num_steps["computed"] else ""
    saved = state.saved_seconds
    line = f"reused: {', '.join(parts)}"
    return f"{line}; ~{duration(saved)} saved" if saved else line


def _message(state: RunState, record: RunRecord | None) -> tuple[str, bool]:
    """The most useful line now, and whether it is the path of the output."""
    match state.status:
        case "done" if record is not None and is_to_review(record):
            return "its prompt was expanded and waits for your word; r asks for it", False
        case "done":
            return (printable(record.output), True) if record and record.output else ("", False)
        case "failed":
            return printable(state.error) or "it failed; r tries again from there", False
        case "interrupted":
            reason = printable(state.error) or "the engine ended"
            return f"r resumes it where it was; {reason}", False
        case "paused" | "cancelled":
            return "r resumes it where it was", False
        case "queued":
            return "waits for its turn", False
        case "running":
            return _memory(state) or "the engine gets ready", False
        case _:
            return "", False


def _stall(state: RunState, now_ns: int) -> str:
    if state.status != "running":
        return ""
    name, stage = next(
        ((name, stage) for name, stage in state.stages.items() if stage.status == "running"),
        ("", None),
    )
    step, usual = "", 0.0
    if told(name).unit == "step" and state.steps:
        step, usual = f"{state.steps_done} of {len(state.steps)} done", state.step_seconds or 0.0
    elif told(name).unit == "chunk" and state.chunk and stage is not None:
        step = f"{state.chunk} of {state.num_chunks} done"
        usual = (state.last_ns - stage.started_ns) / 1e9 / state.chunk
    return stalled(
        stage.name if stage else "starting",
        step,
        since_ns=state.last_ns,
        seconds=(now_ns - state.last_ns) / 1e9,
        usual_seconds=usual,
    )


def _memory(state: RunState) -> str:
    if not state.memory:
        return ""
    last = state.memory[-1]
    device = f" + {size(last.device_bytes)} device" if last.device_bytes else ""
    return f"memory {size(last.rss_bytes)}{device}"


def stage_cells(state: RunState, now_ns: int) -> list[StageCell]:
    """The stages in their order; those that the run does not have, because nothing needs them, are skipped."""
    return [
        StageCell(
            stage.name,
            stage.status,
            stage.seconds if stage.status == "done" else None,
            _detail(state, name, stage, now_ns),
        )
        for name, stage in state.stages.items()
    ]


def _detail(state: RunState, name: str, stage: Stage, now_ns: int) -> str:
    if stage.status == "todo":
        return "stored" if stage.planned == "stored" else ""
    if stage.status not in ("running", "failed"):
        return ""
    unit = told(name).unit
    if unit == "step" and state.steps:
        return f"{state.steps_done}/{len(state.steps)}"
    if unit == "chunk" and state.num_chunks:
        return f"{state.chunk}/{state.num_chunks}"
    seconds = (now_ns - stage.started_ns) / 1e9
    return clock(seconds) if stage.status == "running" and seconds >= 1 else ""


def step_cells(state: RunState, points: Collection[int] | None = None) -> list[StepCell]:
    """The steps. points: after which a branch finds its state stored, None to go by the log.

    The log says what was stored when the step ended; a clean-up may have taken it since.
    """
    last = len(state.steps)

    def is_stored(number: int, step: Step) -> bool:
        if points is None or number == last:
            return step.is_stored or (number <= state.reused_steps and not step.key)
        return number in points

    return [
        StepCell(step.status, step.seconds, is_stored(number, step))
        for number, step in enumerate(state.steps, start=1)
    ]


def newest_step(state: RunState) -> int:
    """The last step that is done, 0 before the first."""
    return next(
        (
            number
            for number in range(len(state.steps), 0, -1)
            if state.steps[number - 1].status in ("computed", "reused")
        ),
        0,
    )


def sigma_series(state: RunState, sigmas: Sequence[float]) -> list[Series]:
    """The noise level after 0, 1, 2 ... steps: how far it has come, and what is planned where the course is known."""
    if not sigmas:
        levels = [step.sigma for step in state.steps if not math.isnan(step.sigma)]
        return [_line("σ", range(len(levels)), levels)] if levels else []
    done = min(newest_step(state), len(sigmas) - 1)
    found = [_line("σ", range(done + 1), sigmas[: done + 1])]
    if done + 1 < len(sigmas):
        found.append(_line("planned", range(done, len(sigmas)), sigmas[done:]))
    return found


def _line(name: str, xs: Iterable[float], ys: Iterable[float]) -> Series:
    return Series(name, tuple(map(float, xs)), tuple(ys))


def latent_series(state: RunState) -> list[Series]:
    """Standard deviation, mean and relative change |Δ| of the latents after each step; a gap where this run never
    measured them."""
    steps = state.steps[: newest_step(state)]
    xs = range(1, len(steps) + 1)
    found = [
        _line("std", xs, (step.std for step in steps)),
        _line("mean", xs, (step.mean for step in steps)),
        _line("|Δ|", xs, (step.change for step in steps)),
    ]
    return [series for series in found if any(map(math.isfinite, series.ys))]


def bad_step(state: RunState) -> int:
    """The first computed step whose latents are not finite, 0 for none."""
    return next(
        (
            number
            for number, step in enumerate(state.steps, start=1)
            if step.status == "computed" and not math.isfinite(step.std)
        ),
        0,
    )


def memory_series(state: RunState) -> list[Series]:
    """Bytes of the engine process, and of its device where it has one, by seconds of this attempt; and beside them what
    the plan told of, where it did."""
    samples = state.memory
    xs = [sample.seconds for sample in samples]
    found = [_line("host", xs, (sample.rss_bytes for sample in samples))]
    if any(sample.device_bytes for sample in samples):
        found.append(_line("device", xs, (sample.device_bytes for sample in samples)))
    if samples and state.planned is not None:
        ends = (xs[0], max(xs[-1], xs[0] + 1))
        found.append(_line("planned", ends, (state.planned.num_bytes,) * 2))
    return found if samples else []


def step_values(state: RunState, number: int, sigmas: Sequence[float]) -> str:
    """The values after a step, of those that are known: `σ 0.742  std 0.93  mean -0.01  |Δ| 0.093`."""
    step: Step | None = state.steps[number - 1] if 1 <= number <= len(state.steps) else None
    sigma = sigmas[number] if number < len(sigmas) else math.nan
    if math.isnan(sigma) and number < len(state.steps):
        sigma = state.steps[number].sigma
    values = [("σ", sigma)]
    if step is not None:
        values += [("std", step.std), ("mean", step.mean), ("|Δ|", step.change)]
    return "  ".join(f"{name} {value:.3f}" for name, value in values if not math.isnan(value))


def new_lines(state: RunState, seen: int) -> list[tuple[str, str, str]]:
    """(time of day, level, text) of the log lines after the first `seen`, of those that are still kept."""
    fresh = min(state.num_lines - seen, len(state.lines))
    if fresh <= 0:
        return []
    kept = list(state.lines)[-fresh:]
    return [
        (time.strftime("%H:%M:%S", time.localtime(line.ns / 1e9)), line.level, line.text)
        for line in kept
    ]
