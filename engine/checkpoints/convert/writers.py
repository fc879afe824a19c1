"""Weights onto a disk, tensor by tensor, whole or not at all.

Everything is written beside its place under a name that no reader takes, made durable, and renamed into place.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints.formats.table import BLOCKS, ITEM_BITS
from engine.checkpoints.load import ALIGNMENT
from engine.errors import CheckpointError
from store.blobs.leavings import in_use, sweep_leavings

Shape = tuple[int, ...]
Read = Callable[[str], Tensor]
"""name -> the tensor to write under it, on the CPU, contiguous, in the dtype that was announced."""

_SAFETENSORS_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int32: "I32", torch.int64: "I64",
    torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Planned:
    """One tensor to be written. dtype: a torch dtype's safetensors name, or a GGUF block type."""

    name: str
    dtype: str
    shape: Shape

    @property
    def num_bytes(self) -> int:
        count = math.prod(self.shape)
        if self.dtype in BLOCKS:
            block_bytes, block_weights = BLOCKS[self.dtype]
            return count // block_weights * block_bytes
        return count * ITEM_BITS[self.dtype] // 8


@contextmanager
def whole_or_nothing(target: Path) -> Iterator[Path]:
    """A path to write a file or folder to; it becomes `target` at the end, and vanishes on any error.

    Raises CheckpointError where `target` is there already or cannot be written.
    """
    if os.path.lexists(target):
        raise CheckpointError(
            f"{target}: is there already; name another target, nothing is ever overwritten"
        )
    sweep_leavings(target.parent)
    # hidden: no search for models finds it
    draft = target.with_name(f".modiff-{uuid.uuid4().hex}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # to read back what was written may take hours
        with in_use(draft):
            yield draft
            _sync(draft)
            if os.path.lexists(target):
                raise CheckpointError(
                    f"{target}: appeared while it was being written; nothing was overwritten"
                )
            draft.rename(target)
        _fsync(target.parent)
    except OSError as error:
        raise CheckpointError(f"{target}: cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


def write_safetensors(
    path: Path,
    tensors: Sequence[Planned],
    read: Read,
    *,
    metadata: Mapping[str, str] | None = None,
    later: Collection[str] = (),
) -> None:
    """A safetensors file: its header first, then one tensor after the other. later: the names of those that are read
    after the others."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    # all that keeps its successor aligned first: then large models can be mapped instead of read
    ordered = sorted(
        tensors,
        key=lambda t: (t.name in later, t.num_bytes % ALIGNMENT != 0, -ITEM_BITS[t.dtype], t.name),
    )
    for tensor in ordered:
        end = offset + tensor.num_bytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered:
            file.write(_bytes(read(tensor.name), tensor).data)


def write_sharded(
    folder: Path, stem: str, tensors: Sequence[Planned], read: Read, *, shard_bytes: int
) -> None:
    """`<stem>.safetensors`, or as many `<stem>-0000n-of-0000m.safetensors` as are needed, with their index."""
    shards: list[list[Planned]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.num_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.num_bytes
    if len(shards) == 1:
        write_safetensors(folder / f"{stem}.safetensors", tensors, read, metadata={"format": "pt"})
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / name, shard, read, metadata={"format": "pt"})
        places |= {tensor.name: name for tensor in shard}
    total = sum(tensor.num_bytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    write_json(folder / f"{stem}.safetensors.index.json", index)


def write_pth(path: Path, tensors: Sequence[Planned], read: Read) -> None:
    """What `torch.save` makes of a dict of tensors; all of them are held at once."""
    whole = {tensor.name: read(tensor.name) for tensor in tensors}
    with path.open("xb") as file:
        try:
            torch.save(whole, file)
        except RuntimeError as error:
            # what the disk said, which torch puts an assertion of its own in the place of
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def write_gguf(
    path: Path,
    tensors: Sequence[Planned],
    read: Read,
    *,
    architecture: str,
    metadata: Mapping[str, str],
    tokenizer: Mapping[str, Any],
) -> None:
    """A GGUF file, by the gguf package's own writer and quantisation. tokenizer: what goes under `tokenizer.ggml.`."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, architecture)
    for key, text in metadata.items():
        writer.add_string(key, text)
    for key, value in tokenizer.items():
        _add(writer, f"tokenizer.ggml.{key}", value)
    kinds = {tensor.name: gguf.GGMLQuantizationType[tensor.dtype] for tensor in tensors}
    for tensor in tensors:
        kind = kinds[tensor.name]
        row = tensor.num_bytes // math.prod(tensor.shape[:-1])
        writer.add_tensor_info(
            tensor.name, (*tensor.shape[:-1], row), np.dtype(np.uint8), tensor.num_bytes, kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        values = read(tensor.name)
        data = values.numpy() if tensor.dtype in BLOCKS else _bytes(values, tensor).reshape(1, -1)
        if tensor.dtype in BLOCKS:
            data = gguf.quants.quantize(data, kinds[tensor.name])
        writer.write_tensor_data(data)
    writer.close()


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def quantised_and_back(values: Tensor, dtype: str) -> Tensor:
    """fp32 values as they read after having been stored in a GGUF block type, by the gguf package."""
    import gguf

    kind = gguf.GGMLQuantizationType[dtype]
    return torch.from_numpy(
        gguf.quants.dequantize(gguf.quants.quantize(values.numpy(), kind), kind)
    )


def write_json(path: Path, table: Mapping[str, object]) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(json.dumps(table, indent=2, ensure_ascii=False) + "\n")


def dtype_name(dtype: torch.dtype) -> str:
    """How the safetensors format spells a torch dtype."""
    return _SAFETENSORS_NAMES[dtype]


def _bytes(values: Tensor, tensor: Planned) -> Any:
    """The numbers as bytes; checked against what was announced, since offsets were written by it."""
    if dtype_name(values.dtype) != tensor.dtype or math.prod(values.shape) != math.prod(
        tensor.shape
    ):
        raise ValueError(
            f"{tensor.name} is {values.dtype} {list(values.shape)}, announced as {tensor}"
        )
    return values.contiguous().flatten().view(torch.uint8).numpy()


def _sync(path: Path) -> None:
    """Makes a file, or a folder and the files in it, durable."""
    for each in (*path.iterdir(), path) if path.is_dir() else (path,):
        _fsync(each)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
