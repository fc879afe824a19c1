"""Following what was just queued to its end: how `run`, `branch`, `resume`, `sweep` and their like end.

Several runs are followed one after another; all of them are queued or none. stdout gets the output path, or one JSON
object; all else goes to stderr. The promises about signals are those of tui.cli.following.watch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from store.lineage.records import REUSED, StageRecord
from tui.cli.following.progress import stage_told
from tui.cli.output import Invocation, close_output, echo_path, print_json, print_lines
from tui.describe.prompts.expansion import is_to_review
from tui.describe.runs.detail import WORTH_TELLING_SECONDS, with_file_back
from tui.describe.runs.following.notices import BELL, desktop_notice, end_line
from tui.describe.runs.following.state import RunState, state_of
from tui.describe.runs.given import changed_file
from tui.describe.runs.run import stages_data
from tui.errors import CANCELLED, FAILED
from tui.text import printable, shorten
from tui.units import duration

if TYPE_CHECKING:
    from store.lineage.records import RunRecord
    from store.store import Store
    from tui.cli.following.manner import Manner
    from tui.cli.following.watch import Signals, Watched

_MAX_VALUE = 40


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run to be queued: `queue` does it and returns its id. values: what tells it from the others."""

    queue: Callable[[], str]
    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Followed:
    """How following ended. watched: of the last run that was. ended_by: the signal that told this process to end."""

    run_ids: list[str]
    watched: Watched
    ended_by: int = 0


def follow(
    store: Store,
    wanted: Sequence[Wanted],
    manner: Manner,
    *,
    note: str = "",
    on_end: Callable[[RunRecord], None] = lambda _: None,
) -> Followed:
    """Queue runs, and follow them in turn until all have ended, or until a signal says otherwise; a run that fails does
    not keep the others from being made. With `detach` it ends once an engine has them in hand.

    note: a line of narration once all are queued. on_end: called with each run that ended by itself.
    """
    from tui.cli.following.watch import Signals, Watched

    with Signals() as signals:
        run_ids = _queue_all(store, wanted, signals)
        if note and not manner.quiet:
            click.echo(note, err=True)
        if manner.detach:
            have_engine(store, run_ids)
            if signals.interrupts:
                store.request_cancel_all(run_ids)
                raise click.Abort
            return Followed(run_ids, Watched(RunState(run_ids[-1]), cancel_asked=False))
        try:
            watched = _watch_all(store, run_ids, wanted, signals, manner, on_end)
        except OSError:
            if not signals.ended_by:
                raise
            close_output()  # the terminal that hung up takes no more
            watched = Watched(RunState(run_ids[-1]), cancel_asked=bool(signals.interrupts))
        if signals.ended_by and not watched.cancel_asked:
            part(store, run_ids, quiet=manner.quiet)
        return Followed(run_ids, watched, signals.ended_by)


def follow_queued(
    invocation: Invocation, store: Store, queue: Callable[[], str], manner: Manner
) -> int:
    """Queue a run by calling `queue`, which returns its id, and follow it; returns the exit code."""

    def queue_it() -> str:
        invocation.run = queue()
        return invocation.run

    is_warm = bool(store.engines())
    asked_ns = time.time_ns()
    followed = follow(store, [Wanted(queue_it)], manner)
    (run_id,), watched = followed.run_ids, followed.watched
    record = store.run(run_id)
    if manner.detach:
        if manner.as_json:
            queued = {"run": run_id, "status": record.status, "output": record.output}
            print_json(queued | {"seconds": 0.0, "stages": []} | _noted(manner))
        else:
            click.echo(run_id)
        return 0
    told = result(record, _stages(watched.state), watched.cancel_asked) | _noted(manner)
    if followed.ended_by:
        if manner.as_json:
            tell_leaving(lambda: print_json(told))
        return 128 + followed.ended_by
    if not manner.quiet:
        spent = _split(record, _stages(watched.state), asked_ns, is_warm=is_warm)
        print_lines(_narration(store, record, watched, spent, again=manner.again), err=True)
    elif record.error:
        click.echo(f"modiff: {printable(record.error)}", err=True)
    if manner.as_json:
        print_json(told)
    elif record.status == "done" and not is_to_review(record):
        echo_path(record.output)
    if manner.notify:
        call(end_line(record))
    return exit_code(record, watched.cancel_asked)


def _noted(manner: Manner) -> dict[str, Any]:
    return {"notes": list(manner.notes)} if manner.notes else {}


def tell_leaving(tell: Callable[[], object]) -> None:
    """Say something to a terminal that may have hung up."""
    try:
        tell()
    except OSError:
        close_output()


def call(line: str) -> None:
    """Call whoever looks elsewhere, by the bell and a notification of the desktop, where stderr is a terminal."""
    if sys.stderr is not None and sys.stderr.isatty():
        click.echo(BELL + desktop_notice(line, os.environ), err=True, nl=False)


def result(record: RunRecord, stages: Sequence[StageRecord], cancel_asked: bool) -> dict[str, Any]:
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
        "stages": stages_data(stages),
    }
    if record.error:
        told["error"] = record.error
    return told


def latest_stages(store: Store, run_id: str) -> list[StageRecord]:
    """The stages of a run that ended since it was last taken up."""
    return _stages(state_of(run_id, [event for _, event in store.events(run_id)]))


def _stages(state: RunState) -> list[StageRecord]:
    """The stages that ended since the run was last taken up."""
    return [
        StageRecord(name, stage.seconds, stage.status in ("cached", "skipped"))
        for name, stage in state.stages.items()
        if stage.seconds is not None
    ]


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


def _queue_all(store: Store, wanted: Sequence[Wanted], signals: Signals) -> list[str]:
    """All of them, or none where one of them is refused or a signal comes in between."""
    run_ids: list[str] = []
    try:
        for each in wanted:
            run_ids.append(each.queue())
            if len(wanted) > 1 and (signals.interrupts or signals.ended_by):
                raise click.Abort
    except BaseException:  # an interrupt too: what it leaves half-queued would run all the same
        if run_ids:
            _cancel(store, run_ids)
        raise
    return run_ids


def _watch_all(
    store: Store,
    run_ids: Sequence[str],
    wanted: Sequence[Wanted],
    signals: Signals,
    manner: Manner,
    on_end: Callable[[RunRecord], None],
) -> Watched:
    """Follow each run in turn; how the last one ended. One interrupt cancels all that are left in the same moment."""
    quiet, total = manner.quiet, len(run_ids)
    for number, (run_id, each) in enumerate(zip(run_ids, wanted, strict=True)):
        values = ", ".join(f"{key}={value_told(key, value)}" for key, value in each.values.items())
        place = f" ({number + 1} of {total})" if total > 1 else _queue_note(store, run_id)
        title = f"run {run_id}{place}{': ' if values else ''}{values}"
        left = run_ids[number + 1 :]
        watched = watch_run(store, run_id, signals, quiet=quiet, title=title, cancel_too=left)
        if signals.ended_by:
            break
        if watched.cancel_asked:
            _await_running(store, left, signals, quiet=quiet)
            break
        on_end(store.run(run_id))
    return watched


def _await_running(store: Store, run_ids: Sequence[str], signals: Signals, *, quiet: bool) -> None:
    """Wait for the end of one of these that the engine took up before it could be cancelled in the queue."""
    for run_id in run_ids:
        if signals.interrupts > 1 or signals.ended_by:
            return
        if not store.run(run_id).is_finished:
            watch_run(store, run_id, signals, quiet=quiet, title=f"run {run_id}")


def value_told(key: str, value: object) -> str:
    """The value of a setting in a title or a table; of a picture or a clip the name of its file."""
    from tui.describe.inputs import file_name
    from tui.describe.runs.finding.setting_keys import given_files

    if key in given_files() and isinstance(value, str):
        value = file_name(value)
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return shorten(printable(text), _MAX_VALUE)


def watch_run(
    store: Store,
    run_id: str,
    signals: Signals,
    *,
    quiet: bool,
    title: str,
    cancel_too: Sequence[str] = (),
) -> Watched:
    """Show a run's progress until it ends or a signal says otherwise.

    title: what the first line calls it. cancel_too: as `watch` takes it. Runs that no engine can take are withdrawn and
    the error raised.
    """
    from engine.errors import EngineUnavailable
    from store.errors import StoreError
    from tui.cli.following.progress import open_display
    from tui.cli.following.watch import watch

    with closing(open_display(quiet=quiet)) as display:
        try:
            display.note(title)
            if not quiet and (line := _environment_note(store)):
                display.note(line)
            return watch(store, run_id, display, signals, cancel_too=cancel_too)
        except (EngineUnavailable, StoreError):
            withdraw(store, [run_id, *cancel_too])
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


def withdraw(store: Store, run_ids: Sequence[str]) -> None:
    """Cancel runs that are still queued: told that it failed, nobody expects them to start later."""
    from store.errors import StoreError

    with suppress(StoreError):  # the error that led here is the one to tell
        _cancel(store, [run_id for run_id in run_ids if store.run(run_id).status == "queued"])


def _cancel(store: Store, run_ids: Sequence[str]) -> None:
    from store.errors import StoreError

    with suppress(StoreError):  # what led here is the thing to tell
        store.request_cancel_all(run_ids)


def part(store: Store, run_ids: Sequence[str], *, quiet: bool) -> None:
    """Leave, as a signal asked, runs that go on: see that an engine has them, and say so."""
    left = [run for run in map(store.run, run_ids) if not run.is_finished]
    if any(run.status == "queued" for run in left):
        have_engine(store, [run.id for run in left])
    if left and not quiet:
        one = f"run {left[0].id} goes on; modiff show {left[0].id}"
        line = one if len(left) == 1 else f"{len(left)} runs go on; `modiff runs` tells how"
        tell_leaving(lambda: click.echo(line, err=True))


def have_engine(store: Store, run_ids: Sequence[str]) -> None:
    """See that an engine is there for these queued runs; where none can be, they are withdrawn."""
    from engine.errors import EngineUnavailable
    from engine.process.launch import ensure_engine
    from store.errors import StoreError

    try:
        ensure_engine(store)
    except (EngineUnavailable, StoreError):
        withdraw(store, run_ids)
        raise


def _narration(
    store: Store, record: RunRecord, watched: Watched, spent: str, *, again: str
) -> list[str]:
    """How it went, for people: status, time and its split by stage."""
    where, way_on = _where(watched.state), f"; `modiff resume {record.id}` goes on"
    match record.status:
        case "done" if is_to_review(record):
            return []
        case "done":
            late = "; it was done before it could be cancelled" if watched.cancel_asked else ""
            return [f"run {record.id} done in {spent}{_reuse(store, record)}{late}"]
        case "cancelled":
            return [f"run {record.id} cancelled{where}{way_on}"]
        case "paused":
            return [f"run {record.id} paused{where}{way_on}"]
        case "interrupted":
            onwards = (
                f"to run it again: {printable(again)}"
                if again
                else f"to go on with it: modiff resume {record.id}"
            )
            return [f"modiff: {printable(record.error)}", onwards]
        case "failed":
            file = changed_file(store, record, store.links_of(record.id))
            way = f"`modiff resume {record.id}` goes on from what is stored"
            return [
                f"modiff: run {record.id} failed: {printable(record.error)}",
                f"{with_file_back(file)}{way}" if file else f"{way}, once that is mended",
            ]
        case _:
            return [f"left run {record.id} before it stopped; `modiff show {record.id}` tells when"]


def _reuse(store: Store, record: RunRecord) -> str:
    """`; 12 of its 20 steps were stored`, or nothing."""
    reused, total = reused_steps(store, record.id)
    return f"; {reused} of its {total} steps were stored" if reused else ""


def _where(state: RunState) -> str:
    """` in denoise, after step 12 of 20`, or nothing for a run that never started."""
    if not state.started_ns:
        return " before it started"
    done, total = state.counted
    steps = f", after step {done} of {total}" if total else ""
    return f" in {stage_told(state)}{steps}"


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
    parts = [(name, each) for name, each in around if each >= WORTH_TELLING_SECONDS]
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
