"""Torch's own files (.pth, .pt, .ckpt): a zip archive of a pickle and of one member for each storage. Torch-free.

Where each tensor lies is read from the archive's directory and from the opcodes of `data.pkl`; the pickle itself
is never loaded, and a file that needs that is refused.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO

from engine.checkpoints.formats.reading import check_count, check_name, opened, refusal, shortened
from engine.checkpoints.formats.state_dict_pickle import (
    HoldsCode,
    NoWeights,
    StoredTensor,
    read_state_dict,
)
from engine.checkpoints.formats.table import ITEM_BITS, Facts, TensorInfo, WeightFile
from engine.checkpoints.formats.zip_directory import Member, data_start, read_directory

# A tensor takes 135 bytes of it; the largest published file has 1,331 tensors.
MAX_PICKLE_BYTES = 4 << 20


def read_pth(path: Path) -> WeightFile:
    """The directory of a dict of tensors that torch.save wrote, also where trainers put it inside of others.

    The bytes of a tensor with strides reach from its first number to its last.
    Raises CheckpointError, in one line with what to do, where the file is absent, unreadable, truncated,
    damaged, holds code, or is no such archive.
    """
    with opened(path) as (file, facts):
        size = facts.size
        try:
            members = read_directory(file, size)
            root = _root(members)
            _check_archive(file, members, root, size)
            pickled = _content(
                file, "data.pkl", members[f"{root}/data.pkl"], size, MAX_PICKLE_BYTES
            )
            stored, note = read_state_dict(pickled)
            check_count(len(stored))
            tensors = _place(path, file, facts, members, root, stored)
        except EOFError:
            reason = f"a zip archive without its end ({size:,} bytes are there): truncated; download it again"
            raise refusal(path, reason) from None
        except HoldsCode as error:
            reason = (
                f"it holds code ({error}), which is never run; convert it to safetensors where you trust it, "
                "or get another file of this model"
            )
            raise refusal(path, reason) from None
        except NoWeights as error:
            reason = f"a torch archive without weights ({error}); get another file of this model"
            raise refusal(path, reason) from None
        except _NotTorch as error:
            raise refusal(path, str(error)) from None
        except ValueError as error:
            raise refusal(path, f"damaged torch archive ({error}); download it again") from None
    return WeightFile(path, "pth", size, tensors, note=note)


class _NotTorch(Exception):
    """A whole archive, but not one of tensors; with what to do."""


def _root(members: dict[str, Member]) -> str:
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if not pickles:
        raise _NotTorch(
            f"an ordinary zip archive ({len(members):,} members, none of them torch's data.pkl), expected weights; "
            "unpack it and name the file inside"
        )
    if len(pickles) > 1:
        raise ValueError(f"{len(pickles)} members are called data.pkl")
    return pickles[0].partition("/")[0]


def _check_archive(file: BinaryIO, members: dict[str, Member], root: str, size: int) -> None:
    for name in members:
        parts = name.split("/")
        if parts[0] != root or ".." in parts or "\\" in name or not name.isprintable():
            raise ValueError(f"a member has the name {shortened(name)!r}")
    if f"{root}/constants.pkl" in members or any(
        name.startswith(f"{root}/code/") for name in members
    ):
        raise _NotTorch(
            "a TorchScript program, expected a dict of tensors; save its state_dict() as safetensors where you trust it"
        )
    order = members.get(f"{root}/byteorder")
    if order is not None and _content(file, "byteorder", order, size, 16) != b"little":
        raise _NotTorch(
            "saved on a big-endian machine; convert it to safetensors there, or get another file"
        )


def _content(file: BinaryIO, name: str, member: Member, size: int, limit: int) -> bytes:
    if member.size > limit:
        raise ValueError(f"{name} has {member.size:,} bytes, expected at most {limit:,}")
    file.seek(data_start(file, member, size))
    data = file.read(member.size)
    if len(data) < member.size:
        raise ValueError(f"{name} became shorter while it was read")
    return data


def _place(
    path: Path,
    file: BinaryIO,
    facts: Facts,
    members: dict[str, Member],
    root: str,
    stored: dict[str, StoredTensor],
) -> dict[str, TensorInfo]:
    starts: dict[str, int] = {}  # tied weights share a storage
    tensors: dict[str, TensorInfo] = {}
    for name, tensor in stored.items():
        check_name(name)
        member = members.get(f"{root}/data/{tensor.key}")
        if member is None:
            raise ValueError(f"the numbers of {shortened(name)} are not in it")
        span = _span(name, tensor, member)
        if tensor.key not in starts:
            starts[tensor.key] = data_start(file, member, facts.size)
        first = starts[tensor.key] + span[0]
        strides = None if _is_contiguous(tensor.shape, tensor.strides) else tensor.strides
        tensors[name] = TensorInfo(
            tensor.dtype, tensor.shape, first, first + span[1], path, strides, facts
        )
    return tensors


def _span(name: str, tensor: StoredTensor, member: Member) -> tuple[int, int]:
    """(where its first number begins in the member, bytes to the end of its last). Raises ValueError."""
    item = ITEM_BITS[tensor.dtype] // 8
    if tensor.storage_size * (1 if tensor.untyped else item) != member.size:
        raise ValueError(
            f"the storage of {shortened(name)} has {member.size:,} bytes, which is not what it says"
        )
    count = math.prod(tensor.shape)
    reach = (
        1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
        if count
        else 0
    )
    # a tensor that repeats its numbers has more of them than it stores, without limit
    if count > reach or (tensor.offset + reach) * item > member.size:
        raise ValueError(f"{shortened(name)} does not fit its storage")
    return tensor.offset * item, reach * item


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for n, step in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and step != expected:
            return 0 in shape
        expected *= n
    return True
