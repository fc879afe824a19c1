"""How near the peaks that are told before come to those that a process really reaches.

    PYTHONPATH=. python -m tests.benchmark.weights.bench_fit

Each workload runs in a process of its own, with random weights, on one thread: the memory that it has at most while it
computes, less what it had before its weights were made, against what the dry run says. Linux only. The table of
docs/fit.md is this script's.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20


@dataclass(frozen=True)
class Workload:
    """settings: of the preset. sizes: of a model in place of the micro one, by its configuration's fields."""

    name: str
    stage: str
    settings: tuple[str, ...]
    sizes: dict[str, Any]
    preset: str = "micro"


_DIT = {"dim": 768, "ffn_dim": 4608, "num_heads": 6, "num_layers": 3}
_LONG = ("width=384", "height=256", "frames=33")
_PICTURE = ("image.path=examples/pictures/green-triangle.png",)
_BF16 = "components.denoiser.dtype=bf16"

WORKLOADS = (
    Workload("denoiser fp32, guidance in two calls", "denoise", _LONG, _DIT),
    Workload("denoiser bf16, guidance in two calls", "denoise", (*_LONG, _BF16), _DIT),
    Workload("denoiser fp32, no guidance", "denoise", (*_LONG, "guidance.scale=1"), _DIT),
    Workload(
        "denoiser fp32, guidance in one call", "denoise", ("width=256", "height=256", "frames=29"), _DIT
    ),
    Workload(
        "denoiser fp32, plain attention",
        "denoise",
        ("width=256", "height=256", "frames=33", "components.denoiser.attention=plain"),
        _DIT,
    ),
    Workload(
        "VAE fp32, whole frames, 2 at a time",
        "decode",
        ("width=320", "height=192", "frames=17", "components.vae.chunk_frames=2"),
        {"dim": 32},
    ),
    Workload(
        "VAE fp32, whole clip",
        "decode",
        ("width=192", "height=128", "frames=17", "components.vae.chunk_frames=0"),
        {"dim": 32},
    ),
    Workload(
        "VAE fp32, tiles of 128, 1 at a time",
        "decode",
        (
            "width=320",
            "height=192",
            "frames=13",
            "components.vae.chunk_frames=1",
            "components.vae.tile_size=128",
            "components.vae.tile_overlap=32",
        ),
        {"dim": 32},
    ),
    Workload(
        "VAE fp32, encoding a picture's frames, 2 at a time",
        "encode",
        (*_PICTURE, "width=256", "height=192", "frames=17", "components.vae.chunk_frames=2"),
        {"dim": 32},
        "micro-i2v",
    ),
    Workload(
        "CLIP fp32, a picture",
        "image_encode",
        _PICTURE,
        {"width": 640, "mlp": 2560, "layers": 12},
        "micro-i2v",
    ),
    Workload(
        "UMT5 fp32, 512 tokens",
        "text_encode",
        ("components.text_encoder.dtype=fp32",),
        {"vocab": 4096, "dim": 1024, "ffn": 2816, "layers": 8, "heads": 16, "buckets": 32, "inner": 1024},
    ),
    Workload(
        "UMT5 bf16, 512 tokens",
        "text_encode",
        ("components.text_encoder.dtype=bf16",),
        {"vocab": 4096, "dim": 1024, "ffn": 2816, "layers": 8, "heads": 16, "buckets": 32, "inner": 1024},
    ),
)  # fmt: skip


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(_measured(WORKLOADS[int(sys.argv[1])])))
        return
    print("| workload | told | reached | told / reached | at |")
    print("|---|---|---|---|---|")
    for index, workload in enumerate(WORKLOADS):
        found = json.loads(_in_process(index).splitlines()[-1])
        told, reached = found["told"] / MIB, found["reached"] / MIB
        print(
            f"| {workload.name} | {told:.0f} MiB | {reached:.0f} MiB | {told / reached:.3f} | {found['at']} |",
            flush=True,
        )
    import torch

    flags = next(
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")
    ).split()
    kinds = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx2") if flag in flags]
    print(
        f"\ntorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {' '.join(kinds)}"
    )


def _in_process(index: int) -> str:
    # so that what is freed is given back, and the process has what is alive
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.benchmark.weights.bench_fit", str(index)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def _measured(workload: Workload) -> dict[str, Any]:
    import torch

    from engine.fit import stages

    torch.set_num_threads(1)
    work = _work(workload)
    build = _build(workload)
    (use,) = (use for use in stages.uses_of([work], build=build) if use.device == "cpu")
    run = stages._imported(work)
    cpu = torch.device("cpu")

    def reached() -> int:
        before = _resident("VmRSS")
        model = stages.placed(build(work.kind, work.part), work.kind, work.part, cpu)
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
        Path("/proc/self/clear_refs").write_text("5")
        on = stages.component(model, work.kind, work.part, cpu)
        with torch.no_grad():
            stages.computed(work, run, on, cpu)
        return _resident("VmHWM") - before

    reached()  # from here on libraries hold what they hold while they are at work
    stages.rope_table.cache_clear()
    gc.collect()
    at = f"{use.module}: {use.operation}"
    return {"told": use.peak_bytes, "reached": reached(), "at": at}


def _work(workload: Workload) -> Any:
    from engine import client
    from engine.components.descriptions import Descriptions
    from engine.fit.dry_run import works_of
    from presets.library.loading import load_preset
    from store.index.index import open_index
    from store.store import open_store

    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "store") as store:
        spec = load_preset(workload.preset, ("scheduler.steps=2", *workload.settings))
        spec = client.settled(store, spec).spec
        with open_index(store.root) as index:
            works, _ = works_of(client.plan(store, spec), Descriptions(index), index)
    return next(work for work in works if work.stage == workload.stage)


def _build(workload: Workload) -> Callable[[str, Any], Any]:
    import torch

    from engine.models.diffusion.config import WanDiTConfig
    from engine.models.diffusion.wandit import WanDiT
    from engine.models.image_encoders.clip import CLIP
    from engine.models.image_encoders.config import CLIPConfig
    from engine.models.text_encoders import t5
    from engine.models.vae.wanvae import WanVAE, WanVAEConfig

    def build(kind: str, part: Any) -> Any:
        with torch.device("meta"):
            if kind == "text_encoder":
                return t5.build(t5.UMT5Config(**workload.sizes))
            if kind == "image_encoder":
                return CLIP(CLIPConfig(**workload.sizes))
            if kind == "vae":
                return WanVAE(WanVAEConfig(**workload.sizes)).channels_last()
            return WanDiT(WanDiTConfig(text_dim=128, **workload.sizes))

    return build


def _resident(name: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    raise ValueError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    main()
