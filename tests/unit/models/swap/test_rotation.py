"""The order of copies and waits, on two streams that take whatever time they take."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.models.swap.rotation import Rotation
from engine.models.swap.transfers import Copying, FromBoth, FromMemory, ThroughMemory


@dataclass
class Mark:
    """When everything before it in its stream is done."""

    time: float = 0.0


@dataclass
class Event:
    """As CUDA's: whoever waits for it waits for the last record before that."""

    thread: Thread
    last: Mark | None = None

    def record(self, stream: Stream) -> None:
        self.last = Mark(stream.time)

    def synchronize(self) -> None:
        assert self.thread.is_at_work, "the host waits"
        self.thread.time = max(self.thread.time, self.last.time if self.last else 0.0)


@dataclass
class Stream:
    """Takes its work in order. time: when what was asked for so far is done."""

    time: float = 0.0

    def wait_event(self, event: Event) -> None:
        self.time = max(self.time, event.last.time if event.last else 0.0)

    def work(self, seconds: float) -> tuple[float, float]:
        begin, self.time = self.time, self.time + seconds
        return begin, self.time


@dataclass
class Streams:
    copying: Stream = field(default_factory=Stream)
    main: Stream = field(default_factory=Stream)
    current: Stream | None = None
    are_two: bool = True
    thread: Thread = field(default_factory=lambda: Thread())

    def computing(self) -> Stream:
        return self.main

    def event(self) -> Event:
        return Event(self.thread)

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        self.current = stream
        if self.thread.is_at_work:
            stream.time = max(stream.time, self.thread.time)
        yield
        self.current = None


@dataclass
class Place:
    """Where a block may lie. written: (begin, end, block) of each copy into it; read: the same of each use."""

    written: list[tuple[float, float, int]] = field(default_factory=list)
    read: list[tuple[float, float, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return 1

    def check(self) -> None:
        """Nothing is written while it is read or read while it is written, and what is read is what was asked for."""
        for begin, end, block in self.read:
            assert all(stop <= begin or start >= end for start, stop, _ in self.written)
            before = [held for _, stop, held in self.written if stop <= begin]
            assert before[-1] == block


@dataclass
class Slot(Place):
    streams: Streams = field(default_factory=Streams)
    seconds: Iterator[float] = field(default_factory=lambda: iter(lambda: 1.0, None))

    def __getitem__(self, part: slice) -> Slot:
        return self

    def copy_(self, memory: Place, non_blocking: bool) -> None:
        assert non_blocking
        assert self.streams.current is self.streams.copying
        begin, end = self.streams.copying.work(next(self.seconds))
        block = memory.written[-1][2]
        memory.read.append((begin, end, block))
        self.written.append((begin, end, block))


@dataclass
class Thread:
    """Takes its work in order, some of it when it is asked for and some much later. time: when what it has begun is
    done."""

    time: float = 0.0
    is_at_work: bool = False
    waiting: list[Asked] = field(default_factory=list)
    at_once: Iterator[bool] = field(default_factory=lambda: iter(lambda: True, None))

    def submit(self, do: Callable[..., None], *given: int) -> Asked:
        asked = Asked(self, partial(do, *given))
        self.waiting.append(asked)
        self.some()
        return asked

    def some(self) -> None:
        while self.waiting and next(self.at_once):
            self.one()

    def one(self) -> None:
        self.is_at_work = True
        self.waiting.pop(0).do()
        self.is_at_work = False


@dataclass(eq=False)
class Asked:
    """As a future; who asks for its result waits for it."""

    thread: Thread
    do: Callable[[], None]

    def result(self) -> None:
        while self in self.thread.waiting:
            self.thread.one()

    exception = result

    def cancel(self) -> bool:
        self.thread.some()  # it may have begun
        if self not in self.thread.waiting:
            return False
        self.thread.waiting.remove(self)
        return True


def seconds(drawn: st.DataObject) -> Iterator[float]:
    while True:
        yield drawn.draw(st.sampled_from([0.01, 0.1, 1.0, 3.0, 20.0]))


def rotation(swapped: list[int], num_slots: int, times: Iterator[float]):
    streams = Streams()
    slots = [Slot(streams=streams, seconds=times) for _ in range(num_slots)]
    transfers = FromMemory(in_memory(swapped), Copying(slots, streams))  # type: ignore[arg-type]
    return Rotation(swapped, num_slots, transfers), slots, streams


def in_memory(blocks: Collection[int]) -> dict[int, Any]:
    return {block: Place([(0.0, 0.0, block)]) for block in blocks}


def computed(
    turning: Rotation,
    slots: list[Slot],
    streams: Streams,
    times: Iterator[float],
    calls: list[list[int]],
    swapped: Collection[int],
) -> None:
    for blocks in calls:
        for block in blocks:
            if block not in swapped:
                streams.main.work(next(times))
                continue
            slot = turning.take(block)
            slots[slot].read.append((*streams.main.work(next(times)), block))
            turning.give_back(block)


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))
    ),
    st.integers(1, 4),
    st.lists(st.sets(st.integers(0, 11)), min_size=1, max_size=4),
    st.data(),
)
def test_no_slot_is_overwritten_before_its_reader_is_done(
    blocks: tuple[int, set[int]], num_slots: int, left_out: list[set[int]], drawn: st.DataObject
) -> None:
    """left_out: of each call, what is not asked for, as where a branch goes without some blocks."""
    num_blocks, swapped = blocks
    times = seconds(drawn)
    turning, slots, streams = rotation(sorted(swapped), num_slots, times)
    calls = [[block for block in range(num_blocks) if block not in each] for each in left_out]
    computed(turning, slots, streams, times, calls, swapped)
    for slot in slots:
        slot.check()


@given(
    st.integers(1, 10).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))),
    st.integers(1, 3),
    st.lists(st.sets(st.integers(0, 9)), min_size=1, max_size=4),
    st.data(),
)
def test_nor_where_some_blocks_come_from_memory_and_others_by_a_thread(
    blocks: tuple[int, set[int]], num_slots: int, left_out: list[set[int]], drawn: st.DataObject
) -> None:
    num_blocks, held = blocks
    times, streams = seconds(drawn), Streams()
    streams.thread.at_once = iter(lambda: drawn.draw(st.booleans()), None)
    slots = [Slot(streams=streams, seconds=times) for _ in range(num_slots)]
    pieces = [Place() for _ in slots]

    def fill(block: int, piece: Place) -> None:
        begin = streams.thread.time
        streams.thread.time += next(times)
        piece.written.append((begin, streams.thread.time, block))

    copying: Any = Copying(slots, streams)  # type: ignore[arg-type]
    transfers = FromBoth(
        held,
        FromMemory(in_memory(held), copying),
        ThroughMemory(pieces, copying, fill, streams.thread),  # type: ignore[arg-type]
    )
    turning = Rotation([*range(num_blocks)], num_slots, transfers)
    calls = [[block for block in range(num_blocks) if block not in each] for each in left_out]
    computed(turning, slots, streams, times, calls, range(num_blocks))
    while streams.thread.waiting:
        streams.thread.one()
    for place in (*slots, *pieces):
        place.check()


@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3))
def test_in_order_each_block_comes_once_for_each_call(
    num_blocks: int, num_slots: int, calls: int
) -> None:
    turning, slots, _ = rotation([*range(num_blocks)], num_slots, iter(lambda: 1.0, None))
    for _ in range(calls):
        for block in range(num_blocks):
            turning.take(block)
            turning.give_back(block)
    copies = sum(len(slot.written) for slot in slots)
    if num_blocks <= num_slots:
        assert copies == num_blocks
    else:
        assert copies == calls * num_blocks + num_slots  # those for the next call are under way


@pytest.mark.parametrize("has_begun", [False, True])
def test_what_the_thread_has_still_to_send_does_not_come_over_what_is_in_memory(
    has_begun: bool,
) -> None:
    """Of a block that was left out."""
    streams = Streams()
    streams.thread.at_once = iter([False, has_begun, False])
    slot, piece = Slot(streams=streams), Place()
    copying: Any = Copying([slot], streams)  # type: ignore[list-item,arg-type]

    def fill(block: int, piece: Place) -> None:
        piece.written.append((0.0, 0.0, block))

    through: Any = ThroughMemory([piece], copying, fill, streams.thread)  # type: ignore[list-item,arg-type]
    transfers = FromBoth([1], FromMemory(in_memory([1]), copying), through)
    transfers.send(0, 0)
    transfers.send(1, 0)
    for _ in [*streams.thread.waiting]:
        streams.thread.one()
    transfers.receive(0)
    assert [block for _, _, block in slot.written][-1] == 1


def test_the_next_block_comes_while_one_is_computed_with() -> None:
    """Copies of 1 s and blocks of 2 s, one of three resident: after the first copy the device never waits."""
    turning, slots, streams = rotation([0, 1, 3, 4], 2, iter(lambda: 1.0, None))
    for block in [0, 1, 2, 3, 4, 5] * 3:
        if block in (2, 5):
            streams.main.work(2.0)
            continue
        slot = turning.take(block)
        slots[slot].read.append((*streams.main.work(2.0), block))
        turning.give_back(block)
    assert streams.main.time == 1.0 + 3 * 6 * 2.0


def test_what_could_not_be_sent_is_sent_again() -> None:
    class Failing:
        def __init__(self) -> None:
            self.sent: list[int] = []

        def send(self, block: int, slot: int) -> None:
            self.sent.append(block)

        def receive(self, slot: int) -> None:
            if self.sent.count(0) == 1:
                raise OSError("not read")

        def free(self, slot: int) -> None: ...

    failing = Failing()
    turning = Rotation([0, 1, 2], 2, failing)
    try:
        turning.take(0)
    except OSError:
        turning.take(0)
    assert failing.sent == [0, 1, 0]
