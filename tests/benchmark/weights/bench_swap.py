"""Block swap on a CUDA device: the same bits whatever stays there, seconds for a step, and memory.

A random model of 14B's width and fewer blocks is written to a file, loaded with other numbers of blocks that stay, and
asked for steps of two branches at two sizes. The first setting, with all blocks there, is what the others are held
against, bit for bit; the last one reads its blocks from the file, as where nothing can be pinned. Unattended; what
does not fit into the time is left out and said to be. Without a CUDA device it says so.

    PYTHONPATH=. python -m tests.benchmark.weights.bench_swap
    PYTHONPATH=. python -m tests.benchmark.weights.bench_swap --blocks 6 --minutes 3 --folder /fast/disk
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.components.memory import swapping
from engine.components.providers import wan_dit
from engine.models.diffusion.config import WanDiTConfig
from engine.models.diffusion.wandit import WanDiT
from engine.models.seams import At
from presets.spec.components import DenoiserSpec
from tests.benchmark.timing import show

SIZES = {"832x480, 81 frames": (21, 60, 104), "416x240, 33 frames": (9, 30, 52)}  # of latents
STEPS = 2


def write(folder: Path, config: WanDiTConfig) -> Path:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in WanDiT(config).state_dict().items()}
    generator = torch.Generator("cuda").manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        numbers = torch.randn(shape, generator=generator, device="cuda") / shape[-1] ** 0.5
        if len(shape) == 1 and name.endswith("weight"):
            numbers = 1 + numbers
        tensors[name] = numbers.bfloat16().cpu()
    path = folder / "dit.safetensors"
    save_file(tensors, path)
    (folder / "config.json").write_text(json.dumps(asdict(config)))
    return path


def measured(
    spec: DenoiserSpec, latents: dict[str, Tensor], known: dict[str, list[Tensor]], end: float
) -> dict[str, object]:
    """known: velocities by size, filled by the first setting."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    on = wan_dit.use(wan_dit.load(spec), spec)
    result: dict[str, object] = {
        "load_seconds": round(time.perf_counter() - began, 2),
        "weights_gb": round(torch.cuda.memory_allocated() / 1e9, 2),
        "told": on.told,
    }
    generator = torch.Generator().manual_seed(1)
    branches = {
        name: {"text": torch.randn(rows, on.model.config.text_dim, generator=generator)}
        for name, rows in (("positive", 70), ("negative", 130))
    }
    for size, x in latents.items():
        if time.perf_counter() > end:
            result[size] = "left out, no time"
            continue
        torch.cuda.reset_peak_memory_stats()
        seconds = []
        with on.begin(branches) as predict:
            for step in range(STEPS + 1):
                torch.cuda.synchronize()
                began = time.perf_counter()
                ats = [At(step, STEPS + 1, 1.0, name) for name in branches]
                found = predict(x, torch.tensor([900.0 - step]), ats)
                torch.cuda.synchronize()
                seconds.append(time.perf_counter() - began)
        held = [velocity.cpu() for velocity in found]
        same = known.setdefault(size, held)
        result[size] = {
            "step_seconds": round(min(seconds[1:]), 3),
            "first_seconds": round(seconds[0], 3),
            "peak_allocated_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
            "same_bits": all(torch.equal(a, b) for a, b in zip(held, same, strict=True)),
            "finite": all(bool(each.isfinite().all()) for each in held),
        }
    del on
    gc.collect()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument("--folder", type=Path, help="of the file, which is removed again")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this measures a CUDA device, and there is none here")
    end = time.perf_counter() + 60 * given.minutes
    config = WanDiTConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=given.blocks)
    settings = ["all", str(given.blocks * 2 // 3), str(given.blocks // 3), "0"]
    latents = {name: torch.randn(1, 16, *size) for name, size in SIZES.items()}
    known: dict[str, list[Tensor]] = {}
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = write(Path(folder), config)
        spec = DenoiserSpec(checkpoint=str(path), device="cuda", dtype="bf16")
        for setting in settings:
            each = msgspec.structs.replace(spec, resident_blocks=setting)
            results[setting] = measured(each, latents, known, end)
        swapping._HOST_SHARE = 0.0
        each = msgspec.structs.replace(spec, resident_blocks="0")
        results["0, from the file"] = measured(each, latents, known, end)
    show(
        {
            "gpu": torch.cuda.get_device_name(),
            "torch": str(torch.__version__),
            "blocks": given.blocks,
            "resident_blocks": results,
        }
    )
    same = [
        size["same_bits"]
        for result in results.values()
        if isinstance(result, dict)
        for size in result.values()
        if isinstance(size, dict)
    ]
    if not all(same):
        raise SystemExit("block swap changed numbers")


if __name__ == "__main__":
    main()
