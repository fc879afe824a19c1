"""`modiff run`: from a preset to a file, made by the background engine while this process watches.

Whatever can be refused is refused before anything is queued. stdout gets the output path, or with
`--json` one object; all else goes to stderr.
"""

from __future__ import annotations

import json
import shlex
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import click

from tui.completion import complete_preset
from tui.failures import CANCELLED, FAILED, Invocation, close_output
from tui.text import duration, printable

if TYPE_CHECKING:
    from presets.spec import RunSpec
    from store.records import RunRecord, StageRecord
    from store.store import Store
    from tui.progress import Progress
    from tui.watch import Signals, Watched

_WORDS_SHOWN = 12
_WORTH_TELLING_SECONDS = 0.1

_EPILOG = """\b
Examples:
  modiff run micro
  modiff run micro --prompt "a small yellow star moves up over a black background" --seed 7
  modiff run wan2.1-t2v-1.3b --set scheduler.steps=30 --set frames=33 --output clip.mp4
  modiff run micro --detach

Ctrl-C cancels the run, a second Ctrl-C leaves without waiting for the engine's word. Closing the
terminal or killing this command leaves the run alone: `modiff runs` finds it.

Exit codes: 0 done, 1 failed, 2 bad input, 130 cancelled.
"""


@click.command(epilog=_EPILOG)
@click.argument("preset", shell_complete=complete_preset)
@click.option("--prompt", metavar="TEXT", help="What to show.")
@click.option("--negative-prompt", metavar="TEXT", help="What to steer away from.")
@click.option("--seed", type=int, metavar="N", help="Seed of the initial noise.")
@click.option(
    "--output",
    metavar="FILE",
    help="Where the video goes; {run} in it becomes the run's id.  [default: modiff-{run}.mp4]",
)
@click.option("--overwrite", is_flag=True, help="Replace an output that is already there.")
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change one setting, for example scheduler.steps=12. Repeatable; "
    "`modiff presets show --keys` lists the keys.",
)
@click.option("--json", "as_json", is_flag=True, help="End stdout with one JSON object.")
@click.option("--detach", is_flag=True, help="Print the run's id and leave it running.")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no narration.")
@click.pass_obj
def run(
    invocation: Invocation,
    preset: str,
    prompt: str | None,
    negative_prompt: str | None,
    seed: int | None,
    output: str | None,
    overwrite: bool,
    overrides: tuple[str, ...],
    as_json: bool,
    detach: bool,
    quiet: bool,
) -> int:
    """Make a video from a preset.

    PRESET is a name from `modiff presets list` or a path that ends in .toml. An output that
    exists is never replaced without --overwrite.
    """
    from engine.client import submit
    from presets.library import load_preset
    from store.store import open_store
    from tui.outputs import check_output
    from tui.progress import Progress
    from tui.watch import Signals, Watched

    named = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "output.path": output,
        "output.overwrite": overwrite or None,
    }
    spec = load_preset(
        preset,
        overrides,
        values={key: value for key, value in named.items() if value is not None},
    )
    with open_store() as store:
        check_output(store, spec)
        if not quiet:
            _warn_of_unknown_words(spec)
        is_warm = bool(store.engines())
        with Signals() as signals:
            run_id = invocation.run = submit(store, spec, preset=preset)
            if detach:
                return _leave(store, run_id, signals, as_json=as_json)
            try:
                watched = _watch(store, run_id, signals, quiet=quiet)
            except OSError:
                if not signals.ended_by:
                    raise
                close_output()  # the terminal that hung up takes no more
                watched = Watched(Progress(), cancel_asked=bool(signals.interrupts))
            if signals.ended_by:
                _part(store, run_id, watched, quiet=quiet, as_json=as_json)
                return 128 + signals.ended_by
        record, stages = store.run(run_id), store.stages(run_id)
    if not quiet:
        for line in _narration(invocation, record, stages, watched, is_warm=is_warm):
            click.echo(line, err=True)
    elif record.error:
        click.echo(f"modiff: {printable(record.error)}", err=True)
    if as_json:
        click.echo(json.dumps(result(record, stages, watched.cancel_asked)))
    elif record.status == "done":
        click.echo(record.output)
    return _exit_code(record, watched.cancel_asked)


def result(record: RunRecord, stages: list[StageRecord], cancel_asked: bool) -> dict[str, Any]:
    """What `modiff run --json` ends with. A run that its engine left unfinished is "failed".

    cancel_asked decides for a run that is still to stop when its viewer has already left.
    """
    if record.is_finished:
        status = record.status if record.status in ("done", "cancelled") else "failed"
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


def _watch(store: Store, run_id: str, signals: Signals, *, quiet: bool) -> Watched:
    from engine.errors import EngineUnavailable
    from store.errors import StoreError
    from tui.progress import open_display
    from tui.watch import watch

    with closing(open_display(quiet=quiet)) as display:
        try:
            display.note(f"run {run_id}{_queue_note(store, run_id)}")
            return watch(store, run_id, display, signals)
        except (EngineUnavailable, StoreError):
            _withdraw(store, run_id)
            raise


def _withdraw(store: Store, run_id: str) -> None:
    """Cancel a run that is still queued: told that it failed, nobody expects it to start later."""
    from store.errors import StoreError

    with suppress(StoreError):  # the error that led here is the one to tell
        if store.run(run_id).status == "queued":
            store.request_cancel(run_id)


def _part(store: Store, run_id: str, watched: Watched, *, quiet: bool, as_json: bool) -> None:
    """Leave, as a signal asked, a run that goes on: see that an engine has it, and say so."""
    if store.run(run_id).status == "queued" and not watched.cancel_asked:
        _have_engine(store, run_id)
    record = store.run(run_id)
    try:
        if not quiet and not record.is_finished and not watched.cancel_asked:
            click.echo(f"run {run_id} goes on; modiff show {run_id}", err=True)
        if as_json:
            told = result(record, store.stages(run_id), watched.cancel_asked)
            click.echo(json.dumps(told))
    except OSError:  # the terminal that hung up can be told nothing
        close_output()


def _have_engine(store: Store, run_id: str) -> None:
    from engine.errors import EngineUnavailable
    from engine.launch import ensure_engine
    from store.errors import StoreError

    try:
        ensure_engine(store)
    except (EngineUnavailable, StoreError):
        _withdraw(store, run_id)
        raise


def _leave(store: Store, run_id: str, signals: Signals, *, as_json: bool) -> int:
    """`--detach`: see that an engine has the run in hand, and print its id."""
    _have_engine(store, run_id)
    if signals.interrupts:
        store.request_cancel(run_id)
        raise click.Abort
    record = store.run(run_id)
    if as_json:
        told = {"run": run_id, "status": record.status, "output": record.output}
        click.echo(json.dumps(told | {"seconds": 0.0, "stages": []}))
    else:
        click.echo(run_id)
    return 0


def _exit_code(record: RunRecord, cancel_asked: bool) -> int:
    if record.status == "done":
        return 0
    if record.status == "cancelled" or (cancel_asked and not record.is_finished):
        return CANCELLED
    return FAILED


def _narration(
    invocation: Invocation,
    record: RunRecord,
    stages: list[StageRecord],
    watched: Watched,
    *,
    is_warm: bool,
) -> list[str]:
    """How it went, for people: status, time and its split by stage."""
    match record.status:
        case "done":
            late = "; it was done before it could be cancelled" if watched.cancel_asked else ""
            return [f"run {record.id} done in {_split(record, stages, is_warm=is_warm)}{late}"]
        case "cancelled":
            return [f"run {record.id} cancelled{_where(watched.progress)}"]
        case "interrupted":
            again = shlex.join(["modiff", *invocation.arguments])
            return [f"modiff: {printable(record.error)}", f"to run it again: {printable(again)}"]
        case "failed":
            return [f"modiff: run {record.id} failed: {printable(record.error)}"]
        case _:
            return [f"left run {record.id} before it stopped; `modiff show {record.id}` tells when"]


def _where(progress: Progress) -> str:
    """` in denoise, after step 12 of 20`, or nothing for a run that never started."""
    if not progress.started:
        return " before it started"
    steps = f", after step {progress.step} of {progress.total}" if progress.total else ""
    return f" in {printable(progress.stage)}{steps}"


def _split(record: RunRecord, stages: list[StageRecord], *, is_warm: bool) -> str:
    """`9.87 s (cold engine): start 0.61 s, imports 1.92 s, load 0.80 s, ...`."""
    seconds = record.seconds or 0.0
    waited = max(0, (record.started_ns or record.created_ns) - record.created_ns) / 1e9
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
    waiting = store.runs(limit=1000, status="queued") + store.runs(limit=1000, status="running")
    own = store.run(run_id)
    count = sum(each.id != run_id and each.created_ns <= own.created_ns for each in waiting)
    return f" ({count} {'run is' if count == 1 else 'runs are'} ahead of it)" if count else ""


def _warn_of_unknown_words(spec: RunSpec) -> None:
    """One line that names the words that mean nothing to the micro model."""
    from engine.checkpoints.locate import BUILTIN_MICRO
    from engine.micro.grammar import unknown_words

    if spec.components.denoiser.checkpoint != BUILTIN_MICRO:
        return
    prompts = [spec.prompt] if spec.guidance.scale == 1 else [spec.prompt, spec.negative_prompt]
    unknown = list(dict.fromkeys(word for text in prompts for word in unknown_words(text)))
    if unknown:
        shown = ", ".join(printable(word) for word in unknown[:_WORDS_SHOWN])
        more = f" and {len(unknown) - _WORDS_SHOWN} more" if len(unknown) > _WORDS_SHOWN else ""
        click.echo(
            f"warning: the micro model knows only coloured shapes that move; "
            f"these words mean nothing to it: {shown}{more}",
            err=True,
        )
