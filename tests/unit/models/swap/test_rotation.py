"""The order of copies and waits, on two streams that take whatever time they take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from engine.models.swap.rotation import Rotation
from engine.models.swap.transfers import Copying, FromMemory


@dataclass
class Mark:
    """When everything before it in its stream is done."""

    time: float = 0.0


@dataclass
class Event:
    """As CUDA's: whoever waits for it waits for the last record before that."""

    last: Mark | None = None

    def record(self, stream: Stream) -> None:
        self.last = Mark(stream.time)

    def synchronize(self) -> None:
        raise AssertionError("the host waits")


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

    def computing(self) -> Stream:
        return self.main

    def event(self) -> Event:
        return Event()

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        self.current = stream
        yield
        self.current = None


@dataclass(frozen=True)
class Memory:
    """A block in memory."""

    block: int

    def __len__(self) -> int:
        return 1


@dataclass
class Slot:
    """written: (begin, end, block) of each copy into it; read: the same of each use."""

    streams: Streams
    seconds: Iterator[float]
    written: list[tuple[float, float, int]] = field(default_factory=list)
    read: list[tuple[float, float, int]] = field(default_factory=list)

    def __getitem__(self, part: slice) -> Slot:
        return self

    def copy_(self, memory: Memory, non_blocking: bool) -> None:
        assert non_blocking
        assert self.streams.current is self.streams.copying
        self.written.append((*self.streams.copying.work(next(self.seconds)), memory.block))

    def check(self) -> None:
        """Nothing is written while it is read or read while it is written, and what is read is what was asked for."""
        for begin, end, block in self.read:
            assert all(stop <= begin or start >= end for start, stop, _ in self.written)
            before = [held for _, stop, held in self.written if stop <= begin]
            assert before[-1] == block


def seconds(drawn: st.DataObject) -> Iterator[float]:
    while True:
        yield drawn.draw(st.sampled_from([0.01, 0.1, 1.0, 3.0, 20.0]))


def rotation(swapped: list[int], num_slots: int, times: Iterator[float]):
    streams = Streams()
    slots = [Slot(streams, times) for _ in range(num_slots)]
    slabs = {block: Memory(block) for block in swapped}
    transfers = FromMemory(slabs, Copying(slots, streams))  # type: ignore[arg-type]
    return Rotation(swapped, num_slots, transfers), slots, streams


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
    for without in left_out:
        for block in range(num_blocks):
            if block in without:
                continue
            if block not in swapped:
                streams.main.work(next(times))
                continue
            slot = turning.take(block)
            slots[slot].read.append((*streams.main.work(next(times)), block))
            turning.give_back(block)
    for slot in slots:
        slot.check()


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
