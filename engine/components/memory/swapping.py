"""Block swap of a denoiser that is read from files: which of its blocks stay, and where the others come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.errors import ComponentError
from engine.models.swap.residency import (
    device_bytes,
    in_memory,
    resident_blocks,
    room_of,
    slab_bytes,
    usual_work,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from engine.checkpoints.held.kept import InUse
    from engine.checkpoints.held.packed import Filling
    from engine.models.diffusion.wandit import WanDiT
    from engine.models.swap.sources import Reading, Source

KEY = "components.denoiser.resident_blocks"

# What of the memory that is free blocks may lie in, pinned: some systems pin no more than half of all.
_HOST_SHARE = 0.5


def device_bytes_of(spec: Any, sizes: Mapping[str, int]) -> tuple[int, int]:
    """(what a model takes on its device whose weights take these many bytes, by name; what its blocks take that come
    for each call). With "auto" at most, since what is
    free is found out when it is loaded; with a budget that is too small for the slots as much as they need.
    Torch-free."""
    setting = getattr(spec, "resident_blocks", "all")
    if setting == "all":
        return sum(sizes.values()), 0
    others, slabs = _parted(sizes)
    stay = frozenset() if refusal(spec, sizes) else resident_blocks(setting, slabs, sum(slabs))
    moved = sum(size for i, size in enumerate(slabs) if i not in stay)
    return others + device_bytes(slabs, stay), moved


def refusal(spec: Any, sizes: Mapping[str, int]) -> str:
    """Why a model of these sizes cannot be held so; empty where it can. Torch-free."""
    setting = getattr(spec, "resident_blocks", "all")
    try:
        resident_blocks(setting, _parted(sizes)[1], 0)
    except ValueError as error:
        return str(error)
    return ""


def _parted(sizes: Mapping[str, int]) -> tuple[int, list[int]]:
    """(bytes of what is in no block, of each block)."""
    others, blocks = 0, dict[int, list[int]]()
    for name, size in sizes.items():
        i = _block_of(name)
        if i is None:
            others += size
        else:
            blocks.setdefault(i, []).append(size)
    return others, [slab_bytes(blocks[i]) for i in sorted(blocks)]


def staying(
    model: WanDiT, setting: str, device: torch.device, work_bytes: int | None = None
) -> frozenset[int]:
    """The blocks that stay on a device, of a model on the meta device with the dtypes in which it is held. work_bytes:
    what it is about to take beside its weights, None where nobody knows. Raises ComponentError where the budget has no
    room for the slots."""
    from engine.models.swap.slabs import slab_of

    sizes = [slab_of(block).num_bytes for block in model.blocks]
    parameters = model.named_parameters()
    others = sum(parameter.nbytes for name, parameter in parameters if _block_of(name) is None)
    work = usual_work(model.config.dim) if work_bytes is None else work_bytes
    room = room_of(_free_bytes(device), others, work) if setting == "auto" else 0
    return _resident(setting, sizes, room)


def fill(
    model: WanDiT,
    resident: frozenset[int],
    device: torch.device,
    filling: Filling,
    in_use: InUse | None = None,
) -> None:
    """Puts on the device what stays there, and has the other blocks come. No file stays open or mapped. in_use: of the
    files."""
    import torch

    from engine.checkpoints.load import put
    from engine.models.swap.slabs import slab_of
    from engine.models.swap.swap import Swap

    slabs = {i: slab_of(block) for i, block in enumerate(model.blocks) if i not in resident}

    @contextmanager
    def reading() -> Iterator[Callable[[int, Tensor], None]]:
        with filling.reopened() as again:

            def block_into(i: int, memory: Tensor) -> None:
                for name, target in slabs[i].views(memory).items():
                    again.into(f"blocks.{i}.{name}", target)
                again.weights.check_same()

            yield block_into

    for name, empty in list(model.named_parameters()):
        if _block_of(name) not in slabs:
            target = torch.empty(empty.shape, dtype=empty.dtype, device=device)
            filling.into(name, target)
            put(model, name, target)
    sizes = {i: slab.num_bytes for i, slab in slabs.items()}
    source = _source(device, sizes, reading)
    model.swap = Swap(model.blocks, resident, device, source, in_use)


def _source(
    device: torch.device,
    sizes: Mapping[int, int],
    reading: Reading,
) -> Source:
    import torch

    from engine.models.swap.sources import Both, Files, HostMemory

    files = Files(reading, device)
    budget = _HOST_SHARE * _free_bytes(torch.device("cpu"))
    held = in_memory(sizes, budget) if device.type == "cuda" else []
    if not held:
        return files
    slabs = {i: torch.empty(sizes[i], dtype=torch.uint8) for i in held}
    with reading() as block_into:
        for i, slab in slabs.items():
            block_into(i, slab)
    memory = HostMemory(slabs, device)
    return memory if len(held) == len(sizes) else Both(memory, files)


def _resident(setting: str, sizes: list[int], room: int) -> frozenset[int]:
    try:
        return resident_blocks(setting, sizes, room)
    except ValueError as error:
        raise ComponentError(str(error), key=KEY) from None


def _block_of(name: str) -> int | None:
    """Of a parameter, counted from 0; None of what is in no block."""
    first, _, rest = name.partition(".")
    return int(rest.partition(".")[0]) if first == "blocks" else None


def _free_bytes(device: torch.device) -> int:
    import psutil
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # what the allocator holds and has given nobody
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available
