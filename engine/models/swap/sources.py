"""Where the blocks that come lie meanwhile: in memory of this process, or in their file alone."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

from engine.models.swap.rotation import Transfers
from engine.models.swap.transfers import (
    Copying,
    Fill,
    FromBoth,
    FromFile,
    FromMemory,
    Streams,
    ThroughMemory,
    streams_of,
)

log = logging.getLogger(__name__)

_PORTABLE = 1  # pinned for every device, cudaHostRegisterPortable

Reading = Callable[[], AbstractContextManager[Fill]]
"""Opens the files of a model, for as long as blocks are read."""


class Source(Protocol):
    told: str
    """Where the blocks lie, in a few words."""

    def transfers(self, slots: Sequence[Tensor]) -> AbstractContextManager[Transfers]:
        """Of a part of a run; nothing is under way after it."""
        ...


class Files:
    """Blocks are read anew for each call."""

    told = "from the file"

    def __init__(self, reading: Reading, device: torch.device) -> None:
        self._reading = reading
        self.device = device

    @contextmanager
    def transfers(self, slots: Sequence[Tensor]) -> Iterator[Transfers]:
        if self.device.type == "cpu":
            with self._reading() as fill, _one_thread() as thread:
                yield FromFile(slots, fill, thread)
            return
        with self.through_memory(Copying(slots, streams_of(self.device))) as transfers:
            yield transfers

    @contextmanager
    def through_memory(self, copying: Copying) -> Iterator[ThroughMemory]:
        # what ends first stands last: the thread, then what it asked for, then the memory that this is read from
        with (
            _between(copying.slots, self.device) as memory,
            _awaited(copying.streams),
            self._reading() as fill,
            _one_thread() as thread,
        ):
            yield ThroughMemory(memory, copying, fill, thread)


class HostMemory:
    """Blocks are held in memory of this process, pinned as far as the system allows, so that a device takes them by
    itself."""

    def __init__(self, slabs: Mapping[int, Tensor], device: torch.device) -> None:
        self.slabs = dict(slabs)
        self._device = device
        pinned = 0
        for slab in self.slabs.values():
            unpin = pin(slab)
            pinned += len(slab) if slab.is_pinned() else 0
            # before the memory itself goes
            weakref.finalize(self, unpin)
        num_bytes = sum(map(len, self.slabs.values()))
        self.told = f"{num_bytes / 1e9:.1f} GB pinned"
        if pinned < num_bytes:
            self.told = f"{num_bytes / 1e9:.1f} GB in memory, {pinned / 1e9:.1f} of them pinned"
            log.warning("block swap: %s, the system pins no more; copies take longer", self.told)

    @contextmanager
    def transfers(self, slots: Sequence[Tensor]) -> Iterator[Transfers]:
        streams = streams_of(self._device)
        with _awaited(streams):
            yield FromMemory(self.slabs, Copying(slots, streams))


class Both:
    """Blocks of which memory has not room for all: the others are read anew for each call."""

    def __init__(self, memory: HostMemory, files: Files) -> None:
        self._memory, self._files = memory, files
        self.told = f"{len(memory.slabs)} from memory, {memory.told}, the others {files.told}"

    @contextmanager
    def transfers(self, slots: Sequence[Tensor]) -> Iterator[Transfers]:
        slabs, copying = self._memory.slabs, Copying(slots, streams_of(self._files.device))
        with self._files.through_memory(copying) as through:
            yield FromBoth(slabs, FromMemory(slabs, copying), through)


class Nothing:
    """For a model without numbers: nothing comes, and its slots hold nothing."""

    told = "nothing"

    @contextmanager
    def transfers(self, slots: Sequence[Tensor]) -> Iterator[Transfers]:
        yield _Still()


class _Still:
    def send(self, block: int, slot: int) -> None: ...

    def receive(self, slot: int) -> None: ...

    def free(self, slot: int) -> None: ...


def pin(memory: Tensor) -> Callable[[], object]:
    """Pins memory where it lies, and gives what takes that back. Where the system refuses it stays as it was.

    Not `pin_memory`, which would copy it into a piece of the next power of two.
    """
    cudart = torch.cuda.cudart()
    pointer = memory.data_ptr()
    if int(cudart.cudaHostRegister(pointer, memory.nbytes, _PORTABLE)):
        _forget_error(memory)
        return lambda: None
    return lambda: cudart.cudaHostUnregister(pointer)


def _forget_error(memory: Tensor) -> None:
    """CUDA tells a refusal once more, at the next kernel, whoever's that is."""
    try:
        torch.zeros(1, device="cuda").add_(1)
        torch.cuda.synchronize()
    except RuntimeError as error:
        log.info("%.1f GB were not pinned: %s", memory.nbytes / 1e9, str(error).splitlines()[0])


@contextmanager
def _between(slots: Sequence[Tensor], device: torch.device) -> Iterator[list[Tensor]]:
    """As much memory of this process as there is in the slots, pinned where the device is one of CUDA."""
    memory = [torch.empty(len(slot), dtype=torch.uint8) for slot in slots]
    pinned = [pin(each) for each in memory] if device.type == "cuda" else []
    try:
        yield memory
    finally:
        for unpin in pinned:
            unpin()


@contextmanager
def _one_thread() -> Iterator[ThreadPoolExecutor]:
    """Its work ends with the block: what was not begun is left out, what was begun is waited for."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="blocks")
    try:
        yield thread
    finally:
        thread.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _awaited(streams: Streams) -> Iterator[None]:
    """Copies that are under way at the end are waited for, so that slots and slabs may go."""
    try:
        yield
    finally:
        if streams.are_two:
            streams.copying.synchronize()
