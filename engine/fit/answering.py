"""What runs take in memory, told line by line to a program that must not import torch itself.

    python -m engine.fit.answering STORE

Each line that comes in is `{"id": 1, "spec": {...}}`; each that goes out `{"id": 1, "devices": [...]}`, or
`{"id": 1, "error": "..."}`. Who asks again waits for no earlier answer: of the questions that came meanwhile only the
last has one. It ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from engine.fit.learned import Learned
    from engine.fit.work import Memory
    from presets.spec.run import RunSpec
    from store.store import Store


class Device(msgspec.Struct, frozen=True):
    """needed_bytes: what a run needs of a device at most, without models that need not stay. free_bytes: what is there
    for it, None where the device is not here. stage: the one that needs it."""

    name: str
    needed_bytes: int
    free_bytes: int | None
    stage: str


def devices_of(memory: Memory, learned: dict[str, Learned]) -> list[Device]:
    """Of each device that models are on, the stage that needs most of it."""
    from engine.fit.learned import Learned

    names = dict.fromkeys(use.device for use in memory.uses if use.weights_bytes)
    found = []
    for name in names:
        on_it = [use for use in memory.uses if use.device == name]
        most = max(on_it, key=lambda use: use.peak_bytes - use.kept_bytes)
        needed = learned.get(name, Learned()).needed(most.peak_bytes - most.kept_bytes)
        found.append(Device(name, needed, _free(name), most.stage))
    return found


def answer(store: Store, spec: RunSpec) -> list[Device]:
    """Raises as `engine.client.plan` and `engine.fit.dry_run.memory_of`."""
    from engine import client
    from engine.components.needed import ModelsAbsent
    from engine.fit.dry_run import memory_of
    from engine.fit.learned import learned
    from store.index.index import open_index

    try:
        plan = client.plan(store, spec)
    except ModelsAbsent:
        plan, _ = client.plan_unseen(store, spec)
    memory = memory_of(store, plan)
    with open_index(store.root) as index:
        return devices_of(memory, learned(index))


def main() -> None:
    from presets.spec.run import RunSpec
    from store.store import open_store

    os.nice(10)
    with open_store(Path(sys.argv[1])) as store:
        for line in newest(sys.stdin):
            asked = json.loads(line)
            told: dict[str, Any] = {"id": asked["id"]}
            try:
                devices = answer(store, msgspec.convert(asked["spec"], RunSpec))
                told["devices"] = msgspec.to_builtins(devices)
            except Exception as error:  # noqa: BLE001  # told to who asked; the next line is another run
                told["error"] = str(error).partition("\n")[0]
            sys.stdout.write(f"{json.dumps(told)}\n")
            sys.stdout.flush()


def newest(lines: Iterable[str]) -> Iterator[str]:
    """Lines as they come, each the last that is there: those before it that wait are left out."""
    waiting = SimpleQueue[str]()

    def read() -> None:
        for line in lines:
            waiting.put(line)
        waiting.put("")

    Thread(target=read, daemon=True).start()
    return _last_of_each(waiting)


def _last_of_each(waiting: SimpleQueue[str]) -> Iterator[str]:
    while line := waiting.get():
        while not waiting.empty():
            following = waiting.get()
            if not following:
                yield line
                return
            line = following
        yield line


def _free(device: str) -> int | None:
    if device == "cpu":
        import psutil

        return psutil.virtual_memory().available
    if not device.startswith("cuda"):
        return None
    import torch

    if int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        return None
    return torch.cuda.mem_get_info(torch.device(device))[0]


if __name__ == "__main__":
    main()
