"""GGUF headers: the gguf package writes them, reads them, and says how large its blocks are."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from engine.checkpoints.formats.gguf_file import TYPES, read_gguf
from engine.checkpoints.formats.table import BLOCKS, ITEM_BITS
from engine.errors import CheckpointError
from tests.counting import bytes_read
from tests.weights.model_files import write_umt5_vocabulary

PLAIN = ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")


def save(
    path: Path,
    tensors: dict[str, tuple[str, tuple[int, ...]]],
    *,
    alignment: int = 32,
    **keys: object,
) -> Path:
    """name -> (type, shape in torch's order), random bytes; keys: name__of__it=value."""
    writer = gguf.GGUFWriter(path, "wan")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    for name, value in keys.items():
        key = name.replace("__", ".")
        adders = {
            str: writer.add_string,
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
        }
        adders.get(type(value), writer.add_array)(key, value)
    generator = np.random.default_rng(0)
    for name, (dtype, shape) in tensors.items():
        kind = gguf.GGMLQuantizationType[dtype]
        block, num_bytes = gguf.GGML_QUANT_SIZES[kind]
        row = (*shape[:-1], shape[-1] // block * num_bytes) if shape else (num_bytes,)
        writer.add_tensor(name, generator.integers(0, 256, row, dtype=np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def assert_same(path: Path) -> None:
    content, read = path.read_bytes(), read_gguf(path)
    reader = gguf.GGUFReader(path)
    assert list(read.tensors) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        info = read.tensors[tensor.name]
        assert info.dtype == tensor.tensor_type.name
        assert info.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert (info.start, info.stop) == (tensor.data_offset, tensor.data_offset + tensor.n_bytes)
        assert content[info.start : info.stop] == tensor.data.tobytes()


@pytest.mark.parametrize("alignment", [8, 32, 256])
def test_every_type_with_its_shape_and_bytes(tmp_path: Path, alignment: int) -> None:
    shapes = {
        name: (name, (3, 2 * gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][0]))
        for name in BLOCKS
    }
    shapes |= {name: (name, (3, 5)) for name in PLAIN}
    shapes |= {"patch_embedding.weight": ("F32", (8, 4, 1, 2, 2)), "bias": ("F16", (7,))}
    path = save(tmp_path / "all.gguf", shapes, alignment=alignment)
    assert_same(path)
    read = read_gguf(path)
    assert (read.format, read.size) == ("gguf", path.stat().st_size)
    assert read.tensors["patch_embedding.weight"].shape == (8, 4, 1, 2, 2)


def test_blocks_and_types_are_those_of_the_package() -> None:
    sizes = {
        kind.name: (num_bytes, block) for kind, (block, num_bytes) in gguf.GGML_QUANT_SIZES.items()
    }
    assert {name: sizes[name] for name in BLOCKS} == BLOCKS
    assert {name: (ITEM_BITS[name] // 8, 1) for name in PLAIN} == {
        name: sizes[name] for name in PLAIN
    }
    known = {kind.value: kind.name for kind in gguf.GGMLQuantizationType}
    assert {number: known[number] for number in TYPES} == TYPES


def test_metadata_is_the_short_values(tmp_path: Path) -> None:
    path = save(
        tmp_path / "keys.gguf",
        {"w": ("F32", (1,))},
        general__name="Wan ü",
        long="x" * 70_000,
        count=7,
        yes=True,
        ratio=0.5,
        tokenizer__ggml__tokens=["a", "bc", ""],
        scores=[0.5, 1.5],
        sizes=[1, 2, 3],
    )
    read = read_gguf(path)
    assert read.metadata == {
        "general.architecture": "wan",
        "general.name": "Wan ü",
        "count": "7",
        "yes": "true",
    }
    assert_same(path)


def test_a_reshaped_tensor_gets_its_shape_back(tmp_path: Path) -> None:
    shape = {"comfy__gguf__orig_shape__w": [8, 4, 1, 2, 2], "comfy__gguf__orig_shape__v": [5, 5]}
    path = save(tmp_path / "shapes.gguf", {"w": ("F16", (32, 4)), "v": ("F16", (4, 5))}, **shape)
    tensors = read_gguf(path).tensors
    assert tensors["w"].shape == (8, 4, 1, 2, 2)
    assert tensors["v"].shape == (4, 5)  # 25 numbers would not be its own


def test_version_2_and_other_versions(tmp_path: Path) -> None:
    path = save(tmp_path / "w.gguf", {"w": ("Q8_0", (2, 32))})
    content = path.read_bytes()
    path.write_bytes(content[:4] + struct.pack("<I", 2) + content[8:])
    assert_same(path)
    for version, message in (
        (1, "of version 1, expected 2 or 3"),
        (4, "of version 4"),
        (3 << 24, "a big-endian GGUF"),
    ):
        path.write_bytes(content[:4] + struct.pack("<I", version) + content[8:])
        with pytest.raises(CheckpointError, match=message):
            read_gguf(path)


def test_unused_types_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "w.gguf", {"blocks.0.w": ("IQ2_XXS", (1, 256))})
    with pytest.raises(
        CheckpointError, match=r"blocks\.0\.w has the GGUF type IQ2_XXS, which published Wan files"
    ):
        read_gguf(path)


def test_a_vocabulary_is_stepped_over(tmp_path: Path) -> None:
    """The tokenizer of UMT5, 256,384 texts and scores: nothing is made of them, and nothing is read twice."""
    path = write_umt5_vocabulary(tmp_path / "umt5.gguf")
    tracemalloc.start()
    try:
        read, num_bytes = bytes_read(lambda: read_gguf(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read.metadata == {"general.name": "umt5-xxl"}
    assert read.tensors["w"].stop == path.stat().st_size
    assert num_bytes < 1.1 * path.stat().st_size
    assert peak < 4 << 20  # the window that it reads through, twice; as texts they would take 13 MB


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def header(*keys: bytes, tensors: tuple[bytes, ...] = ()) -> bytes:
    return (
        b"GGUF"
        + struct.pack("<IQQ", 3, len(tensors), len(keys))
        + b"".join(keys)
        + b"".join(tensors)
    )


def record(name: bytes, *dims: int, kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(tensors=(record(b"w", 1), record(b"w", 1, offset=32))), "w is there twice"),
        (
            header(tensors=(record(b"w", 9), record(b"v", 1, offset=32))),
            "v shares bytes with another tensor",
        ),
        (header(tensors=(record(b"w", 33, kind=8),)), "rows of w are no whole blocks of Q8_0"),
        (header(tensors=(record(b"w", kind=8),)), "rows of w are no whole blocks of Q8_0"),
        (header(tensors=(record(b"w", *[1] * 9),)), "w has 9 axes, expected at most 8"),
        (header(tensors=(record(b"w", 1, kind=77),)), "w has the GGUF type number 77"),
        (
            header(tensors=(record(b"w", 1, offset=1 << 40),)),
            r"truncated, it has [\d,]+ of 1,099,511,627,\d+ bytes",
        ),
        (header(tensors=(record(b"w", 1 << 62, 1 << 62),)), "truncated, it has"),
        (header(tensors=(record(b"\x1b[2J", 1),)), "a tensor has the name"),
        (header(tensors=(record(b"", 1),)), "a tensor has the name"),
        (header(tensors=(record(b"\xff", 1),)), "damaged GGUF header"),
        (
            header(text(b"a") + struct.pack("<IB", 0, 1), text(b"a") + struct.pack("<IB", 0, 1)),
            "key a is there twice",
        ),
        (header(text(b"a") + struct.pack("<I", 13)), "a has a value of the unknown kind 13"),
        (header(text(b"a") + struct.pack("<IIQ", 9, 9, 1)), "a has a value of the unknown kind 9"),
        (header(text(b"general.alignment") + struct.pack("<II", 4, 24)), "an alignment of 24"),
        (header(text(b"general.alignment") + struct.pack("<II", 4, 0)), "an alignment of 0"),
        (
            header(text(b"general.alignment") + struct.pack("<I", 8) + text(b"x")),
            "damaged GGUF header",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0),
            "it names 1,152,921,504,606,846,976 tensors, expected at most",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "metadata keys, expected at most"),
        (b"GGUF", "truncated in its header, it has 4 bytes"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0), "truncated in its header, it has 24 bytes"),
    ],
)
def test_what_lies_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "lies.gguf"
    path.write_bytes(content + (b"" if "truncated" in message else bytes(256)))
    with pytest.raises(CheckpointError, match=message):
        read_gguf(path)
