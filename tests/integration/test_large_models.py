"""Models of published size, as sparse files with true headers: told, planned, and loaded within their memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.checkpoints.known.recognise import recognise
from engine.checkpoints.source import open_source
from tests import model_files
from tests.counting import bytes_read

LARGEST = 13824 * 5120 * 2  # bytes of the largest matrix of a block in 16 bits
LAYERS = ("blocks.0.", "blocks.1.")

# not ru_maxrss, which a new process has from the one that started it
PEAK = """
def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
"""

STREAM = """
import json, sys
from pathlib import Path
import torch
from engine.checkpoints.layout import lay_out
from engine.checkpoints.load import Weights
from engine.checkpoints.source import open_source

cpu, held = torch.device("cpu"), {}
with Weights(lay_out(open_source(Path(sys.argv[1]))).entries) as weights:
    held["head.modulation"] = weights.tensor("head.modulation", device=cpu, dtype=torch.float16)
    before = peak()
    for name in weights.entries:
        if name.startswith(("blocks.0.", "blocks.1.")):
            held[name] = weights.tensor(name, device=cpu, dtype=torch.float16)
print(json.dumps({
    "grown": peak() - before,
    "resident": sum(tensor.nbytes for tensor in held.values()),
    "sums": {name: float(tensor.float().sum()) for name, tensor in held.items()},
}))
"""

MAP = """
import json, sys
from pathlib import Path
import torch
from engine.checkpoints.known.configure import dit_config
from engine.checkpoints.layout import lay_out
from engine.checkpoints.load import Weights, fill
from engine.checkpoints.source import open_source
from engine.models.diffusion.config import keeps_fp32
from engine.models.diffusion.wandit import WanDiT

path = Path(sys.argv[1])
source = open_source(path)
layout = lay_out(source)
with torch.device("meta"):
    model = WanDiT(dit_config(source, layout))
before = peak()
with Weights(layout.entries) as weights:
    fill(model, weights, path=path, device=torch.device("cpu"), dtype=torch.bfloat16, keeps_fp32=keeps_fp32)
grown = peak() - before
own = sum(p.nbytes for name, p in model.named_parameters() if keeps_fp32(name))
print(json.dumps({"grown": grown, "own": own, "parameters": sum(p.numel() for p in model.parameters())}))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")


@pytest.fixture(scope="module")
def t2v_14b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """28.6 GB that take 1.4: two of the forty layers have numbers, ones in a random pattern of signs."""
    path = tmp_path_factory.mktemp("models") / "wan2.1_t2v_14B_bf16.safetensors"
    tensors = model_files.t2v_14b("BF16")
    model_files.write_safetensors(path, tensors)
    block = bytes(2 * (1 << 20) - 2) + b"\x80\x3f"  # 1,048,575 zeros and a one, in bf16
    with path.open("r+b") as file:
        for name, info in open_source(path).tensors.items():
            if name.startswith(LAYERS):
                file.seek(info.start)
                left = info.stop - info.start
                while left:
                    left -= file.write(block[:left] if left < len(block) else block)
    return path


def run(code: str, path: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", PEAK + code, str(path)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_it_is_told_and_planned_from_its_header(t2v_14b: Path) -> None:
    found, num_bytes = bytes_read(lambda: recognise(open_source(t2v_14b)))
    assert num_bytes < 1 << 20  # of 28 GB nothing but the header, of 130 KB
    assert (found.component, found.variant, found.supported) == ("denoiser", "wan2.1-t2v-14b", True)
    assert (found.parameters, found.dtypes) == (14_288_491_584, {"BF16": 14_288_491_584})
    assert (found.missing, found.unexpected, found.misshapen) == ((), (), ())
    assert found.memory["fp32"] == 4 * found.parameters
    # the time embedding, its projection, the head and the norms stay in fp32
    assert 2 * found.parameters < found.memory["bf16"] < 2.03 * found.parameters


def test_two_layers_are_streamed_in_the_memory_of_the_result(t2v_14b: Path) -> None:
    told = run(STREAM, t2v_14b)
    assert told["resident"] > 1.4e9
    assert told["grown"] < told["resident"] + LARGEST
    elements = 13824 * 5120
    assert told["sums"]["blocks.1.ffn.2.weight"] == elements // (1 << 20)


def test_all_of_it_is_mapped_where_nothing_need_change(t2v_14b: Path) -> None:
    """In bf16 on the CPU only what stays in fp32 is copied: 28.6 GB load into a few hundred MB."""
    told = run(MAP, t2v_14b)
    assert told["parameters"] == 14_288_491_584
    assert told["grown"] < told["own"] + LARGEST + (
        200 << 20
    )  # the module itself, 1,095 parameters
