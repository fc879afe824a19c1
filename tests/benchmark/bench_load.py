"""Loading weights against reading the same bytes with the safetensors library, in one process, in turn.

Both end with the same numbers in memory: ours through `Weights`, the peer by `safe_open` tensor by tensor with
`.to(dtype)`. Wall seconds (the work is in the kernel and the memory bus) from a warm page cache; peaks of resident
memory, mapped pages included, in a fresh process each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from engine.checkpoints.layout import Entry
from engine.checkpoints.load import Weights
from engine.checkpoints.weight_file import read_weight_file
from tests.benchmark.timing import peak_mib, settings, show

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ROWS, COLUMNS = 4096, 5120  # about one matrix of the 14B model
CPU = torch.device("cpu")


def write(path: Path, gigabytes: float, dtype: torch.dtype) -> None:
    matrix = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)).to(dtype)
    count = max(1, round(gigabytes * 1e9 / matrix.nbytes))
    save_file({f"blocks.{i}.weight": matrix.clone() for i in range(count)}, path)


def touch(tensors: list[torch.Tensor]) -> float:
    """One number of every page, so that what is mapped is really read."""
    return sum(float(t.flatten().view(torch.uint8)[::4096].sum()) for t in tensors)


def ours(path: Path, dtype: torch.dtype) -> Callable[[], object]:
    def run() -> float:
        tensors = read_weight_file(path).tensors
        with Weights(
            {name: Entry((info,), info.shape) for name, info in tensors.items()}
        ) as weights:
            return touch([weights.tensor(name, device=CPU, dtype=dtype) for name in tensors])

    return run


def peer(path: Path, dtype: torch.dtype) -> Callable[[], object]:
    def run() -> float:
        with safe_open(path, framework="pt", device="cpu") as file:
            return touch([file.get_tensor(name).to(dtype) for name in file.keys()])  # noqa: SIM118

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the file")
    parser.add_argument("--stored", choices=DTYPES, default="fp32")
    parser.add_argument("--wanted", choices=DTYPES, default="bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where to write it, for a while")
    options = parser.parse_args()
    stored, wanted = DTYPES[options.stored], DTYPES[options.wanted]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "weights.safetensors"
        write(path, options.gigabytes, stored)
        runs = {"ours": ours(path, wanted), "safetensors": peer(path, wanted)}
        spent: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(options.rounds + 1):
            for name, run in runs.items():
                begun = time.perf_counter()
                run()
                if number:
                    spent[name].append(time.perf_counter() - begun)
        ratios = [peer / our for our, peer in zip(spent["ours"], spent["safetensors"], strict=True)]
        show(
            settings(torch.get_num_threads())
            | {
                "file_gb": round(path.stat().st_size / 1e9, 2),
                "stored": options.stored,
                "wanted": options.wanted,
                "seconds": {
                    name: round(statistics.median(values), 3) for name, values in spent.items()
                },
                "speed_ours_over_safetensors": round(statistics.median(ratios), 3),
                "resident_mib": round(
                    path.stat().st_size * wanted.itemsize / stored.itemsize / 2**20
                ),
                "peak_mib": {
                    "ours": peak_mib(partial(ours, path, wanted)),
                    "safetensors": peak_mib(partial(peer, path, wanted)),
                },
            }
        )


if __name__ == "__main__":
    main()
