"""Numbers from files: every dtype against the library that wrote it, scales against plain arithmetic."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.checkpoints import load
from engine.checkpoints.formats.weight_file import read_weight_file
from engine.checkpoints.layout import Entry
from engine.checkpoints.load import Weights, fill
from engine.checkpoints.packing.quantised import Packing
from engine.errors import CheckpointError

CPU = torch.device("cpu")


def entries_of(path: Path, scales: dict[str, str] | None = None) -> dict[str, Entry]:
    tensors = read_weight_file(path).tensors
    packings = {
        name: Packing(tensors[scale], block=(1, 0) if tensors[scale].shape else (0, 0))
        for name, scale in (scales or {}).items()
    }
    return {
        name: Entry((info,), info.shape, (packings[name],) if name in packings else ())
        for name, info in tensors.items()
    }


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[1 << 25, 64], ids=["whole", "in slices"])
def slices(request, monkeypatch) -> None:
    monkeypatch.setattr(load, "SLICE_BYTES", request.param)


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "stored",
    [
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    ],
)
def test_every_dtype_is_converted_as_torch_does(tmp_path: Path, stored, wanted) -> None:
    tensors = {
        "w": random(7, 5).to(stored),
        "scalar": random(1)[0].to(stored),
        "none": torch.zeros(0, 3).to(stored),
    }
    save_file(tensors, tmp_path / "w.safetensors")
    with Weights(entries_of(tmp_path / "w.safetensors")) as weights:
        for name, tensor in tensors.items():
            actual = weights.tensor(name, device=CPU, dtype=wanted)
            assert torch.equal(actual, tensor.to(wanted))
            assert torch.equal(weights.tensor(name, device=CPU).float(), tensor.float())


def padded(path: Path, alignment: int, offset: int = 0) -> Path:
    """The file with its header made longer, so that the numbers begin `offset` after a multiple of `alignment`."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip()
    header += b" " * ((offset - 8 - len(header)) % alignment)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    return path


@pytest.mark.parametrize("offset", [8, 32])
def test_numbers_that_torch_would_have_aligned_are_copied(tmp_path: Path, offset: int) -> None:
    """Matrix products round differently on less aligned memory: one model, one result, whatever its file."""
    path = tmp_path / "w.safetensors"
    save_file({"w": random(300, 100)}, path)
    before = load_file(path)["w"].clone()
    with Weights(entries_of(padded(path, 64, offset))) as weights:
        tensor = weights.tensor("w", device=CPU, dtype=torch.float32)
    assert tensor.data_ptr() % 64 == 0
    assert torch.equal(tensor, before)


def test_the_same_dtype_is_a_view_that_outlives_the_file_name(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": random(300, 100)}, path)
    padded(path, 64)
    before = load_file(path)["w"].clone()
    with Weights(entries_of(path)) as weights:
        tensor = weights.tensor("w", device=CPU, dtype=torch.float32)
        again = weights.tensor("w", device=CPU)
    assert tensor.data_ptr() == again.data_ptr()
    path.unlink()
    assert torch.equal(tensor, before)
    tensor += 1  # a private map: nobody's file changes
    assert torch.equal(tensor, before + 1)


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("by_row", [False, True])
def test_a_scale_multiplies_in_fp32_and_is_rounded_once(tmp_path: Path, by_row: bool) -> None:
    values = random(6, 9)
    scale = values.abs().amax(1, keepdim=True) / 448 if by_row else values.abs().max() / 448
    stored = {"l.weight": (values / scale).to(torch.float8_e4m3fn), "l.scale_weight": scale.float()}
    save_file(stored, tmp_path / "w.safetensors")
    with Weights(entries_of(tmp_path / "w.safetensors", {"l.weight": "l.scale_weight"})) as weights:
        actual = weights.tensor("l.weight", device=CPU, dtype=torch.bfloat16)
        natural = weights.tensor("l.weight", device=CPU)
    exact = stored["l.weight"].double() * scale.double()
    assert torch.equal(actual, (stored["l.weight"].float() * scale).bfloat16())
    assert natural.dtype == torch.float32
    assert torch.allclose(natural.double(), exact, rtol=1e-6, atol=0)
    assert (natural - values).abs().max() <= values.abs().max() / 16  # e4m3 has 3 bits of mantissa


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_gguf_blocks_read_as_the_gguf_package_reads_them(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.gguf"
    values = random(24, 256).numpy()
    type_ = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_tensor("w", gguf.quants.quantize(values, type_), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with Weights(entries_of(path)) as weights:
        actual = weights.tensor("w", device=CPU)
    reader = gguf.GGUFReader(path)
    expected = gguf.quants.dequantize(reader.tensors[0].data, reader.tensors[0].tensor_type)
    assert actual.shape == (24, 256)
    assert np.array_equal(actual.numpy(), expected)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_gguf_types_that_only_llama_cpp_writes_are_read(tmp_path: Path, kind: str) -> None:
    """Random blocks with finite scales: the reference decides what they mean."""
    path = tmp_path / "w.gguf"
    type_ = gguf.GGMLQuantizationType[kind]
    weights_per_block, bytes_per_block = gguf.GGML_QUANT_SIZES[type_]
    data = np.random.default_rng(0).integers(
        0, 60, (4, 512 // weights_per_block * bytes_per_block), np.uint8
    )
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_tensor("w", data, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with Weights(entries_of(path)) as weights:
        actual = weights.tensor("w", device=CPU)
    assert np.array_equal(actual.numpy(), gguf.quants.dequantize(data, type_))
    assert actual.isfinite().all()
    assert actual.std() > 0


def test_parts_are_joined_in_their_order(tmp_path: Path) -> None:
    stored = {name: random(4, 3, seed=i) for i, name in enumerate("qkv")}
    save_file(stored, tmp_path / "w.safetensors")
    infos = read_weight_file(tmp_path / "w.safetensors").tensors
    joined = {"qkv": Entry((infos["q"], infos["k"], infos["v"]), (12, 3))}
    with Weights(joined) as weights:
        actual = weights.tensor("qkv", device=CPU, dtype=torch.float32)
    assert torch.equal(actual, torch.cat([stored["q"], stored["k"], stored["v"]]))


@pytest.mark.usefixtures("slices")
def test_one_number_has_a_scale_too(tmp_path: Path) -> None:
    tensors = {"w": torch.tensor(3.0).to(torch.float8_e4m3fn), "s": torch.tensor(0.5)}
    save_file(tensors, tmp_path / "w.safetensors")
    with Weights(entries_of(tmp_path / "w.safetensors", {"w": "s"})) as weights:
        assert weights.tensor("w", device=CPU).tolist() == 1.5


def test_scales_of_rows_in_every_slice(tmp_path: Path, monkeypatch) -> None:
    """Three slices and a rest, each with the scales of its own rows."""
    monkeypatch.setattr(load, "SLICE_BYTES", 4 * 3 * 8)
    values, scale = random(11, 8).to(torch.float8_e4m3fn), torch.arange(1.0, 12.0)[:, None]
    save_file({"w": values, "s": scale}, tmp_path / "w.safetensors")
    with Weights(entries_of(tmp_path / "w.safetensors", {"w": "s"})) as weights:
        actual = weights.tensor("w", device=CPU, dtype=torch.float32)
    assert torch.equal(actual, values.float() * scale)


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1"])
@pytest.mark.parametrize("shape", [(16, 8, 2, 1, 1), (4, 16, 1, 2, 2), (256,)])
def test_blocks_that_reach_over_the_rows_of_a_reshaped_tensor(tmp_path, kind, shape) -> None:
    """What a converter reshaped to whole blocks comes back as the reference gives it, in the original shape."""
    path, type_ = tmp_path / "w.gguf", gguf.GGMLQuantizationType[kind]
    stored = gguf.quants.quantize(random(256 // 64, 64).numpy(), type_)
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_array("comfy.gguf.orig_shape.w", list(shape))
    writer.add_tensor("w", stored, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with Weights(entries_of(path)) as weights:
        actual = weights.tensor("w", device=CPU)
    assert actual.shape == shape
    assert np.array_equal(actual.flatten(), gguf.quants.dequantize(stored, type_).flatten())


def test_the_dtype_of_mixed_parts_holds_them_all(tmp_path: Path) -> None:
    stored = {"q": random(4, 3).half(), "k": random(4, 3, seed=1).bfloat16()}
    save_file(stored, tmp_path / "w.safetensors")
    infos = read_weight_file(tmp_path / "w.safetensors").tensors
    with Weights({"qk": Entry((infos["q"], infos["k"]), (8, 3))}) as weights:
        actual = weights.tensor("qk", device=CPU)
    assert torch.equal(actual, torch.cat([stored["q"].float(), stored["k"].float()]))


@pytest.mark.usefixtures("slices")
def test_strides_of_a_pth_are_kept(tmp_path: Path) -> None:
    tensors = {"t": random(6, 8).t(), "c": random(2, 3, 4, 5).to(memory_format=torch.channels_last)}
    torch.save(tensors, tmp_path / "w.pth")
    with Weights(entries_of(tmp_path / "w.pth")) as weights:
        for name, tensor in tensors.items():
            assert torch.equal(weights.tensor(name, device=CPU), tensor)
            assert torch.equal(
                weights.tensor(name, device=CPU, dtype=torch.bfloat16), tensor.bfloat16()
            )


def test_unaligned_tensors_are_read(tmp_path: Path) -> None:
    header = (
        b'{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"w":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}'
    )
    data = b"\x07" + np.array([1.5, -2.5], "<f4").tobytes()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    entries = entries_of(path)
    with Weights({"w": entries["w"]}) as weights:
        for dtype in (torch.float32, torch.bfloat16):
            tensor = weights.tensor("w", device=CPU, dtype=dtype)
            assert tensor.tolist() == [1.5, -2.5]
            assert tensor.data_ptr() % load.ALIGNMENT == 0


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": random(3)}, path)
    weights = Weights(entries_of(path))

    def read_while_it_changes() -> None:
        with weights:
            weights.tensor("w", device=CPU)
            os.utime(path, (1, 1))

    with pytest.raises(CheckpointError, match="changed while it was being read"):
        read_while_it_changes()


def test_a_file_that_was_rewritten_and_set_back_in_time_is_noticed(tmp_path: Path) -> None:
    path, other = tmp_path / "w.safetensors", tmp_path / "other"
    for number, file in enumerate((path, other)):
        save_file({"w": random(300, seed=number)}, file)
        os.utime(file, ns=(1, 1))
    entries = entries_of(path)
    time.sleep(0.03)  # longer than a tick of the file system's clock
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(1, 1))
    with (
        pytest.raises(CheckpointError, match="changed while it was being read"),
        Weights(entries) as weights,
    ):
        weights.tensor("w", device=CPU)


@pytest.mark.parametrize("change", ["replaced", "rewritten", "gone"])
@pytest.mark.parametrize("when", ["before it is mapped", "after"])
def test_another_file_in_its_place_is_noticed(tmp_path: Path, change: str, when: str) -> None:
    path, other = tmp_path / "w.safetensors", tmp_path / "other"
    for number, file in enumerate((path, other)):
        save_file({"w": random(300, seed=number)}, file)
        os.utime(file, ns=(1, 1))
    entries = entries_of(path)

    def happen() -> None:
        if change == "replaced":  # of one size and one time
            other.rename(path)
        elif change == "gone":
            path.unlink()
        else:
            path.write_bytes(other.read_bytes())

    def read() -> None:
        with Weights(entries) as weights:
            if when == "after":
                weights.tensor("w", device=CPU)
            happen()
            if when != "after":
                weights.tensor("w", device=CPU)

    with pytest.raises(CheckpointError, match=r"changed while it was being read|no such file"):
        read()


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)


@pytest.fixture
def toy() -> Toy:
    with torch.device("meta"):
        return Toy()


@pytest.fixture
def toy_weights() -> dict[str, torch.Tensor]:
    return {name: random(*parameter.shape) for name, parameter in Toy().named_parameters()}


def filled(module: Toy, folder: Path, tensors: dict[str, torch.Tensor], **options) -> Toy:
    path = folder / "toy.safetensors"
    save_file(tensors, path)
    with Weights(entries_of(path)) as weights:
        fill(module, weights, path=path, device=CPU, **{"dtype": torch.float32} | options)
    return module


def test_fills_every_parameter_bit_for_bit(toy: Toy, toy_weights, tmp_path: Path) -> None:
    for name, parameter in filled(toy, tmp_path, toy_weights).named_parameters():
        assert torch.equal(parameter, toy_weights[name])
        assert not parameter.requires_grad


def test_what_is_published_in_fp32_stays_so(toy: Toy, toy_weights, tmp_path: Path) -> None:
    filled(toy, tmp_path, toy_weights, dtype=torch.bfloat16, keeps_fp32=lambda name: "norm" in name)
    assert torch.equal(toy.linear.weight, toy_weights["linear.weight"].bfloat16())
    assert toy.norm.weight.dtype == torch.float32


def test_axes_of_one_do_not_count(toy: Toy, toy_weights, tmp_path: Path) -> None:
    bias = toy_weights["norm.bias"]
    filled(toy, tmp_path, toy_weights | {"norm.bias": bias.view(1, 4, 1)})
    assert torch.equal(toy.norm.bias, bias)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("norm.bias"), r"1 missing tensor \(norm\.bias\)"),
        (lambda w: w.update(extra=torch.ones(1)), r"1 unexpected tensor \(extra\)"),
        (
            lambda w: w.update({"linear.weight": torch.ones(4, 4)}),
            r"1 misshapen tensor \(linear\.weight is \[4, 4\] instead of \[4, 3\]\)",
        ),
    ],
)
def test_refuses_what_does_not_fit_before_reading(
    toy, toy_weights, tmp_path, change, message
) -> None:
    change(toy_weights)
    with pytest.raises(CheckpointError, match=message):
        filled(toy, tmp_path, toy_weights)
    assert all(parameter.is_meta for parameter in toy.parameters())


# not ru_maxrss, which a new process has from the one that started it
PEAK = """
def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
"""

MEASURE = """
import sys
from pathlib import Path
import torch
from engine.checkpoints import load
from engine.checkpoints.layout import Entry
from engine.checkpoints.formats.weight_file import read_weight_file
load.SLICE_BYTES = int(sys.argv[2])
tensors = read_weight_file(Path(sys.argv[1])).tensors
with load.Weights({n: Entry((i,), i.shape) for n, i in tensors.items()}) as weights:
    def bf16(name):
        return weights.tensor(name, device=torch.device("cpu"), dtype=torch.bfloat16)
    bf16("small")  # what the first call imports
    before = peak()
    held = [bf16(f"w{i}") for i in range(6)]
    print(peak() - before, sum(t.nbytes for t in held))
    before = peak()
    large = bf16("large")
    print(peak() - before, large.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_loading_takes_the_memory_of_the_result_and_a_slice(tmp_path: Path) -> None:
    """Resident memory, mapped pages included, of many tensors and of one large one: of 96 MiB in fp32 the 48 MiB in
    bf16 and a slice or two. Had they been mapped whole, it would be three times that."""
    path, slice_bytes = tmp_path / "big.safetensors", 16 << 20
    tensors = {f"w{i}": torch.ones(4, 1 << 20) for i in range(6)}
    save_file({**tensors, "large": torch.ones(24, 1 << 20), "small": torch.zeros(4, 4)}, path)
    done = subprocess.run(
        [sys.executable, "-c", PEAK + MEASURE, str(path), str(slice_bytes)],
        capture_output=True,
        text=True,
        check=True,
        # what is freed is given back, as slices of 64 MB always are: these are small enough for malloc to keep some
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    for line in done.stdout.splitlines():
        grown, held = map(int, line.split())
        assert held == 48 << 20
        assert grown < held + 2 * slice_bytes
