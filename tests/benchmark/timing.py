"""Paired timing: all contestants in turn, round after round, so that each sees the same load.

CPU seconds of the own process (wall seconds on a GPU); the ratios are the result, seconds belong to the machine.
Peak memory is taken in a fresh process each, because a process never gives its peak back.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def seconds(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of every round, one untimed round first."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            begun = clock()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            if number:
                spent[name].append(clock() - begun)
    return spent


def ratio(spent: Mapping[str, list[float]], ours: str, peer: str) -> float:
    """Median over the rounds of ours / peer."""
    pairs = zip(spent[ours], spent[peer], strict=True)
    return round(statistics.median(a / b for a, b in pairs), 3)


def medians(spent: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 4) for name, values in spent.items()}


def peak_mib(prepare: Callable[..., Callable[[], object]], *arguments: object) -> float:
    """MiB of host memory that the callable made by `prepare(*arguments)` adds at its peak, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_peak, args=(sender, prepare, arguments))
    process.start()
    result: float = receiver.recv()
    process.join()
    return round(result, 1)


def _measure_peak(sender, prepare, arguments) -> None:
    run = prepare(*arguments)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here (Linux)
    before = _status("VmRSS")
    run()
    sender.send((_status("VmHWM") - before) / 1024)


def _status(field: str) -> int:
    """A field of this process's status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def settings(threads: int) -> dict[str, object]:
    return {
        "threads": threads,
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def show(result: Mapping[str, object]) -> None:
    print(json.dumps(result, indent=2))
