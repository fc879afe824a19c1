"""What a weight file holds, as plain data: every format's directory in one form. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

# Bits of one number, by the dtype's name in the safetensors format.
ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip

# (bytes, weights) of one block, by the name of the GGUF block type; held to the gguf package's by a test
BLOCKS = {
    "Q4_0": (18, 32), "Q4_1": (20, 32), "Q5_0": (22, 32), "Q5_1": (24, 32), "Q8_0": (34, 32),
    "Q2_K": (84, 256), "Q3_K": (110, 256), "Q4_K": (144, 256), "Q5_K": (176, 256), "Q6_K": (210, 256),
    "IQ4_NL": (18, 32), "IQ4_XS": (136, 256),
}  # fmt: skip

# Two numbers of 4 bits in a byte, the first in the upper half. No file has such a dtype: its bytes have a note.
PAIRS = "F4_E2M1"

MAX_DIMENSIONS = 8
MAX_TENSORS = 16_384  # the largest published file of the family has 1,331
MAX_NAME_BYTES = 1024


# A change within one tick of the file system's clock (at most 10 ms) leaves a file's times as they are.
TICK_NS = 20_000_000


class Facts(NamedTuple):
    """What changes when a file does, whether it was rewritten or replaced. ctime_ns: also where its time was set back
    after that."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file.

    dtype: as the safetensors format spells it, or the name of a GGUF block type. shape: as torch has it,
    outermost axis first. start, stop: its bytes in `file`. strides: in elements, None where the numbers lie in
    the order of the shape without gaps. facts: of the file whose directory was read; None: of any.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    file: Path
    strides: tuple[int, ...] | None = None
    facts: Facts | None = None


@dataclass(frozen=True, slots=True)
class WeightFile:
    """The directory of one file. format: `safetensors`, `pth` or `gguf`. size: bytes of the file.

    metadata: the short texts that the file carries about itself, such as a `config`. note: what else it holds
    that is not read, one line.
    """

    path: Path
    format: str
    size: int
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str] = field(default_factory=dict)
    note: str = ""
