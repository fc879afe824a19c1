"""Whatever bytes a file has, its reader says what lies where in it, or refuses it in one line, and never else.

For longer than some seconds: `python -m tests.fuzz weights`.
"""

from __future__ import annotations

import io
import json
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import save

from engine.checkpoints.formats.gguf_file import read_gguf
from engine.checkpoints.formats.pth_file import read_pth
from engine.checkpoints.formats.reading import MAX_REASON
from engine.checkpoints.formats.safetensors_file import read_safetensors
from engine.checkpoints.formats.table import BLOCKS, ITEM_BITS, WeightFile
from engine.checkpoints.formats.weight_file import read_weight_file
from engine.errors import CheckpointError

EXAMPLES = 100
# CPU seconds for one file, which takes two thousandths: only what never ends, or nearly so, gets there.
MAX_SECONDS = 2.0
READERS = (read_safetensors, read_pth, read_gguf, read_weight_file)


def check(path: Path, content: bytes) -> bool:
    """Whether a reader took it."""
    path.write_bytes(content)
    return sum(check_reader(reader, path, len(content)) for reader in READERS) > 0


def check_reader(reader: Callable[[Path], WeightFile], path: Path, size: int) -> bool:
    begun, reason = time.process_time(), ""
    try:
        read = reader(path)
    except CheckpointError as error:
        reason = str(error)
    assert time.process_time() - begun < MAX_SECONDS
    if not reason:
        assert_inside(read, size)
        return True
    assert reason.startswith(f"{path}: ")
    assert reason.isprintable()
    assert len(reason) <= len(f"{path}: ") + MAX_REASON
    return False


def assert_inside(read: WeightFile, size: int) -> None:
    """All tensors lie in the file, and none claims more numbers than its bytes hold."""
    assert read.size == size
    for name, info in read.tensors.items():
        assert name
        assert name.isprintable()
        assert all(type(n) is int and n >= 0 for n in info.shape)
        assert 0 <= info.start <= info.stop <= size
        block_bytes, block = BLOCKS.get(info.dtype) or (ITEM_BITS[info.dtype] // 8, 1)
        stored = (info.stop - info.start) // block_bytes * block
        claimed = int(np.prod([int(n) for n in info.shape], dtype=object))
        assert claimed == stored if info.strides is None else claimed <= stored
    assert all(isinstance(text, str) for pair in read.metadata.items() for text in pair)


def fuzz(example: Callable[[st.DataObject], object]) -> None:
    """Runs a test on EXAMPLES examples, the same ones each time."""

    @seed(0)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def test(data: st.DataObject) -> None:
        example(data)

    test()


def valid_safetensors() -> bytes:
    tensors = {
        "a": torch.ones(2, 3),
        "b.weight": torch.ones(4, dtype=torch.bfloat16),
        "none": torch.empty(0),
    }
    return save(tensors, metadata={"config": "{}"})


def valid_pth() -> bytes:
    buffer = io.BytesIO()
    shared = torch.ones(3, 4)
    torch.save(
        {"a": shared, "b": shared.t(), "c": torch.ones(2, dtype=torch.float8_e4m3fn), "epoch": 1},
        buffer,
    )
    return buffer.getvalue()


def valid_gguf(folder: Path) -> bytes:
    writer = gguf.GGUFWriter(folder / "valid.gguf", "wan")
    writer.add_array("tokens", ["a", "bc", "def"])
    writer.add_array("comfy.gguf.orig_shape.a", [2, 16])
    writer.add_custom_alignment(16)
    writer.add_tensor("a", np.zeros((1, 32), dtype=np.float32))
    writer.add_tensor(
        "b", np.zeros((2, 34), dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (folder / "valid.gguf").read_bytes()


NUMBERS = st.sampled_from(
    [0, 1, 2, 7, 8, 31, 32, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 60, 1 << 63, (1 << 64) - 1]
)
WIDTHS = st.sampled_from(["<B", "<H", "<I", "<Q"])


def mutated(data: st.DataObject, valid: bytes) -> bytes:
    """A few changes of a valid file: bits, numbers of every width, cuts, copies, and bytes anywhere."""
    content = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(content) - 1)))
        match data.draw(
            st.sampled_from(["bit", "number", "truncate", "remove", "repeat", "insert", "append"])
        ):
            case "bit" if content:
                content[place] ^= 1 << data.draw(st.integers(0, 7))
            case "number":
                width = data.draw(WIDTHS)
                number = data.draw(NUMBERS) % (1 << 8 * struct.calcsize(width))
                content[place : place + struct.calcsize(width)] = struct.pack(width, number)
            case "truncate":
                del content[place:]
            case "remove":
                del content[place : place + data.draw(st.integers(1, 64))]
            case "repeat":
                piece = content[place : place + data.draw(st.integers(1, 200))]
                content[place:place] = piece * data.draw(st.integers(1, 3))
            case "insert":
                content[place:place] = data.draw(st.binary(max_size=20))
            case "append":
                content += data.draw(st.binary(max_size=40))
    return bytes(content)


@pytest.mark.parametrize("kind", ["safetensors", "pth", "gguf"])
def test_changed_files(tmp_path: Path, kind: str) -> None:
    make = {
        "safetensors": valid_safetensors,
        "pth": valid_pth,
        "gguf": lambda: valid_gguf(tmp_path),
    }
    valid = make[kind]()
    assert check(tmp_path / "f", valid)
    fuzz(lambda data: check(tmp_path / "f", mutated(data, valid)))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda values: (
        st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=4), values, max_size=4)
    ),
    max_leaves=8,
)
DIMS = st.lists(st.integers(-1, 4) | st.just(1 << 63), max_size=9) | JSON_VALUES
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*ITEM_BITS, "F4", "C64", "Q8_0"]) | JSON_VALUES,
        "shape": DIMS,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=1, max_size=3) | JSON_VALUES,
    },
)
TABLES = st.dictionaries(
    st.text(max_size=6) | st.just("__metadata__"), ENTRIES | JSON_VALUES, max_size=4
)

# the opcodes of protocol 2 that torch.save uses, with arguments, and pieces of what it writes
PICKLE_PIECES = st.sampled_from(
    [
        *(bytes([code]) for code in b"})](tuRbsaeQN.0l2\x85\x86\x87\x88\x89\x94\x93"),
        *(
            b"q\x00",
            b"q\x01",
            b"h\x00",
            b"h\x01",
            b"K\x00",
            b"K\x03",
            b"J\xff\xff\xff\xff",
            b"\x8a\x01\x7f",
            b"I1\n",
        ),
        *(b"X\x01\0\0\0" + letter for letter in (b"a", b"b", b"0", b"1", b"\xff")),
        b"X\x07\0\0\0storage",
        b"X\x03\0\0\0cpu",
        *(
            b"c" + name + b"\n"
            for name in (
                b"torch\nFloatStorage",
                b"torch.storage\nUntypedStorage",
                b"torch\nfloat8_e4m3fn",
                b"torch\nSize",
                b"collections\nOrderedDict",
                b"torch._utils\n_rebuild_tensor_v2",
                b"torch._utils\n_rebuild_tensor_v3",
                b"torch._utils\n_rebuild_parameter",
            )
        ),
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x0ctQ",
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x0ctQ"
        b"K\x00K\x03K\x04\x86K\x04K\x01\x86\x89NtR",
    ]
)


def test_tables_that_are_nearly_headers(tmp_path: Path) -> None:
    def example(data: st.DataObject) -> None:
        header = json.dumps(data.draw(TABLES | JSON_VALUES)).encode()
        rest = data.draw(st.binary(max_size=40))
        check(tmp_path / "f", struct.pack("<Q", len(header)) + header + rest)

    fuzz(example)


def test_pickles_that_nearly_make_sense(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(valid_pth())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def example(data: st.DataObject) -> None:
        pieces = data.draw(st.lists(PICKLE_PIECES, max_size=25))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in {
                **members,
                "archive/data.pkl": b"\x80\x02" + b"".join(pieces) + b".",
            }.items():
                archive.writestr(name, content)
        check(tmp_path / "f", buffer.getvalue())

    fuzz(example)


def test_any_bytes(tmp_path: Path) -> None:
    starts = [
        b"",
        b"GGUF\3\0\0\0",
        b"PK\x03\x04",
        b"PK\x05\x06",
        b"\x80\x02",
        b"\x10\0\0\0\0\0\0\0{",
    ]
    contents = st.tuples(st.sampled_from(starts), st.binary(max_size=300)).map(b"".join)
    fuzz(lambda data: check(tmp_path / "f", data.draw(contents)))
