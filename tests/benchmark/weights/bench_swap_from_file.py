"""A model of 14B's shape, loaded and asked for one step in a process that may not have its weights in memory: blocks
come from the file.

The file has the true header of `wan2.1_t2v_14B_bf16.safetensors` and numbers in one page of every 128, zeros between,
which file systems leave out: 28.6 GB of which 0.25 are on the disk. The process is limited by RLIMIT_AS, as `ulimit -v`
does: everything counts that it maps or reserves, torch's libraries and thread stacks too. It exits with a line where
the limit does not do. Take few tokens (--size 16 is one): most CPUs are slow in bf16.

    PYTHONPATH=. python -m tests.benchmark.weights.bench_swap_from_file --limit-gb 6
    PYTHONPATH=. python -m tests.benchmark.weights.bench_swap_from_file --blocks 12 --limit-gb 5 --resident 2.5GB
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

from engine.checkpoints.source import open_source
from tests.benchmark.timing import show
from tests.weights import model_files

PAGE, STRIDE = 4096, 128 * 4096  # less than what counts as not written


def write(folder: Path, num_blocks: int) -> Path:
    import torch

    tensors = {
        name: tensor
        for name, tensor in model_files.t2v_14b("BF16").items()
        if not name.startswith("blocks.") or int(name.split(".")[1]) < num_blocks
    }
    path = model_files.write_safetensors(folder / "dit.safetensors", tensors)
    generator = torch.Generator().manual_seed(0)
    page = (torch.randn(PAGE // 2, generator=generator) / 50).bfloat16()
    numbers = page.view(torch.uint8).numpy().tobytes()
    with path.open("r+b") as file:
        for info in open_source(path).tensors.values():
            for start in range(info.start, info.stop, STRIDE):
                file.seek(start)
                file.write(numbers[: info.stop - start])
    return path


def measured(path: Path, resident: str, limit: int, size: int, steps: int) -> dict[str, object]:
    """What a process of its own comes to."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, path, resident, limit, size, steps))
    process.start()
    sender.close()
    try:
        found: dict[str, object] = receiver.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"the process ended with {process.exitcode} within its limit") from None
    process.join()
    if "error" in found:
        raise SystemExit(str(found["error"]))
    return found


def _child(sender, path: Path, resident: str, limit: int, size: int, steps: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        sender.send(_steps(path, resident, size, steps))
    except Exception as error:  # whatever it is, it is told by who measures  # noqa: BLE001
        sender.send({"error": f"{type(error).__name__}: {error}"})


def _steps(path: Path, resident: str, size: int, steps: int) -> dict[str, object]:
    import torch

    from engine.components.providers import wan_dit
    from engine.components.providers.files import checked_layout
    from engine.models.seams import At
    from presets.spec.components import DenoiserSpec

    torch.set_num_threads(1)
    before = _status("VmHWM")
    spec = DenoiserSpec(checkpoint=str(path), device="cpu", dtype="bf16", resident_blocks=resident)
    began = time.perf_counter()
    checked_layout("denoiser", path)
    model = wan_dit.load(spec)
    loaded = time.perf_counter() - began
    on = wan_dit.use(model, spec)
    branches = {name: {"text": torch.randn(3, 4096)} for name in ("positive", "negative")}
    x, seconds = torch.randn(1, 16, 1, size // 8, size // 8), []
    with on.begin(branches) as predict:
        for step in range(steps):
            began = time.perf_counter()
            found = predict(
                x, torch.tensor([900.0]), [At(step, steps, 1.0, each) for each in branches]
            )
            seconds.append(round(time.perf_counter() - began, 2))
    assert all(bool(each.isfinite().all()) for each in found)
    return {
        "told": on.told,
        "held_gb": round(
            sum(p.nbytes for p in model.parameters() if p.device.type == "cpu") / 1e9, 2
        ),
        "slots_gb": 0
        if model.swap is None
        else round(sum(s.nbytes for s in model.swap.slots) / 1e9, 2),
        "load_seconds": round(loaded, 2),
        "step_seconds": seconds,
        "peak_resident_gb": round(_status("VmHWM") / 1e9, 2),
        "peak_before_gb": round(before / 1e9, 2),
        "peak_mapped_gb": round(_status("VmPeak") / 1e9, 2),
    }


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--resident", default="0")
    parser.add_argument("--limit-gb", type=float, default=6)
    parser.add_argument("--size", type=int, default=16, help="pixels of a side, one frame")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="of the file, which is removed again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = write(Path(folder), given.blocks)
        status = os.stat(path)
        found = measured(path, given.resident, int(given.limit_gb * 1e9), given.size, given.steps)
        show(
            {
                "blocks": given.blocks,
                "limit_gb": given.limit_gb,
                "file_gb": round(status.st_size / 1e9, 2),
                "on_disk_gb": round(status.st_blocks * 512 / 1e9, 2),
                **found,
            }
        )


if __name__ == "__main__":
    main()
