"""`modiff engine`: the background process that executes runs. `modiff run` starts it when needed."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from store.lineage.records import LATE_SECONDS
from tui.cli.options import json_option
from tui.cli.output import print_json, print_lines, waiting_line
from tui.describe.engines import NO_ENGINE, held_line, release_line
from tui.text import printable
from tui.units import lasting

if TYPE_CHECKING:
    from pathlib import Path

    from store.lineage.records import EngineRecord
    from store.store import Store


@click.group()
def engine() -> None:
    """Look after the background engine process.

    It starts with the first run, keeps its models for the next one and leaves when it has had
    nothing to do for a while.
    """


@engine.command()
@json_option
def status(as_json: bool) -> None:
    """Tell which engines live and what they do."""
    from engine.process.launch import other_variables
    from store.store import open_as_it_is

    with open_as_it_is() as store:
        engines = store.engines()
        queued = store.num_queued()
        root = store.root
    if as_json:
        told = {"engines": [_row(each) for each in engines], "queued": queued, "store": str(root)}
        print_json(told)
        return
    for each in engines:
        click.echo(_line(each))
        click.echo(f"  {held_line(each.models)}")
        if names := other_variables(each):
            click.echo(f"  started with another {', '.join(names)} than this command has")
    if not engines:
        click.echo("no engine is running; the next `modiff run` starts one")
    click.echo(f"{queued} queued, store {printable(str(root))}")


@engine.command()
@json_option
def start(as_json: bool) -> None:
    """Start an engine if none lives; it goes on with the runs that wait."""
    from engine.process.launch import ensure_engine
    from store.store import open_store

    with open_store() as store:
        started = ensure_engine(store)
    if as_json:
        print_json(_row(started))
    else:
        click.echo(_line(started), err=True)


@engine.command()
@click.option("--force", is_flag=True, help="End it at once, for an engine that hangs.")
@json_option
def stop(as_json: bool, force: bool) -> None:
    """Stop the engine, when its present step ends.

    Its run becomes interrupted; what is queued waits for the next engine. With --force the process is
    killed, whatever it does; the steps that it has stored stay.
    """
    from engine.process.launch import kill_engines, stop_engine
    from store.store import open_as_it_is

    with open_as_it_is() as store:
        if not as_json:
            for each in store.engines():
                busy = f", which works on run {each.run}" if each.run else ""
                doing = "ending" if force else "stopping"
                click.echo(f"{doing} the engine (process {each.pid}{busy})", err=True)
        stopped = kill_engines(store) if force else stop_engine(store)
        waiting = waiting_line(store)
    if as_json:
        told = [{"id": each.id or None, "pid": each.pid} for each in stopped]
        print_json({"stopped": told})
        return
    click.echo("stopped" if stopped else "no engine is running", err=True)
    if waiting:
        click.echo(waiting, err=True)


@engine.command()
@json_option
def release(as_json: bool) -> None:
    """Have the engine let go of the models that it does not use.

    Memory for another program, without waiting for the engine to leave. What its run works with stays; the next
    run loads again what it needs.
    """
    from engine.process.launch import release_engines
    from store.store import open_store

    with open_store() as store:
        engines = release_engines(store)
    if as_json:
        print_json({"engines": [_row(each) for each in engines]})
    else:
        print_lines([release_line(each) for each in engines] or [NO_ENGINE])


@engine.command()
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="How many lines from the end; 0 for all.",
)
@click.option("--pid", type=int, metavar="N", help="The log of the engine that was process N.")
@json_option
def logs(lines: int, pid: int | None, as_json: bool) -> None:
    """Print the end of the engine's log: the live engine's, else the last one's."""
    from engine.process.logs import log_path
    from store.store import open_as_it_is

    with open_as_it_is() as store:
        path = _log(store) if pid is None else log_path(store.root, pid)
    if path is None:
        raise click.ClickException("there is no log: no engine has run yet")
    if pid is not None and not path.exists():
        raise click.ClickException(
            f"there is no log of an engine with process {pid}: no file {path}"
        )
    text = path.read_text(encoding="utf-8", errors="replace").split("\n")
    shown = [printable(line) for line in text if line][-lines:]
    if as_json:
        print_json({"path": str(path), "lines": shown})
        return
    click.echo(printable(str(path)), err=True)
    print_lines(shown)


def _log(store: Store) -> Path | None:
    from engine.process.logs import log_path

    live = [log_path(store.root, each.pid) for each in store.engines()]
    known = live or list((store.root / "logs").glob("engine-*.log"))
    found = [path for path in known if path.exists()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _row(record: EngineRecord) -> dict[str, object]:
    now = time.time_ns()
    return {
        "id": record.id,
        "pid": record.pid,
        "host": record.host,
        "run": record.run or None,
        "seconds_alive": round(_seconds(record.started_ns, now), 1),
        "seconds_since_heartbeat": round(_seconds(record.heartbeat_ns, now), 1),
        "models": [asdict(each) for each in record.models],
        "is_to_release": record.is_to_release,
        "released": [asdict(each) for each in record.released],
    }


def _line(record: EngineRecord) -> str:
    now = time.time_ns()
    task = f"works on run {record.run}" if record.run else "waits for runs"
    silence = _seconds(record.heartbeat_ns, now)
    late = f", silent for {lasting(silence)}" if silence > LATE_SECONDS else ""
    alive = lasting(_seconds(record.started_ns, now))
    return f"engine {record.id} (process {record.pid}) {task}; up for {alive}{late}"


def _seconds(since_ns: int, now_ns: int) -> float:
    """How long ago that was; nothing where the clock was put back since."""
    return max(0.0, (now_ns - since_ns) / 1e9)
