"""Which blocks of a model stay on its device, and how many bytes of it that takes. Torch-free.

The others come into slots, each as large as the largest of them. Those that come are evenly spaced: a copy has the
blocks between two of them to hide behind, while the first or the last n in a row would come one after another and the
link to the device would rest for the remaining ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

NUM_SLOTS = 2
"""On a device: one is computed with while the next is filled."""

# Of what a block's parameters begin at in the memory that they share: that of a CUDA allocation, and enough for what
# any kernel asks of a pointer.
ALIGNMENT = 256

# What models may take of the memory that is free; the rest is for what allocators round up.
SHARE = 0.8
# What the work of a block takes for each token, in bytes for each of its channels, in 16 bits: as measured by dry runs
# of the published models at 832x480, 81 frames (22 for 14B, 31 for 1.3B).
_WORK_BYTES = 32
_TOKENS = 32_760  # of that size


def aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def slab_bytes(parameters: Iterable[int]) -> int:
    """Of a block, from the bytes of its parameters."""
    return sum(map(aligned, parameters))


def resident_blocks(setting: str, sizes: Sequence[int], room: int) -> frozenset[int]:
    """The blocks that stay, of blocks of these many bytes.

    setting: "all", a number, a budget as "6GB" (of 10^9 bytes, slots included) or "auto", which takes `room` for a
    budget. Where no more than `NUM_SLOTS` would come, all stay: it takes the same. Raises ValueError, one line with the
    least budget that would do, where a budget has no room for the slots.
    """
    if setting == "all":
        return frozenset(range(len(sizes)))
    if setting == "auto":
        return _within(max(room, device_bytes(sizes, frozenset())), sizes)
    if not setting.endswith("GB"):
        return _spread(len(sizes), int(setting))
    budget = round(float(setting.removesuffix("GB")) * 1e9)
    least = device_bytes(sizes, frozenset())
    if budget < least:
        raise ValueError(
            f"expected at least {-(-least // 10**6) / 1000:g}GB, {min(NUM_SLOTS, len(sizes))} slots of the largest "
            f"block, got {setting}"
        )
    return _within(budget, sizes)


def device_bytes(sizes: Sequence[int], resident: frozenset[int]) -> int:
    """What blocks take on their device: those that stay, and the slots for the others."""
    swapped = [size for i, size in enumerate(sizes) if i not in resident]
    slots = min(NUM_SLOTS, len(swapped)) * max(swapped, default=0)
    return sum(sizes) - sum(swapped) + slots


def room_of(free_bytes: int, other_bytes: int, work_bytes: int) -> int:
    """The budget of the blocks by "auto": a share of what is free, without the weights that are no blocks and what is
    worked on."""
    return max(0, int(SHARE * free_bytes) - other_bytes - work_bytes)


def usual_work(dim: int) -> int:
    """What a model of that width works on, where nobody has told."""
    return _WORK_BYTES * dim * _TOKENS


def in_memory(sizes: Mapping[int, int], budget: float) -> list[int]:
    """Those of the blocks that come which lie in memory meanwhile: as many as a budget holds, evenly spaced among those
    that are read from their file. sizes: by block."""
    blocks = sorted(sizes)
    counts = range(len(blocks), -1, -1)
    spread = ([blocks[i * len(blocks) // count] for i in range(count)] for count in counts)
    return next(each for each in spread if sum(sizes[block] for block in each) <= budget)


def _within(budget: int, sizes: Sequence[int]) -> frozenset[int]:
    """As many as a budget holds, which holds the slots."""
    counts = range(len(sizes), -1, -1)
    spread = (_spread(len(sizes), count) for count in counts)
    return next(each for each in spread if device_bytes(sizes, each) <= budget)


def _spread(num_blocks: int, num_resident: int) -> frozenset[int]:
    num_swapped = num_blocks - min(num_resident, num_blocks)
    if num_swapped <= NUM_SLOTS:
        return frozenset(range(num_blocks))
    swapped = {(2 * k + 1) * num_blocks // (2 * num_swapped) for k in range(num_swapped)}
    return frozenset(range(num_blocks)) - swapped
