"""Which blocks stay on a device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.models.swap.residency import (
    NUM_SLOTS,
    device_bytes,
    in_memory,
    resident_blocks,
    room_of,
    slab_bytes,
    usual_work,
)

SIZES = st.lists(st.integers(1, 10**9), min_size=1, max_size=48)


def gaps(swapped: list[int], num_blocks: int) -> set[int]:
    """How far apart neighbours are, from the last to the first too."""
    following = [*swapped[1:], swapped[0] + num_blocks]
    return {after - before for before, after in zip(swapped, following, strict=True)}


@given(st.integers(1, 60), st.integers(0, 60))
def test_those_that_come_are_evenly_spaced(num_blocks: int, number: int) -> None:
    resident = resident_blocks(str(number), [1] * num_blocks, 0)
    swapped = sorted({*range(num_blocks)} - resident)
    if num_blocks - number <= NUM_SLOTS:
        assert not swapped  # in the slots they would take as much
        return
    assert len(resident) == number
    assert max(gaps(swapped, num_blocks)) - min(gaps(swapped, num_blocks)) <= 1


@given(SIZES, st.integers(0, 5 * 10**10))
def test_a_budget_holds_and_is_used(sizes: list[int], budget: int) -> None:
    setting = f"{budget / 1e9:.9f}"[:-6] + "GB"
    budget = round(float(setting[:-2]) * 1e9)
    least = device_bytes(sizes, frozenset())
    if budget < least:
        with pytest.raises(ValueError, match=r"expected at least [0-9.]+GB") as refused:
            resident_blocks(setting, sizes, 0)
        told = refused.value.args[0].split()[3].removesuffix("GB,")
        assert least <= round(float(told) * 1e9) < least + 10**6
        assert resident_blocks(f"{told}GB", sizes, 0) is not None
        return
    resident = resident_blocks(setting, sizes, 0)
    assert device_bytes(sizes, resident) <= budget
    if len(set(sizes)) == 1 and len(resident) < len(sizes):
        more = resident_blocks(str(len(resident) + 1), sizes, 0)
        assert device_bytes(sizes, more) > budget


@given(SIZES, st.integers(0, 5 * 10**10))
def test_auto_takes_the_room_for_a_budget_and_never_refuses(sizes: list[int], room: int) -> None:
    resident = resident_blocks("auto", sizes, room)
    least = device_bytes(sizes, frozenset())
    assert device_bytes(sizes, resident) <= max(room, least)
    if sum(sizes) <= room:
        assert len(resident) == len(sizes)


def test_all_and_more_than_all_stay() -> None:
    for setting in ("all", "3", "1", "900", "auto"):
        assert resident_blocks(setting, [5, 5, 5], 15) == {0, 1, 2}
    assert resident_blocks("0", [5, 5, 5], 15) == frozenset()


def test_slots_are_of_the_largest_block_that_comes() -> None:
    assert device_bytes([1, 2, 9, 4], frozenset({2})) == 9 + 2 * 4
    assert device_bytes([1, 2, 9, 4], frozenset({0, 1, 2})) == 12 + 4
    assert device_bytes([1, 2], frozenset({0, 1})) == 3


def test_room_is_a_share_of_what_is_free_less_the_work() -> None:
    # 14B on a card with 24 GB free: 19.2, less the other weights and some 5.4 for the work at 832x480
    assert 13.0e9 < room_of(24 * 10**9, 4 * 10**8, usual_work(5120)) < 13.5e9
    assert room_of(24 * 10**9, 4 * 10**8, 10**9) == 178 * 10**8
    assert room_of(10**9, 2 * 10**9, 0) == 0


@given(st.dictionaries(st.integers(0, 60), st.integers(1, 10**9)), st.integers(0, 3 * 10**10))
def test_memory_holds_as_many_of_those_that_come_as_it_has_room_for(
    sizes: dict[int, int], budget: int
) -> None:
    held = in_memory(sizes, budget)
    assert sum(sizes[block] for block in held) <= budget
    assert held == sorted(set(held))
    if len(set(sizes.values())) == 1 and len(held) < len(sizes):
        assert sum(sizes[block] for block in held) + max(sizes.values()) > budget


def test_between_those_that_are_read_are_as_many_from_memory() -> None:
    sizes = dict.fromkeys(range(0, 20, 2), 1)
    assert in_memory(sizes, 10) == [*sizes]
    assert in_memory(sizes, 5) == [0, 4, 8, 12, 16]
    assert in_memory(sizes, 0) == []


def test_parameters_of_a_block_are_aligned() -> None:
    assert slab_bytes([1, 256, 257, 0]) == 256 + 256 + 512
