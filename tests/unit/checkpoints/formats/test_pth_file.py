"""Torch archives: torch.load(weights_only=True) is the oracle of names, shapes, dtypes and bytes."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.checkpoints.formats.pth_file import read_pth
from engine.checkpoints.formats.table import TensorInfo
from engine.checkpoints.source import open_source
from engine.errors import CheckpointError

SAFETENSORS_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.uint16: "U16",
    torch.int32: "I32", torch.uint32: "U32", torch.int64: "I64", torch.uint64: "U64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e8m0fnu: "F8_E8M0",
    torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
}  # fmt: skip
TORCH_DTYPES = {name: dtype for dtype, name in SAFETENSORS_NAMES.items()}


def tensor_of(info: TensorInfo) -> torch.Tensor:
    """What the record says, read by offsets alone."""
    data = bytearray(info.file.read_bytes()[info.start : info.stop])
    if not data:
        return torch.empty(info.shape, dtype=TORCH_DTYPES[info.dtype])
    numbers = torch.frombuffer(data, dtype=torch.uint8).view(TORCH_DTYPES[info.dtype])
    if info.strides is None:
        return numbers.reshape(info.shape)
    return numbers.as_strided(info.shape, info.strides)


def assert_same(path: Path, wrapper: str | None = None) -> None:
    loaded = torch.load(path, weights_only=True)
    assert_holds(path, loaded[wrapper] if wrapper else loaded)


def assert_holds(path: Path, content: dict[str, object]) -> None:
    expected = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    read = read_pth(path)
    assert (read.format, read.size) == ("pth", path.stat().st_size)
    assert list(read.tensors) == list(expected)
    for name, info in read.tensors.items():
        tensor = expected[name]
        assert (info.dtype, info.shape) == (SAFETENSORS_NAMES[tensor.dtype], tuple(tensor.shape))
        assert (info.strides is None) == tensor.is_contiguous()
        if info.strides is not None:
            assert info.strides == tensor.stride()
        else:
            assert info.stop - info.start == tensor.nbytes
        assert torch.equal(
            tensor_of(info).reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)
        )


def various() -> dict[str, torch.Tensor]:
    base = torch.arange(120.0).reshape(2, 3, 4, 5)
    tensors = {
        str(dtype): torch.arange(24).reshape(2, 3, 4).to(dtype) for dtype in SAFETENSORS_NAMES
    }
    return tensors | {
        "view": base[1],
        "transposed": base.transpose(1, 3),
        "every second": base[:, ::2, 1:3],
        "channels last": torch.arange(120.0)
        .reshape(2, 3, 4, 5)
        .to(memory_format=torch.channels_last),
        "scalar": torch.tensor(3.0)[None][0],
        "one in a row": torch.arange(10)[7],
        "empty": torch.empty(0, 3),
        "empty view": base[:0].transpose(0, 1),
        "ones": torch.ones(1, 3, 1).transpose(0, 2),
        "tied": base,
        "ünï code": torch.ones(2, dtype=torch.float8_e5m2)[1:],
    }


def test_every_dtype_and_view(tmp_path: Path) -> None:
    path = tmp_path / "all.pth"
    torch.save(various(), path)
    assert_same(path)


@pytest.mark.parametrize("protocol", [4, 5])
def test_newer_pickle_protocols(tmp_path: Path, protocol: int) -> None:
    """Which torch.load(weights_only=True) refuses: the tensors that were saved are the oracle."""
    path = tmp_path / "new.pth"
    torch.save(various(), path, pickle_protocol=protocol)
    assert_holds(path, various())


def test_tied_weights_share_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "tied.pth"
    shared = torch.arange(6.0)
    torch.save({"a": shared, "b": shared, "c": shared.view(2, 3)[1]}, path)
    tensors = read_pth(path).tensors
    assert tensors["a"].start == tensors["b"].start
    assert tensors["c"].start == tensors["a"].start + 12
    assert_same(path)


def test_state_dicts_of_modules(tmp_path: Path) -> None:
    """An OrderedDict with _metadata, parameters, buffers and integers."""
    path = tmp_path / "module.pth"
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Conv3d(1, 2, 3))
    torch.save(module.state_dict(), path)
    assert_same(path)
    torch.save(OrderedDict(module.named_parameters()), path)
    assert_same(path)
    assert "2.weight" in read_pth(path).tensors


@pytest.mark.parametrize(
    "wrapper",
    [
        "model_state",
        "state_dict",
        "model",
        "module",
        "generator",
        "ema",
        "model_ema",
        "generator_ema",
    ],
)
def test_wrappers(tmp_path: Path, wrapper: str) -> None:
    path = tmp_path / "wrapped.pth"
    rest = {
        "epoch": 3,
        "loss": 0.5,
        "name": "x",
        "done": True,
        "none": None,
        "shape": torch.Size([2]),
        "big": 1 << 40,
    }
    torch.save(
        {**rest, "list": [1, [2]], "state": {0: 1}, wrapper: {**various(), "version": 2}}, path
    )
    assert_same(path, wrapper)


def test_a_wrapper_in_a_wrapper(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": {"state_dict": various(), "step": 3}, "optimizer": {"state": {}}}, path)
    assert_holds(path, torch.load(path, weights_only=True)["model"]["state_dict"])
    assert read_pth(path).note == ""


def test_which_of_several_is_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    ones, twos = {"w": torch.ones(2)}, {"w": torch.full((2,), 2.0)}
    torch.save({"generator_ema": twos, "generator": ones, "critic": twos}, path)
    assert_holds(path, ones)
    assert read_pth(path).note == "of its generator and generator_ema, generator is read"
    assert open_source(path).note == read_pth(path).note


def test_a_dict_that_holds_itself_ends(tmp_path: Path) -> None:
    outer: dict[str, object] = {}
    outer["model"] = outer
    torch.save(outer, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="no tensors in it"):
        read_pth(tmp_path / "w.pth")


def test_other_values_beside_tensors_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "flat.pth"
    torch.save({"weight": torch.ones(2), "epoch": 3, "model": {"depth": 2}}, path)
    assert list(read_pth(path).tensors) == ["weight"]


def test_members_beyond_four_gibibytes(tmp_path: Path) -> None:
    """zip64, as the 11 GB text encoder needs it: the archive is made by hand around a hole in the file."""
    small, path = io.BytesIO(), tmp_path / "large.pth"
    torch.save({"a": torch.arange(3.0), "b": torch.arange(5.0)}, small)
    with (
        zipfile.ZipFile(small) as members,
        path.open("wb") as file,
        zipfile.ZipFile(file, "w") as archive,
    ):
        archive.writestr("archive/data.pkl", members.read("archive/data.pkl"))
        archive.writestr("archive/data/0", members.read("archive/data/0"))
        archive.start_dir = 5 << 30
        archive.writestr("archive/data/1", members.read("archive/data/1"))
    tensors = read_pth(path).tensors
    assert tensors["b"].start > 5 << 30
    with path.open("rb") as file:
        file.seek(tensors["b"].start)
        assert torch.equal(
            torch.frombuffer(bytearray(file.read(20)), dtype=torch.float32), torch.arange(5.0)
        )


def test_torch_reads_what_we_read_after_repacking(tmp_path: Path) -> None:
    """Extra fields of other lengths in the local headers move the numbers; they are found by the local ones."""
    path = tmp_path / "repacked.pth"
    torch.save(various(), path)
    with zipfile.ZipFile(path) as archive:
        content = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, data) in enumerate(content.items()):
            member = zipfile.ZipInfo(name)
            member.extra = b"\x46\x42" + (4 * number).to_bytes(2, "little") + bytes(4 * number)
            archive.writestr(member, data)
    assert_same(path)


class Sub(torch.Tensor):
    """A subclass, which torch.save names in the pickle."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            nn.Linear(1, 1),
            r"it holds code \(torch\.nn\.modules\.linear\.Linear\), which is never run",
        ),
        (
            {"a": torch.ones(2).as_subclass(Sub)},
            r"it holds code \(torch\._tensor\._rebuild_from_type_v2\)",
        ),
        ({"a": torch.ones(2), "b": {"path": Path("/x")}}, r"it holds code \(pathlib\..*\)"),
        (
            {"a": torch.ones(2).to_sparse()},
            r"it holds code \(torch\._utils\._rebuild_sparse_tensor\)",
        ),
        (
            {"a": torch.ones(2, dtype=torch.complex64)},
            "numbers of the kind torch.ComplexFloatStorage",
        ),
        ({"a": torch.ones(1).expand(1000)}, "a does not fit its storage"),
        ({"a": {"b": {"c": torch.ones(1)}}}, "no tensors in it"),
        ({"a": 1}, "no tensors in it"),
        ([torch.ones(1)], "expected a dict of tensors"),
        ({"a\nb": torch.ones(1)}, r"a tensor has the name 'a\\nb'"),
    ],
)
def test_what_is_no_dict_of_tensors(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        read_pth(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), path)
    with pytest.raises(CheckpointError, match="a TorchScript program, expected a dict of tensors"):
        read_pth(path)


def test_big_endian_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.pth"
    torch.save({"a": torch.ones(1)}, path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"little", b"big   "))
    with pytest.raises(CheckpointError, match="saved on a big-endian machine"):
        read_pth(path)
