"""Weights into memory: tensor by tensor, straight to the wanted device and dtype.

A tensor that already has the wanted dtype, stays on the CPU and is aligned as torch wants it is a view of a map of its
file: it costs no memory of this process and is read when it is first used. Everything else is converted, or copied, in
slices of some megabytes, so that loading needs the memory of the result and next to nothing beside it.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from engine.checkpoints.formats.reading import facts_at, opened, refusal, truncated
from engine.checkpoints.formats.table import BLOCKS, PAIRS, Facts, TensorInfo
from engine.checkpoints.known.recognise import compare, describe
from engine.checkpoints.layout import Entry
from engine.checkpoints.packing.quantised import Packing, dtype_fault
from engine.checkpoints.packing.unpacking import of_exponents, rotated_back, scaled, untiled
from engine.errors import CheckpointError
from engine.models.quantised.pairs import of_pairs

# How many stored bytes are converted at a time; with fewer, what it costs to begin shows.
SLICE_BYTES = 64 << 20
# What is packed becomes fp32 in several steps, in slices that caches hold: 1.3 to 2 times as fast as larger ones.
_PACKED_SHARE = 16

# Of torch's own tensors. CPU kernels take other ways through less aligned matrices and round differently, so that
# one model would give another video from a file with a longer header.
ALIGNMENT = 64

# a dtype's name in the safetensors format -> torch's
TORCH_DTYPES = {
    "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
# as a file holds them, where these are no numbers by themselves
_BYTES = {"U8": torch.uint8, "F8_E8M0": torch.uint8, PAIRS: torch.uint8}

# Linux does not reserve memory for a private map with this flag; without it a map larger than the machine's memory
# is refused. Python names it from 3.13 on.
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0


class Weights:
    """The entries of a checkpoint, readable. Use it in a `with`; what it handed out stays valid afterwards.

    Raises CheckpointError where a file cannot be opened, has changed since its directory was read, or holds a
    dtype that nothing here computes with.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries
        self._maps: dict[Path, mmap.mmap] = {}
        self._files: dict[Path, tuple[BufferedReader, Facts]] = {}
        self._open = ExitStack()
        for name, entry in entries.items():
            for part, packing in stored_parts(entry):
                if fault := dtype_fault(part, packing):
                    raise CheckpointError(f"{part.file}: {name} is {fault}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()
        if error is None:
            self.check_same()

    def check_same(self) -> None:
        """Raises CheckpointError where a file that was read from is not what it was."""
        for path, (_, facts) in self._files.items():
            _check_same(path, facts, facts_at(path))

    def tensor(
        self, name: str, *, device: torch.device, dtype: torch.dtype | None = None
    ) -> Tensor:
        """The tensor `name`, of its entry's shape, on `device`, in `dtype` or else in the dtype it is stored
        in (quantised ones: fp32). Values are those of the file times their scale, rounded once, to `dtype`."""
        entry = self.entries[name]
        if len(entry.parts) == 1 and not entry.packings and _is_plain(entry.parts[0]):
            part = entry.parts[0]
            is_wanted = dtype in (None, TORCH_DTYPES[part.dtype]) and device.type == "cpu"
            if is_wanted and part.start % ALIGNMENT == 0:
                return self._stored(part)
        result = torch.empty(entry.shape, device=device, dtype=dtype or natural_dtype(entry))
        self.into(name, result)
        return result

    def into(self, name: str, target: Tensor) -> None:
        """Fills `target`, which has the shape of the entry `name`, with what `tensor` gives in its dtype."""
        entry, row = self.entries[name], 0
        for part, packing in stored_parts(entry):
            rows = part.shape[0] if part.shape else 1
            of_part = target[row : row + rows] if len(entry.parts) > 1 else target
            if packing is None and _is_plain(part) and _holds_as_stored(of_part, part):
                self._read(part, part.start, of_part)
            else:
                self._convert(part, packing, partial(_copy, of_part))
            row += rows

    def stored_into(self, part: TensorInfo, target: Tensor) -> None:
        """Fills `target`, contiguous and of as many bytes, with what lies in the file."""
        if target.device.type == "cpu":
            self._read(part, part.start, target)
            return
        held = target.flatten().view(torch.uint8)
        for first in range(0, part.stop - part.start, SLICE_BYTES):
            some = torch.empty(min(SLICE_BYTES, len(held) - first), dtype=torch.uint8)
            self._read(part, part.start + first, some)
            held[first : first + len(some)].copy_(some)

    def stored_view(self, part: TensorInfo, dtype: torch.dtype) -> Tensor | None:
        """What lies in the file as numbers of a dtype, a view of a map; None where it is not aligned as torch's own."""
        if part.start % ALIGNMENT or part.start == part.stop:
            return None
        count = (part.stop - part.start) // dtype.itemsize
        held = self._whole_map(part)
        return torch.frombuffer(held, dtype=dtype, count=count, offset=part.start)

    def read(self, name: str, take: Callable[[TensorInfo, Tensor], None]) -> None:
        """Calls `take` with each part of an entry and its numbers, some rows at a time, in the dtype they are stored
        in (those with a scale, and quantised ones: fp32)."""
        for part, packing in stored_parts(self.entries[name]):
            self._convert(part, packing, partial(_hand_on, take, part))

    def _convert(
        self,
        part: TensorInfo,
        packing: Packing | None,
        take: Callable[[Any, Tensor], None],
    ) -> None:
        """Calls `take` with rows of `part` and their numbers, times their scale and rotated back."""
        if not part.shape or not math.prod(part.shape):
            values = self._stored(part, keep=False)
            take(..., values if packing is None else values.float() * self.number(packing.scale))
            return
        scales = None if packing is None else self.scales(part, packing)
        rows = part.shape[0]
        row_bytes = (part.stop - part.start) // rows
        is_packed = packing is not None or part.dtype in BLOCKS
        cost = _PACKED_SHARE * 4 * math.prod(part.shape[1:]) if is_packed else row_bytes
        step = max(1, SLICE_BYTES // max(1, cost))
        for first in range(0, rows, step):
            last = min(first + step, rows)
            values = self._rows(part, first, last)
            if packing is not None and scales is not None:
                values = scaled(values.float(), scales, packing, first)
            if packing is not None and packing.rotation:
                values = rotated_back(values, packing.rotation)
            take(slice(first, last), values)
            del values

    def scales(self, part: TensorInfo, packing: Packing) -> Tensor:
        """What the blocks of a part are multiplied by: fp32 [blocks downwards, blocks across]."""
        found = self.first_scales(part, packing)
        if packing.second_scale is not None:
            found = found * self.number(packing.second_scale)
        return found

    def first_scales(self, part: TensorInfo, packing: Packing) -> Tensor:
        """As `scales`, before these are multiplied by the second scale where there is one."""
        rows, columns = packing.block
        down = -(-part.shape[0] // rows) if rows else 1
        across = -(-part.shape[1] // columns) if columns else 1
        stored = self._stored(packing.scale, keep=False)
        if packing.is_tiled:
            stored = untiled(stored, down, across)
        found = of_exponents(stored) if packing.scale.dtype == "F8_E8M0" else stored.float()
        return found.reshape(down, across)

    def number(self, part: TensorInfo) -> Tensor:
        """The one number of a scale, fp32 of no axes."""
        return self._stored(part, keep=False).float().flatten()[0]

    def _rows(self, part: TensorInfo, first: int, last: int) -> Tensor:
        if part.dtype in BLOCKS:
            return self._dequantised(part, first, last)
        if part.strides is not None:
            return self._stored(part, keep=False)[first:last]
        row_bytes = (part.stop - part.start) // part.shape[0]
        dtype = _held_as(part.dtype)
        values = torch.empty(last - first, row_bytes // dtype.itemsize, dtype=dtype)
        self._read(part, part.start + first * row_bytes, values)
        return of_pairs(values) if part.dtype == PAIRS else values.view(-1, *part.shape[1:])

    def _dequantised(self, part: TensorInfo, first: int, last: int) -> Tensor:
        """Rows of a GGUF tensor in fp32, by the gguf package, the reference for these formats. A block may reach
        over the end of a row: some tensors were reshaped for the format."""
        import gguf

        block_bytes, block_weights = BLOCKS[part.dtype]
        row = math.prod(part.shape[1:])
        begin, end = first * row // block_weights, -(-last * row // block_weights)
        stored = torch.empty(end - begin, block_bytes, dtype=torch.uint8)
        self._read(part, part.start + begin * block_bytes, stored)
        values = gguf.quants.dequantize(stored.numpy(), gguf.GGMLQuantizationType[part.dtype])
        before = first * row - begin * block_weights
        numbers = torch.from_numpy(values).flatten()[before : before + (last - first) * row]
        return numbers.view(last - first, *part.shape[1:])

    def _stored(self, part: TensorInfo, *, keep: bool = True) -> Tensor:
        """The numbers of a plain tensor as they lie in the file: a view of a map that is kept, or their own."""
        if part.start == part.stop or not (keep or part.strides):
            numbers = torch.empty(part.shape, dtype=_held_as(part.dtype))
            self._read(part, part.start, numbers)
            return numbers
        flat = self._numbers(part, part.start, part.stop, keep=keep)
        return (
            flat.view(part.shape)
            if part.strides is None
            else flat.as_strided(part.shape, part.strides)
        )

    def _numbers(self, part: TensorInfo, start: int, stop: int, *, keep: bool) -> Tensor:
        """What lies between two offsets: a view of a map, or a copy where a view would not be aligned (files with
        unpadded headers, as before 2023)."""
        dtype = _held_as(part.dtype)
        held, offset = (self._whole_map(part), start) if keep else self._map(part, start, stop)
        if start % dtype.itemsize:
            return torch.frombuffer(bytearray(held[offset : offset + stop - start]), dtype=dtype)
        count = (stop - start) // dtype.itemsize
        return torch.frombuffer(held, dtype=dtype, count=count, offset=offset)

    def _whole_map(self, part: TensorInfo) -> mmap.mmap:
        """One for all views of a file: each takes a file descriptor as long as it lives."""
        held = self._maps.get(part.file)
        if held is None:
            held = self._maps[part.file] = self._map(part, 0, 0)[0]
        return held

    def _map(self, part: TensorInfo, start: int, stop: int) -> tuple[mmap.mmap, int]:
        """(a map of what lies between two offsets, where that begins in it); it is gone with what is made on it.
        One map for all would be left with what systems map around what is read, megabytes for each tensor."""
        base = start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        file = self._file(part)
        try:
            held = mmap.mmap(
                file.fileno(),
                stop - base,
                flags=mmap.MAP_PRIVATE | _NO_RESERVE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
                offset=base,
            )
        except (OSError, ValueError) as error:
            raise refusal(part.file, f"cannot be read ({error})") from None
        return held, start - base

    def _read(self, part: TensorInfo, start: int, target: Tensor) -> None:
        """Fills a contiguous tensor on the CPU with what lies in a file from an offset on. Not through a map, which
        ends this process where a file is cut off while it is read, and counts as memory of it."""
        file = self._file(part)
        end = start + target.nbytes
        left = target.flatten().view(torch.uint8).numpy().data
        try:
            file.seek(start)
            while left:
                done = file.readinto(left)
                if not done:
                    raise truncated(part.file, end - len(left), end)
                left = left[done:]
        except OSError as error:
            raise refusal(part.file, f"cannot be read ({error})") from None

    def _file(self, part: TensorInfo) -> BufferedReader:
        if part.file not in self._files:
            file, facts = self._open.enter_context(opened(part.file))
            _check_same(part.file, part.facts or facts, facts)
            self._files[part.file] = file, facts
        return self._files[part.file][0]


def match(
    module: nn.Module,
    weights: Weights,
    *,
    path: Path,
    dtype: torch.dtype,
    keeps_fp32: Callable[[str], bool] = lambda name: False,
    rename: Callable[[str], str] = lambda name: name,
) -> dict[str, str]:
    """Name of each parameter of `module`, which is on the meta device and stays there -> name of its entry. Each gets
    the dtype in which it will be held.

    path: what to name in errors. rename: original name -> module name. keeps_fp32: module names that stay fp32
    whatever `dtype` is. Raises CheckpointError naming missing, unexpected and misshapen tensors before any of
    them is read.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    targets = {rename(name): name for name in weights.entries}
    faults = compare({target: weights.entries[name] for target, name in targets.items()}, shapes)
    if any(faults):
        raise CheckpointError(f"{path}: does not fit {type(module).__name__}: {describe(*faults)}")
    for target in targets:
        wanted = torch.float32 if keeps_fp32(target) else dtype
        put(module, target, module.get_parameter(target).to(wanted))
    return targets


def fill(
    module: nn.Module,
    weights: Weights,
    *,
    path: Path,
    device: torch.device,
    dtype: torch.dtype,
    keeps_fp32: Callable[[str], bool] = lambda name: False,
    rename: Callable[[str], str] = lambda name: name,
) -> None:
    """Replaces every parameter of `module`, built on the meta device, by the entry of that name. As `match`."""
    targets = match(module, weights, path=path, dtype=dtype, keeps_fp32=keeps_fp32, rename=rename)
    for target, name in targets.items():
        empty = module.get_parameter(target)
        tensor = weights.tensor(name, device=device, dtype=empty.dtype)
        put(module, target, tensor.reshape(empty.shape))


def put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """`tensor` as the parameter of that name, which is never trained."""
    parent, _, leaf = name.rpartition(".")
    module.get_submodule(parent).register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))


def _hand_on(
    take: Callable[[TensorInfo, Tensor], None], part: TensorInfo, rows: Any, values: Tensor
) -> None:
    take(part, values)


def _copy(target: Tensor, rows: Any, values: Tensor) -> None:
    target[rows].copy_(values)


def _held_as(dtype: str) -> torch.dtype:
    return _BYTES.get(dtype) or TORCH_DTYPES[dtype]


def _holds_as_stored(tensor: Tensor, part: TensorInfo) -> bool:
    is_same = tensor.dtype == TORCH_DTYPES[part.dtype] and tensor.device.type == "cpu"
    return is_same and tensor.is_contiguous()


def _is_plain(part: TensorInfo) -> bool:
    return part.dtype in TORCH_DTYPES and part.strides is None


def natural_dtype(entry: Entry) -> torch.dtype:
    """The narrowest dtype that holds an entry's numbers as they are: the stored one, fp32 for squeezed ones."""
    dtypes = {part.dtype for part in entry.parts}
    if entry.packings or dtypes & BLOCKS.keys():
        return torch.float32
    if len(dtypes) == 1:
        return TORCH_DTYPES[dtypes.pop()]
    return torch.float64 if "F64" in dtypes else torch.float32


def stored_parts(entry: Entry) -> Iterator[tuple[TensorInfo, Packing | None]]:
    """Each part with how it is packed."""
    return zip(entry.parts, entry.packings or (None,) * len(entry.parts), strict=True)


def _check_same(path: Path, before: Facts, now: Facts) -> None:
    if now != before:
        raise CheckpointError(f"{path}: changed while it was being read; try again")
