"""How blocks come into slots: from memory by a second stream of the device, or from their file by a thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

Fill = Callable[[int, Tensor], None]
"""Reads a block into memory of this process: uint8, as long as its slab."""


class Streams(Protocol):
    """Two queues of work on a device, each in its order: what is computed, and what is copied."""

    copying: Any
    # whether a copy is only asked for, and goes on by itself
    are_two: bool

    def computing(self) -> Any: ...

    def event(self) -> Any:
        """With `record(stream)` and, for the host, `synchronize()`; streams have `wait_event(event)`. Both wait for
        what was recorded last before they were called."""
        ...

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """What is asked for in it is of this stream."""
        ...


class CudaStreams:
    are_two = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.copying = torch.cuda.Stream(device)

    def computing(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self._device)

    def event(self) -> torch.cuda.Event:
        return torch.cuda.Event()

    def on(self, stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
        return torch.cuda.stream(stream)


class OneStream:
    """Of a device that does one thing after another, copies with whoever asks for them waiting."""

    are_two = False

    def __init__(self) -> None:
        self.copying = _Ordered()

    def computing(self) -> _Ordered:
        return self.copying

    def event(self) -> _Ordered:
        return self.copying

    def on(self, stream: _Ordered) -> AbstractContextManager[Any]:
        return nullcontext()


class _Ordered:
    """The stream and every event of it: what is in order waits for nothing."""

    def wait_event(self, event: _Ordered) -> None: ...

    def record(self, stream: _Ordered) -> None: ...

    def synchronize(self) -> None: ...


def streams_of(device: torch.device) -> Streams:
    return CudaStreams(device) if device.type == "cuda" else OneStream()


class Copying:
    """The second stream's part of a transfer. Each slot has two events: `ready`, recorded where it is copied into and
    waited for where it is computed with, and `free`, the other way round. The host waits for neither."""

    def __init__(self, slots: Sequence[Tensor], streams: Streams) -> None:
        self.slots = slots
        self.streams = streams
        self._ready = [streams.event() for _ in slots]
        self._free = [streams.event() for _ in slots]
        for slot in range(len(slots)):
            self.free(slot)  # what its memory was used for before

    def copy(self, slab: Tensor, slot: int) -> None:
        copying = self.streams.copying
        with self.streams.on(copying):
            copying.wait_event(self._free[slot])
            self.slots[slot][: len(slab)].copy_(slab, non_blocking=self.streams.are_two)
            self._ready[slot].record(copying)

    def wait(self, slot: int) -> None:
        self.streams.computing().wait_event(self._ready[slot])

    def free(self, slot: int) -> None:
        self._free[slot].record(self.streams.computing())


class FromMemory:
    """slabs: by block, in memory of this process, best pinned."""

    def __init__(self, slabs: dict[int, Tensor], copying: Copying) -> None:
        self._slabs = slabs
        self._copying = copying

    def send(self, block: int, slot: int) -> None:
        self._copying.copy(self._slabs[block], slot)

    def receive(self, slot: int) -> None:
        self._copying.wait(slot)

    def free(self, slot: int) -> None:
        self._copying.free(slot)


class FromFile:
    """A thread reads one block after another: into the slots themselves, where the CPU computes, which is done with a
    slot before it frees it."""

    def __init__(self, slots: Sequence[Tensor], fill: Fill, thread: ThreadPoolExecutor) -> None:
        self._slots = slots
        self._fill = fill
        self._thread = thread
        self._sent: dict[int, Future[None]] = {}

    def send(self, block: int, slot: int) -> None:
        self._sent[slot] = self._thread.submit(self._fill, block, self._slots[slot])

    def receive(self, slot: int) -> None:
        self._sent[slot].result()

    def free(self, slot: int) -> None:
        pass


class ThroughMemory:
    """A thread reads one block after another into two pieces of memory by turns, and sends them on from there."""

    def __init__(
        self, memory: Sequence[Tensor], copying: Copying, fill: Fill, thread: ThreadPoolExecutor
    ) -> None:
        self._memory = memory
        self._copying = copying
        self._fill = fill
        self._thread = thread
        self._emptied = [copying.streams.event() for _ in memory]
        self._turn = 0
        self._sent: dict[int, Future[None]] = {}

    def send(self, block: int, slot: int) -> None:
        self._sent[slot] = self._thread.submit(self._pass_on, block, slot)

    def receive(self, slot: int) -> None:
        self._sent[slot].result()
        self._copying.wait(slot)

    def free(self, slot: int) -> None:
        self._copying.free(slot)

    def forget(self, slot: int) -> None:
        """What was sent into a slot and not received does not come into it any more, or is asked for already."""
        sent = self._sent.pop(slot, None)
        if sent is not None and not sent.cancel():
            sent.exception()

    def _pass_on(self, block: int, slot: int) -> None:
        turn, self._turn = self._turn, (self._turn + 1) % len(self._memory)
        self._emptied[turn].synchronize()  # the thread waits, not who computes
        self._fill(block, self._memory[turn])
        self._copying.copy(self._memory[turn], slot)
        self._emptied[turn].record(self._copying.streams.copying)


class FromBoth:
    """Some blocks from memory, the others through it from their file."""

    def __init__(self, held: Collection[int], memory: FromMemory, file: ThroughMemory) -> None:
        """held: the blocks in memory. Both copy by one `Copying`."""
        self._held = held
        self._memory = memory
        self._file = file
        self._sent: dict[int, FromMemory | ThroughMemory] = {}

    def send(self, block: int, slot: int) -> None:
        self._sent[slot] = self._memory if block in self._held else self._file
        if block in self._held:
            self._file.forget(slot)  # the thread would copy over it
        self._sent[slot].send(block, slot)

    def receive(self, slot: int) -> None:
        self._sent[slot].receive(slot)

    def free(self, slot: int) -> None:
        self._sent[slot].free(slot)
