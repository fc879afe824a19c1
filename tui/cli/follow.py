"""Following what was just queued to its end: how `branch`, `resume`, `sweep` and their like end.

stdout gets the output path, or one JSON object; all else goes to stderr. The promises about signals
are those of tui.cli.watch.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from store.lineage.records import REUSED, StageRecord
from tui.cli.output import Invocation, close_output, echo_path, print_json
from tui.describe.runs.notices import BELL, desktop_notice, end_line
from tui.describe.runs.run import is_to_review
from tui.errors import CANCELLED, FAILED
from tui.text import printable
from tui.units import duration

if TYPE_CHECKING:
    from store.lineage.records import RunRecord
    from store.store import Store
    from tui.cli.progress import Progress
    from tui.cli.watch import Signals, Watched

_WORTH_TELLING_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Manner:
    """How a command follows. again: how to go on with a run that its engine left unfinished,
    `modiff resume` where empty. notify: call whoever looks elsewhere at the end."""

    detach: bool = False
    quiet: bool = False
    as_json: bool = False
    again: str = ""
    notify: bool = False


def follow_queued(
    invocation: Invocation, store: Store, queue: Callable[[], str], manner: Manner
) -> int:
    """Queue a run by calling `queue`, which returns its id, and follow it; returns the exit code."""
    from tui.cli.progress import Progress
    from tui.cli.watch import Signals, Watched

    is_warm = bool(store.engines())
    asked_ns = time.time_ns()
    with Signals() as signals:
        run_id = invocation.run = queue()
        if manner.detach:
            return leave(store, run_id, signals, as_json=manner.as_json)
        try:
            watched = watch_run(store, run_id, signals, quiet=manner.quiet)
        except OSError:
            if not signals.ended_by:
                raise
            close_output()  # the terminal that hung up takes no more
            watched = Watched(Progress(), cancel_asked=bool(signals.interrupts))
        if signals.ended_by:
            part(store, run_id, watched, quiet=manner.quiet, as_json=manner.as_json)
            return 128 + signals.ended_by
    record, stages = store.run(run_id), latest_stages(store, run_id)
    if not manner.quiet:
        spent = _split(record, stages, asked_ns, is_warm=is_warm)
        for line in _narration(store, record, watched, spent, again=manner.again):
            click.echo(line, err=True)
    elif record.error:
        click.echo(f"modiff: {printable(record.error)}", err=True)
    if manner.as_json:
        print_json(result(record, stages, watched.cancel_asked))
    elif record.status == "done" and not is_to_review(record):
        echo_path(record.output)
    if manner.notify:
        call(end_line(record))
    return exit_code(record, watched.cancel_asked)


def call(line: str) -> None:
    """Call whoever looks elsewhere, by the bell and a notification of the desktop, where stderr is a terminal."""
    if sys.stderr is not None and sys.stderr.isatty():
        click.echo(BELL + desktop_notice(line, os.environ), err=True, nl=False)


def result(record: RunRecord, stages: list[StageRecord], cancel_asked: bool) -> dict[str, Any]:
    """What `modiff run --json` ends with. A run that its engine left unfinished is "failed".

    cancel_asked decides for a run that is still to stop when its viewer has already left.
    """
    if record.is_finished:
        status = record.status if record.status in ("done", "cancelled", "paused") else "failed"
    else:
        status = "cancelled" if cancel_asked else record.status
    told: dict[str, Any] = {
        "run": record.id,
        "status": status,
        "output": record.output if status == "done" else None,
        "seconds": round(record.seconds or 0.0, 3),
        "stages": [
            {"name": stage.name, "seconds": round(stage.seconds, 3), "cached": stage.cached}
            for stage in stages
        ],
    }
    if record.error:
        told["error"] = record.error
    return told


def latest_stages(store: Store, run_id: str) -> list[StageRecord]:
    """The stages that ended since the run was last taken up; its rows also have earlier ones."""
    from store.lineage.events import RunResumed, StageFinished

    found: dict[str, StageRecord] = {}
    for _, event in store.events(run_id):
        if isinstance(event, RunResumed):
            found.clear()
        elif isinstance(event, StageFinished):
            # components are loaded when they are needed: each time tells the seconds so far
            found[event.stage] = StageRecord(event.stage, event.seconds, event.cached)
    return list(found.values())


def reused_steps(store: Store, run_id: str) -> tuple[int, int]:
    """How many of a run's steps were reused, and how many it has."""
    steps = [link for link in store.links_of(run_id) if link.stage == "step"]
    return sum(step.source == REUSED for step in steps), len(steps)


def exit_code(record: RunRecord, cancel_asked: bool) -> int:
    """0 for a run that is done, 130 for one that was cancelled, 1 for any other."""
    if record.status == "done":
        return 0
    if record.status == "cancelled" or (cancel_asked and not record.is_finished):
        return CANCELLED
    return FAILED


def watch_run(
    store: Store,
    run_id: str,
    signals: Signals,
    *,
    quiet: bool,
    title: str = "",
    cancel_too: Sequence[str] = (),
) -> Watched:
    """Show a run's progress until it ends or a signal says otherwise.

    title: what the first line calls it. cancel_too: as `watch` takes it. A run that no engine can take is
    withdrawn and the error raised.
    """
    from engine.errors import EngineUnavailable
    from store.errors import StoreError
    from tui.cli.progress import open_display
    from tui.cli.watch import watch

    with closing(open_display(quiet=quiet)) as display:
        try:
            display.note(title or f"run {run_id}{_queue_note(store, run_id)}")
            if not quiet and (line := _environment_note(store)):
                display.note(line)
            return watch(store, run_id, display, signals, cancel_too=cancel_too)
        except (EngineUnavailable, StoreError):
            withdraw(store, run_id)
            raise


def _environment_note(store: Store) -> str:
    """That the engine at work has another environment than this command, where that matters; or nothing."""
    from engine.process.launch import other_variables

    names = {name for engine in store.engines() for name in other_variables(engine)}
    if not names:
        return ""
    return (
        f"the engine was started with another {', '.join(sorted(names))}, which holds for this run too; "
        "`modiff engine stop` lets the next run start one with yours"
    )


def withdraw(store: Store, *run_ids: str) -> None:
    """Cancel runs that are still queued: told that it failed, nobody expects them to start later."""
    from store.errors import StoreError

    with suppress(StoreError):  # the error that led here is the one to tell
        for run_id in run_ids:
            if store.run(run_id).status == "queued":
                store.request_cancel(run_id)


def part(store: Store, run_id: str, watched: Watched, *, quiet: bool, as_json: bool) -> None:
    """Leave, as a signal asked, a run that goes on: see that an engine has it, and say so."""
    if store.run(run_id).status == "queued" and not watched.cancel_asked:
        have_engine(store, run_id)
    record = store.run(run_id)
    try:
        if not quiet and not record.is_finished and not watched.cancel_asked:
            click.echo(f"run {run_id} goes on; modiff show {run_id}", err=True)
        if as_json:
            told = result(record, store.stages(run_id), watched.cancel_asked)
            print_json(told)
    except OSError:  # the terminal that hung up can be told nothing
        close_output()


def have_engine(store: Store, *run_ids: str) -> None:
    """See that an engine is there for these queued runs; where none can be, they are withdrawn."""
    from engine.errors import EngineUnavailable
    from engine.process.launch import ensure_engine
    from store.errors import StoreError

    try:
        ensure_engine(store)
    except (EngineUnavailable, StoreError):
        withdraw(store, *run_ids)
        raise


def leave(store: Store, run_id: str, signals: Signals, *, as_json: bool) -> int:
    """`--detach`: see that an engine has the run in hand, and print its id."""
    have_engine(store, run_id)
    if signals.interrupts:
        store.request_cancel(run_id)
        raise click.Abort
    record = store.run(run_id)
    if as_json:
        told = {"run": run_id, "status": record.status, "output": record.output}
        print_json(told | {"seconds": 0.0, "stages": []})
    else:
        click.echo(run_id)
    return 0


def _narration(
    store: Store, record: RunRecord, watched: Watched, spent: str, *, again: str
) -> list[str]:
    """How it went, for people: status, time and its split by stage."""
    match record.status:
        case "done" if is_to_review(record):
            return []
        case "done":
            late = "; it was done before it could be cancelled" if watched.cancel_asked else ""
            return [f"run {record.id} done in {spent}{_reuse(store, record)}{late}"]
        case "cancelled":
            return [f"run {record.id} cancelled{_where(watched.progress)}"]
        case "paused":
            where = _where(watched.progress)
            return [f"run {record.id} paused{where}; `modiff resume {record.id}` goes on"]
        case "interrupted":
            onwards = (
                f"to run it again: {printable(again)}"
                if again
                else f"to go on with it: modiff resume {record.id}"
            )
            return [f"modiff: {printable(record.error)}", onwards]
        case "failed":
            return [f"modiff: run {record.id} failed: {printable(record.error)}"]
        case _:
            return [f"left run {record.id} before it stopped; `modiff show {record.id}` tells when"]


def _reuse(store: Store, record: RunRecord) -> str:
    """`; 12 of its 20 steps were stored`, or nothing."""
    reused, total = reused_steps(store, record.id)
    return f"; {reused} of its {total} steps were stored" if reused else ""


def _where(progress: Progress) -> str:
    """` in denoise, after step 12 of 20`, or nothing for a run that never started."""
    if not progress.started:
        return " before it started"
    steps = f", after step {progress.step} of {progress.total}" if progress.total else ""
    return f" in {printable(progress.stage)}{steps}"


def _split(record: RunRecord, stages: list[StageRecord], asked_ns: int, *, is_warm: bool) -> str:
    """`9.87 s (cold engine): start 0.61 s, imports 1.92 s, load 0.80 s, ...`.

    asked_ns: when this process asked, which for a run that goes on is long after it was made.
    """
    seconds = record.seconds or 0.0
    asked_ns = max(asked_ns, record.created_ns)
    waited = max(0, (record.started_ns or asked_ns) - asked_ns) / 1e9
    # Between the lease and the first stage a new engine imports torch; a warm one does next to nothing.
    outside = max(0.0, seconds - sum(stage.seconds for stage in stages))
    around = (
        [("queue", waited), ("other", outside)]
        if is_warm
        else [("start", waited), ("imports", outside)]
    )
    parts = [(name, each) for name, each in around if each >= _WORTH_TELLING_SECONDS]
    parts += [(stage.name, stage.seconds) for stage in stages]
    split = ", ".join(f"{printable(name)} {duration(each)}" for name, each in parts)
    state = "warm" if is_warm else "cold"
    return f"{duration(waited + seconds)} ({state} engine){': ' if split else ''}{split}"


def _queue_note(store: Store, run_id: str) -> str:
    """` (2 runs are ahead of it)`, or nothing."""
    running = store.runs(limit=1000, status="running")
    ahead = [each.id for each in (*running, *store.queued())]
    count = ahead.index(run_id) if run_id in ahead else 0
    return f" ({count} {'run is' if count == 1 else 'runs are'} ahead of it)" if count else ""
