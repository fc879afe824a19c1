"""The app's start and its answer to keys.

start: from the exec to the first screen, `modiff` beside a bare Textual app with as many widgets as a form has, each
in a terminal of its own, in turn. "painted" is the frame with the stages, "complete" the form with its preset read.
Both in seconds of the clock and of a core.
live: what the live screen takes of a core, and writes to its terminal, beside an engine that makes a micro run of so
many steps a second as it can, with previews: more of them than any large model makes in a minute.
steps: the same beside the log of such a run, of so many steps a second however busy the machine is.
idle: what the app takes of a core when nothing goes on, on each screen, over a store of 200 runs, and on the live
screen of a run that has ended, while its video plays and after that; some 10 s after the screen was opened.
used: the memory of the app while all of its screens are used without a pause, by the minute.
keys: from a key that moves the timeline's cursor to the terminal being told, while a run logs 2,000 events a second
for a minute, beside the same keys while nothing is logged; with the growth of the app's memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil

from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.index.index import open_index
from store.index.previews import Preview, put_preview
from store.lineage import events
from store.lineage.events import (
    LinkStored,
    MemorySampled,
    Message,
    PlanMade,
    RunStarted,
    StageStarted,
    StepFinished,
)
from store.store import Store, open_store
from tests.stores.recorded_runs import micro, record_run, wave
from tests.terminals.terminal import Terminal
from tui.app.top_line import TABS

ROOT = Path(__file__).resolve().parents[2]
BARE = """
from textual.app import App
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Footer, Input, Label, OptionList, Static, TextArea
class Bare(App):
    CSS = "OptionList, Static { width: 30; }"
    def compose(self):
        with Horizontal():
            yield OptionList(*(f"line {n}" for n in range(10)))
            with VerticalScroll():
                yield Label("Compose")
                for n in range(6):
                    yield Input(str(n))
                yield TextArea("a prompt")
            yield Static("a plan")
        yield Footer()
Bare().run()
"""
MODIFF = "from tui.cli.main import main; main([])"
STEPS = 1000
ENGINE = "benchmark"


def first_screen(code: str, folder: Path, *texts: str) -> list[tuple[float, float]]:
    """Seconds from the exec until each of `texts` is on the screen, and those of a core until then."""
    with Terminal(
        [sys.executable, "-P", "-c", code],
        environment=environment(folder),
        folder=folder,
    ) as terminal:
        process = psutil.Process(terminal.process.pid)
        return [(terminal.wait_for(text), cpu_seconds(process)) for text in texts]


def cpu_seconds(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return spent.user + spent.system


def environment(folder: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": str(ROOT),
        "MODIFF_STORE": str(folder / "store"),
        "MODIFF_CONFIG_DIR": str(folder / "config"),
        # as of a package that is installed, whatever the environment says
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }


def start(rounds: int, folder: Path) -> dict[str, object]:
    spent: dict[str, list[float]] = {"painted": [], "complete": [], "bare": []}
    cpu: dict[str, list[float]] = {"painted": [], "complete": [], "bare": []}
    for number in range(rounds + 1):
        painted, complete = first_screen(MODIFF, folder, "text encoder", "shipped with modiff")
        (bare,) = first_screen(BARE, folder, "Compose")
        if number:
            for name, told in (("painted", painted), ("complete", complete), ("bare", bare)):
                spent[name].append(told[0])
                cpu[name].append(told[1])
    pairs = zip(spent["painted"], spent["bare"], strict=True)
    return {
        "seconds": {name: round(statistics.median(values), 3) for name, values in spent.items()},
        "cpu_seconds": {name: round(statistics.median(values), 3) for name, values in cpu.items()},
        "fastest": {name: round(min(values), 3) for name, values in spent.items()},
        "ratio": round(statistics.median(a / b for a, b in pairs), 2),
        "limit_seconds": 0.5,
    }


def log_events(store_root: Path, run_id: str, rate: int, ended: Event) -> None:
    """What a run would log, `rate` events a second in batches of a fiftieth of a second."""
    with open_store(store_root) as store:
        begun, sent = time.perf_counter(), 0
        while not ended.wait(0.02):
            due = int((time.perf_counter() - begun) * rate) - sent
            store.append(run_id, [an_event(sent + number) for number in range(due)])
            sent += due


def an_event(number: int) -> events.Event:
    step = number // 4 % STEPS + 1
    match number % 4:
        case 0:
            return StepFinished(step, STEPS, 1 - step / STEPS, 1000.0, 0.002, 0.01, 0.9)
        case 1:
            return MemorySampled((500 + step) << 20, step << 20)
        case _:
            return Message("info", f"event {number}")


def a_run(store: Store) -> str:
    """A run at work as far as the store can tell."""
    spec = load_preset("micro", [f"scheduler.steps={STEPS}"])
    run_id = store.enqueue(encode_spec(spec), preset="micro", output="video.mp4")
    store.lease(ENGINE)
    store.append(run_id, [RunStarted(ENGINE, 1), StageStarted("denoise")])
    store.append(run_id, [an_event(4 * step) for step in range(STEPS)])
    return run_id


def answers(terminal: Terminal, seconds: float) -> list[float]:
    """Seconds from each key (the timeline's cursor goes to the noise, and back) to the screen that shows it."""
    found = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        terminal.written = b""
        begun = time.perf_counter()
        terminal.press("\x1b[H")
        terminal.wait_for("the noise · before", seconds=10)
        found.append(time.perf_counter() - begun)
        terminal.press("\x1b[F")
        settle = time.perf_counter() + 0.4
        while time.perf_counter() < settle:
            terminal.read(0.02)
    return found


def keys(seconds: float, rate: int, folder: Path) -> dict[str, object]:
    told: dict[str, object] = {"events_per_second": rate, "seconds": seconds, "limit_ms": 100}
    with (
        open_store(folder / "store") as store,
        store.register_engine(ENGINE, pid=1),
        Terminal(
            [sys.executable, "-P", "-c", MODIFF], environment=environment(folder), folder=folder
        ) as terminal,
    ):
        run_id = a_run(store)
        terminal.wait_for("Compose")
        terminal.press("\x1b")  # leaves a text field
        time.sleep(1)
        terminal.press("2")
        terminal.wait_for(run_id)
        terminal.press("\x1b[F")
        time.sleep(1)
        process = psutil.Process(terminal.process.pid)
        told["quiet"] = in_ms(answers(terminal, min(10.0, seconds)))
        # in a process of its own, as an engine is
        fresh = multiprocessing.get_context("spawn")
        ended = fresh.Event()
        writer = fresh.Process(
            target=log_events, args=(folder / "store", run_id, rate, ended), daemon=True
        )
        writer.start()
        answers(terminal, seconds / 4)
        half, cpu = process.memory_info().rss, cpu_seconds(process)
        begun = time.perf_counter()
        told["busy"] = in_ms(answers(terminal, seconds * 3 / 4))
        spent = cpu_seconds(process) - cpu
        told["cpu_share"] = round(spent / (time.perf_counter() - begun), 2)
        told["memory_growth_mib"] = round((process.memory_info().rss - half) / (1 << 20), 1)
        ended.set()
        writer.join()
        told["events_logged"] = len(store.events(run_id))
    return told


def live(seconds: float, folder: Path) -> dict[str, object]:
    told: dict[str, object] = {"limit_share": 0.1, "limit_kb_per_second": 150}
    modiff = [sys.executable, "-P", "-m", "tui.cli"]
    environ = {**os.environ, **environment(folder)}
    with Terminal(
        [sys.executable, "-P", "-c", MODIFF], environment=environment(folder), folder=folder
    ) as terminal:
        steps = ("--set", f"scheduler.steps={STEPS}", "--detach")
        subprocess.run(
            [*modiff, "run", "micro", *steps],
            env=environ,
            cwd=folder,
            check=True,
            capture_output=True,
        )
        try:
            terminal.wait_for("Compose")
            terminal.press("\x1b")  # leaves a text field
            time.sleep(1)
            terminal.press("2")
            terminal.wait_for(f"of {STEPS} steps")
            first = steps_done(folder)
            told |= share(terminal, seconds)
            told["steps_per_second"] = round((steps_done(folder) - first) / seconds, 1)
        finally:
            subprocess.run(
                [*modiff, "engine", "stop"], env=environ, cwd=folder, capture_output=True
            )
    return told


def steps_done(folder: Path) -> int:
    with open_store(folder / "store") as store:
        [run] = store.runs(limit=1)
        return sum(isinstance(event, StepFinished) for _, event in store.events(run.id))


def log_steps(store_root: Path, run_id: str, rate: float, ended: Event) -> None:
    """`rate` steps a second of a run at work, each with its preview."""
    with open_store(store_root) as store, open_index(store_root) as index:
        begun = time.perf_counter()
        for number in range(1, STEPS + 1):
            if ended.wait(max(0.0, begun + number / rate - time.perf_counter())):
                return
            key = f"{run_id}-{number}"
            put_preview(index, key, Preview(5, 8, 8, random.randbytes(5 * 8 * 8 * 3)))
            digest = f"sha256:{number:064x}"
            store.append(run_id, [LinkStored("step", number - 1, key, digest, digest, "computed")])
            store.append(run_id, [an_event(4 * number - 4), an_event(4 * number - 3)])


def steps(seconds: float, rate: float, folder: Path) -> dict[str, object]:
    with open_store(folder / "store") as store, store.register_engine(ENGINE, pid=1):
        spec = load_preset("micro", [f"scheduler.steps={STEPS}"])
        run_id = store.enqueue(encode_spec(spec), preset="micro", output="video.mp4")
        store.lease(ENGINE)
        plan = PlanMade(0, STEPS, {"denoise": "compute", "decode": "compute"})
        store.append(run_id, [RunStarted(ENGINE, 1), plan, StageStarted("denoise")])
        with Terminal(
            [sys.executable, "-P", "-c", MODIFF], environment=environment(folder), folder=folder
        ) as terminal:
            terminal.wait_for("Compose")
            terminal.press("\x1b")  # leaves a text field
            fresh = multiprocessing.get_context("spawn")
            ended = fresh.Event()
            writer = fresh.Process(
                target=log_steps, args=(folder / "store", run_id, rate, ended), daemon=True
            )
            writer.start()
            terminal.press("2")
            terminal.wait_for(f"of {STEPS} steps")
            told = share(terminal, seconds)
            ended.set()
            writer.join()
    return {"steps_per_second": rate, "limit_share": 0.1, **told}


def share(terminal: Terminal, seconds: float) -> dict[str, float]:
    """What the app in a terminal takes of a core, and writes to it, from now on."""
    process = psutil.Process(terminal.process.pid)
    begun, terminal.written, before = time.perf_counter(), b"", cpu_seconds(process)
    settle(terminal, seconds)
    spent = time.perf_counter() - begun
    return {
        "cpu_share": round((cpu_seconds(process) - before) / spent, 3),
        "kb_per_second": round(len(terminal.written) / spent / 1000, 1),
    }


def idle(seconds: float, folder: Path) -> dict[str, object]:
    told: dict[str, object] = {"seconds": seconds, "limit_share": 0.02}
    with open_store(folder / "store") as store:
        for seed in range(200):
            run = record_run(store, micro(f"seed={seed}"), frames=wave(16, 32, 32))
        keys = [link.key for link in store.links_of(run.id) if link.stage == "video"]
        with open_index(store.root) as index:
            for key in keys:
                put_preview(index, key, Preview(16, 64, 64, random.randbytes(16 * 64 * 64 * 3)))
    for number, name in enumerate(TABS, start=1):
        with Terminal(
            [sys.executable, "-P", "-c", MODIFF], environment=environment(folder), folder=folder
        ) as terminal:
            terminal.wait_for("shipped with modiff" if number == 1 else "Compose")
            terminal.press(f"\x1b{number}")
            settle(terminal, 10.0)
            if name in ("live", "runs"):
                told[f"{name}, video playing"] = share(terminal, 10.0)
                settle(terminal, 10.0)
            told[name] = share(terminal, seconds)
            terminal.press("\x11")
    return told


def settle(terminal: Terminal, seconds: float) -> None:
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        terminal.read(0.05)


# Every screen and its panels, a comparison, a branch, a clean-up, help, the palette; esc leaves them.
USED = (
    *(
        "\x1b1",
        "\x1b[B",
        "\x1b[B",
        "\x1b",
        "\x1b2",
        "\x1b[D",
        "\x1b[D",
        "\x1b[C",
        "v",
        "\x1b",
        "z",
        "z",
    ),
    *(
        "\x1b3",
        "\x1b[B",
        "\x1b[B",
        "]",
        "]",
        "]",
        "m",
        "\x1b[B",
        "d",
        "\x1b",
        "m",
        "\x1b",
        "G",
        "\x1b[C",
    ),
    *(
        "G",
        "t",
        "t",
        "b",
        "\x1b",
        "\x1b4",
        "\x1b[B",
        "\x1b5",
        "t",
        "t",
        "t",
        "c",
        "\x1b",
        "\x1b6",
        "\x1b[B",
    ),
    *("?", "\x1b", "\x10", "\x1b"),
)


def used(seconds: float, folder: Path) -> dict[str, object]:
    with open_store(folder / "store") as store:
        for seed in range(20):
            record_run(store, micro(f"seed={seed}"), frames=wave(16, 32, 32))
    told: list[float] = []
    with Terminal(
        [sys.executable, "-P", "-c", MODIFF], environment=environment(folder), folder=folder
    ) as terminal:
        terminal.wait_for("shipped with modiff")
        process = psutil.Process(terminal.process.pid)
        begun, rounds = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            for key in USED:
                terminal.press(key)
                settle(terminal, 0.2)
            rounds += 1
            if time.perf_counter() - begun > 60.0 * len(told):
                told.append(round(process.memory_info().rss / (1 << 20), 1))
    return {"rounds": rounds, "mib_by_minute": told}


def in_ms(spent: list[float]) -> dict[str, float]:
    ordered = sorted(spent)
    return {
        "median": round(1000 * statistics.median(ordered), 1),
        "p95": round(1000 * ordered[int(0.95 * (len(ordered) - 1))], 1),
        "max": round(1000 * ordered[-1], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = ("start", "keys", "live", "steps", "idle", "used")
    parser.add_argument("what", choices=(*kinds, "all"), nargs="?", default="all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=int, default=2000)
    options = parser.parse_args()
    result: dict[str, object] = {}
    # what is killed may still write its byte code
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        if options.what in ("start", "all"):
            result["start"] = start(options.rounds, Path(scratch))
        if options.what in ("live", "all"):
            folder = Path(scratch) / "live"
            folder.mkdir()
            result["live"] = live(min(options.seconds, 20.0), folder)
        for name, measure in (
            ("steps", lambda folder: steps(options.seconds, 27.0, folder)),
            ("idle", lambda folder: idle(options.seconds, folder)),
            ("used", lambda folder: used(options.seconds, folder)),
        ):
            if options.what in (name, "all"):
                folder = Path(scratch) / name
                folder.mkdir()
                result[name] = measure(folder)
        if options.what in ("keys", "all"):
            result["keys"] = keys(options.seconds, options.rate, Path(scratch))
    # torch comes with it, for which the processes that write logs would wait
    from tests.benchmark.timing import show

    show(result)


if __name__ == "__main__":
    main()
