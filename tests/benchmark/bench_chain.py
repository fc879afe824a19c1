"""What the store costs and saves: replay, branch, the journal and the previews beside a run, and blobs against plain
files.

Micro runs are warm and in this process, one after another in turn, so that each sees the same load; medians of
paired rounds. The replay is the command itself, with the start of its process.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from engine import client
from engine.chain.journal import Entry, Journal
from engine.chain.previews import previewer_of
from engine.runner import Runner
from engine.schedulers.scheduler import create_scheduler
from presets.library.loading import load_preset
from store.blobs import blobs
from store.blobs.tensors import encoded_parts, get_tensors
from store.index.index import open_index
from store.index.previews import encode_preview, put_preview
from store.store import Store, open_store
from tests.benchmark import timing

ENGINE = "benchengine"
STEPS = 20
SEEDS = itertools.count(1)


class Bench:
    """A store, and a runner whose models are warm."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.runner = Runner(store)

    def fresh(self, *overrides: str) -> str:
        """A queued run of which nothing but its prompt is stored."""
        spec = load_preset("micro", [f"seed={next(SEEDS)}", *overrides])
        return client.submit(self.store, spec, output=str(self.folder / "{run}.mp4"))

    def branched(self, run_id: str, step: int, *overrides: str) -> str:
        output = str(self.folder / "{run}.mp4")
        return client.branch(self.store, run_id, at=step, overrides=overrides, output=output)

    def execute(self, run_id: str) -> float:
        """Wall seconds of the run that is first in the queue, from plan to written file."""
        from presets.encoding import decode_spec

        run = self.store.lease(ENGINE)
        assert run is not None
        assert run.id == run_id
        spec = decode_spec(run.spec_json)
        begun = time.perf_counter()
        output = self.runner.execute(
            run,
            spec,
            emit=lambda event: self.store.append(run.id, [event]),
            cancelled=lambda: self.store.cancel_requested(run.id),
            paused=lambda: self.store.pause_requested(run.id),
        )
        seconds = time.perf_counter() - begun
        self.store.finish(run.id, "done", output=output)
        return seconds

    def denoising(self, run_id: str) -> float:
        """Seconds of a run's denoising stage, what is rebuilt included."""
        return next(s.seconds for s in self.store.stages(run_id) if s.name == "denoise")


def replay(bench: Bench, rounds: int) -> dict[str, object]:
    """Wall seconds of `modiff replay RUN`, process start included; beside it, of Python starting alone."""
    run_id = bench.fresh()
    bench.execute(run_id)
    script = Path(sys.executable).with_name("modiff")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "tui.cli"]
    environment = {**os.environ, "MODIFF_STORE": str(bench.store.root)}

    def seconds(*arguments: str) -> float:
        begun = time.perf_counter()
        subprocess.run(arguments, env=environment, check=True, capture_output=True)
        return time.perf_counter() - begun

    again = str(bench.folder / "again.mp4")
    spent: dict[str, list[float]] = {"replay": [], "python": []}
    for _ in range(rounds):
        spent["replay"].append(
            seconds(*command, "replay", run_id, "--output", again, "--overwrite", "--quiet")
        )
        spent["python"].append(seconds(sys.executable, "-c", "pass"))
    return {"seconds": timing.medians(spent), "largest": round(max(spent["replay"]), 3)}


def branch(bench: Bench, rounds: int) -> dict[str, object]:
    """Denoising of a branch at a step against that of the whole run: ratio, and what exceeds (N-k)/N."""
    found: dict[str, object] = {}
    for step in (5, 10, 15):
        ratios = []
        for number in range(rounds + 1):
            whole = bench.fresh('output.kinds=["latents"]')
            bench.execute(whole)
            part = bench.branched(whole, step, f"guidance.scale={3 + number / 100}")
            bench.execute(part)
            if number:
                ratios.append(bench.denoising(part) / bench.denoising(whole))
        ratio = statistics.median(ratios)
        expected = (STEPS - step) / STEPS
        found[f"at {step} of {STEPS}"] = {
            "ratio": round(ratio, 3),
            "(N-k)/N": expected,
            "above it": round(ratio - expected, 3),
        }
    return found


def journal(bench: Bench, rounds: int) -> dict[str, object]:
    """A run that stores every step against one that stores none of them: wall and CPU seconds of the whole run."""
    spent: dict[str, list[float]] = {"every step": [], "none": []}
    cpu: dict[str, list[float]] = {"every step": [], "none": []}
    ways = {"every step": 1, "none": 0}
    for number in range(rounds + 1):
        order = list(ways) if number % 2 else list(reversed(ways))
        for way in order:
            run_id = bench.fresh(f"keep.every={ways[way]}")
            begun = time.process_time()
            seconds = bench.execute(run_id)
            if number:
                spent[way].append(seconds)
                cpu[way].append(time.process_time() - begun)
    return {
        "seconds": timing.medians(spent),
        "share": round(timing.ratio(spent, "every step", "none") - 1, 4),
        "share of medians": round(
            statistics.median(spent["every step"]) / statistics.median(spent["none"]) - 1, 4
        ),
        "share of fastest": round(min(spent["every step"]) / min(spent["none"]) - 1, 4),
        "cpu share": round(timing.ratio(cpu, "every step", "none") - 1, 4),
    }


def previews(bench: Bench, rounds: int) -> dict[str, object]:
    """The CPU time that the previews of a run take, beside it, as a share of its own; and CPU microseconds of one
    preview, made and stored. Timed in place: two runs differ by more than that."""
    keep = Journal._keep_preview
    total = 0.0

    def timed(journal: Journal, entry: Entry) -> None:
        nonlocal total
        begun = time.thread_time()
        keep(journal, entry)
        total += time.thread_time() - begun

    Journal._keep_preview = timed  # type: ignore[method-assign]
    spent: dict[str, list[float]] = {"run": [], "its previews": []}
    try:
        for number in range(rounds + 1):
            run_id = bench.fresh()
            total, begun = 0.0, time.process_time()
            bench.execute(run_id)
            if number:
                spent["run"].append(time.process_time() - begun)
                spent["its previews"].append(total)
    finally:
        Journal._keep_preview = keep  # type: ignore[method-assign]
    return {
        "cpu seconds": timing.medians(spent),
        "share": round(timing.ratio(spent, "its previews", "run"), 4),
        "cpu microseconds": {
            "micro, 16x5x8x8": one_preview(bench.store, "micro", 5, 8, 8),
            "480p, 16x21x60x104": one_preview(bench.store, "wan2.1", 21, 60, 104),
        },
    }


def one_preview(store: Store, whose: str, *size: int) -> dict[str, object]:
    """CPU microseconds of the clean latents, their colours, and storing them; bytes of the stored preview."""
    show = previewer_of({"latents_of": whose, "latent_channels": 16})
    assert show is not None
    scheduler = create_scheduler("unipc", num_steps=STEPS)
    before = scheduler.start(torch.randn(1, 16, *size))
    velocity = torch.randn(1, 16, *size)
    stages: dict[str, Callable[[], object]] = {}
    with open_index(store.root) as index:
        sigma = scheduler.sigmas[before.step]
        clean = before.latents - sigma * velocity
        preview = show(clean)
        stages["clean latents"] = lambda: before.latents - sigma * velocity
        stages["colours"] = lambda: show(clean)
        stages["store"] = lambda: put_preview(index, "k1:benchmark", preview)
        found: dict[str, object] = {name: cpu_microseconds(run) for name, run in stages.items()}
    return {**found, "bytes": len(encode_preview(preview))}


def cpu_microseconds(function: Callable[[], object], number: int = 50) -> int:
    """Of one call: the median of many."""
    spent = []
    for _ in range(number):
        begun = time.process_time()
        function()
        spent.append(time.process_time() - begun)
    return round(statistics.median(spent) * 1e6)


def throughput(folder: Path, rounds: int, num_mib: int) -> dict[str, object]:
    """Tensors of this size: a durable put against safetensors' writer with the same fsyncs, and a verified get against
    reading and hashing the same bytes."""
    root = folder / "blobs-store"
    with open_store(root):
        pass
    target = folder / "plain.safetensors"
    spent: dict[str, list[float]] = {
        name: [] for name in ("put", "save_file", "get", "get and decode", "read and hash")
    }

    def timed(name: str, function: Callable[[], object], *, counts: bool) -> object:
        begun = time.perf_counter()
        result = function()
        if counts:
            spent[name].append(time.perf_counter() - begun)
        return result

    for number in range(rounds + 1):
        counts = bool(number)
        tensor = torch.randn(num_mib * 2**18)
        digest = timed(
            "put", lambda t=tensor: blobs.put(root, *encoded_parts({"latents": t})), counts=counts
        )
        timed("save_file", lambda t=tensor: save_durably(t, target), counts=counts)
        path = blobs.blob_path(root, str(digest))
        reads: list[tuple[str, Callable[[], object]]] = [
            ("get", lambda d=digest: blobs.get(root, d)),
            ("read and hash", lambda p=path: hashlib.sha256(p.read_bytes()).digest()),
            ("get and decode", lambda d=digest: get_tensors(root, d)),
        ]
        for name, function in reads[number % 3 :] + reads[: number % 3]:
            timed(name, function, counts=counts)
        path.unlink()
        target.unlink()
    return {
        "MiB": num_mib,
        "seconds": timing.medians(spent),
        "put ratio": timing.ratio(spent, "put", "save_file"),
        "get ratio": timing.ratio(spent, "get", "read and hash"),
        "get and decode ratio": timing.ratio(spent, "get and decode", "read and hash"),
    }


def save_durably(tensor: torch.Tensor, target: Path) -> None:
    """safetensors' own writer with the fsyncs of a blob: of the file, and of the folder after the rename."""
    draft = target.with_suffix(".draft")
    save_file({"latents": tensor}, draft)
    _sync(draft)
    os.rename(draft, target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--case",
        choices=["replay", "branch", "journal", "previews", "throughput", "all"],
        default="all",
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="where the store lies; a disk, not memory")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-chain-", dir=options.folder or Path.cwd()))
    result: dict[str, object] = timing.settings(torch.get_num_threads())
    try:
        if options.case in ("throughput", "all"):
            result["throughput"] = throughput(folder, options.rounds, options.mib)
        with open_store(folder / "store") as store, store.register_engine(ENGINE, pid=os.getpid()):
            bench = Bench(store, folder)
            for case in (replay, branch, journal, previews):
                if options.case in (case.__name__, "all"):
                    result[case.__name__] = case(bench, options.rounds)
    finally:
        shutil.rmtree(folder)
    timing.show(result)


if __name__ == "__main__":
    main()
