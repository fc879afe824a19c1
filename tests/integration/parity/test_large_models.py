"""Models of published size, as sparse files with true headers: told, planned, and loaded within their memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.checkpoints.known.recognise import recognise
from engine.checkpoints.source import open_source
from tests.counting import bytes_read
from tests.weights import model_files

LARGEST = 8192 * 3072  # elements of the largest matrix of a block of `t2v_narrower`
LAYER = "blocks.1."

# not ru_maxrss, which a new process has from the one that started it
PEAK = """
def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
"""

LOAD = """
import json, sys
from pathlib import Path
import torch
from engine.checkpoints import load
from engine.checkpoints.known.configure import dit_config
from engine.checkpoints.layout import lay_out
from engine.checkpoints.load import Weights, fill
from engine.checkpoints.source import open_source
from engine.models.diffusion.config import keeps_fp32
from engine.models.diffusion.wandit import WanDiT

load.SLICE_BYTES = 12 << 20  # several in the largest matrix, as of a larger model
path, cpu, held = Path(sys.argv[1]), torch.device("cpu"), {}
source = open_source(path)
layout = lay_out(source)
with Weights(layout.entries) as weights:
    held["head.modulation"] = weights.tensor("head.modulation", device=cpu, dtype=torch.float16)
    before = peak()
    for name in weights.entries:
        if name.startswith("blocks.1."):
            held[name] = weights.tensor(name, device=cpu, dtype=torch.float16)
converted = {
    "grown": peak() - before,
    "resident": sum(tensor.nbytes for tensor in held.values()),
    "sum": float(held["blocks.1.ffn.2.weight"].float().sum()),
}

# what was converted is held on to: of the memory that is counted below none can be had again from there
with torch.device("meta"):
    model = WanDiT(dit_config(source, layout))
before = peak()
with Weights(layout.entries) as weights:
    fill(model, weights, path=path, device=cpu, dtype=torch.bfloat16, keeps_fp32=keeps_fp32)
mapped = {
    "grown": peak() - before,
    "own": sum(p.nbytes for name, p in model.named_parameters() if keeps_fp32(name)),
    "parameters": sum(p.numel() for p in model.parameters()),
}
print(json.dumps([converted, mapped]))
"""

SWAP = """
import json, resource, sys
from engine.checkpoints.held import packed
from engine.components.providers import wan_dit
from engine.components.memory import swapping
from engine.models.swap import swap
from presets.spec.components import DenoiserSpec

spec = DenoiserSpec(checkpoint=sys.argv[1], device="cpu", dtype="bf16", resident_blocks="0")
resource.setrlimit(resource.RLIMIT_AS, (3 * 10**9, 3 * 10**9))
before = peak()
model = wan_dit.load(spec)
numbers = []
with model.at_work():
    for i in range(2):
        with model.swap.block(i):
            numbers.append(int(model.blocks[i].ffn[2].weight.count_nonzero()))
print(json.dumps({
    "grown": peak() - before,
    "held": model.num_bytes,
    "slots": sum(slot.nbytes for slot in model.swap.slots),
    "numbers": numbers,
}))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")


def written(path: Path, tensors: model_files.Tensors) -> Path:
    """Of its layers one has numbers."""
    model_files.write_safetensors(path, tensors)
    block = bytes(2 * (1 << 20) - 2) + b"\x80\x3f"  # 1,048,575 zeros and a one, in bf16
    with path.open("r+b") as file:
        for name, info in open_source(path).tensors.items():
            if name.startswith(LAYER):
                file.seek(info.start)
                left = info.stop - info.start
                while left:
                    left -= file.write(block[:left] if left < len(block) else block)
    return path


def test_it_is_told_and_planned_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "wan2.1_t2v_14B_bf16.safetensors"
    model_files.write_safetensors(path, model_files.t2v_14b("BF16"))
    found, num_bytes = bytes_read(lambda: recognise(open_source(path)))
    assert num_bytes < 1 << 20  # of 28 GB nothing but the header, of 130 KB
    assert (found.component, found.variant, found.supported) == ("denoiser", "wan2.1-t2v-14b", True)
    assert (found.parameters, found.dtypes) == (14_288_491_584, {"BF16": 14_288_491_584})
    assert (found.missing, found.unexpected, found.misshapen) == ((), (), ())
    assert found.memory["fp32"] == 4 * found.parameters
    # the time embedding, its projection, the head and the norms stay in fp32
    assert 2 * found.parameters < found.memory["bf16"] < 2.03 * found.parameters


def test_it_is_loaded_in_the_memory_of_the_result(tmp_path: Path) -> None:
    """2.8 GB that take 0.1."""
    path = written(tmp_path / "wan2.1_t2v_1.3B_bf16.safetensors", model_files.t2v_1_3b())
    elements = 8960 * 1536
    done = subprocess.run(
        [sys.executable, "-c", PEAK + LOAD, str(path)],
        capture_output=True,
        text=True,
        check=True,
        # what is freed is given back, as slices of 64 MB always are: these are small enough for malloc to keep some
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    converted, mapped = json.loads(done.stdout)
    # a layer in another dtype
    assert converted["resident"] > 90e6
    assert converted["grown"] < converted["resident"] + 2 * elements
    assert converted["sum"] == elements // (1 << 20)
    # all of it in the file's, where only what stays in fp32 is copied: 2.8 GB into a few hundred MB
    assert mapped["parameters"] == 1_418_996_800
    module = 200 << 20  # itself, 825 parameters
    assert mapped["grown"] < mapped["own"] + 2 * elements + module


def test_its_blocks_come_in_the_memory_of_their_slots(tmp_path: Path) -> None:
    """10 GB in a process that may map 3: narrower than the published 14B, whose blocks take three times as long to
    copy."""
    path = written(tmp_path / "narrower.safetensors", model_files.t2v_narrower())
    done = subprocess.run(
        [sys.executable, "-c", PEAK + SWAP, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["numbers"] == [0, LARGEST // (1 << 20)]
    assert 2 * 0.250e9 < found["slots"] < 2 * 0.256e9
    assert found["held"] - found["slots"] < 0.35e9  # what is in no block
    assert (
        found["grown"] < found["held"] + 2 * 2 * LARGEST
    )  # in 16 bits, and what malloc keeps; a block is five
