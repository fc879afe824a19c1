"""Loading weights against reading the same bytes with the safetensors library, in one process, in turn.

Both end with the same numbers in memory: ours through `Weights`, the peer by `safe_open` tensor by tensor with
`.to(dtype, copy=True)`, so that it reads the bytes also where it could leave them in its map. Ours maps what has the
wanted dtype and is aligned; `--offset 8` measures files that it must copy. Wall seconds (the work is in the kernel and
the memory bus) from a warm page cache; peaks of resident memory, mapped pages included, in a fresh process each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open

from engine.checkpoints.convert.writers import dtype_name
from engine.checkpoints.formats.weight_file import read_weight_file
from engine.checkpoints.layout import Entry
from engine.checkpoints.load import ALIGNMENT, Weights
from tests.benchmark.timing import peak_mib, settings, show

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ROWS, COLUMNS = 4096, 5120  # about one matrix of the 14B model
CPU = torch.device("cpu")


def write(path: Path, gigabytes: float, dtype: torch.dtype, offset: int) -> None:
    """offset: of the numbers behind a multiple of 64 bytes."""
    matrix = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)).to(dtype)
    count = max(1, round(gigabytes * 1e9 / matrix.nbytes))
    size = matrix.nbytes
    header = {
        f"blocks.{i}.weight": {
            "dtype": dtype_name(dtype),
            "shape": [ROWS, COLUMNS],
            "data_offsets": [i * size, (i + 1) * size],
        }
        for i in range(count)
    }
    text = json.dumps(header).encode()
    text += b" " * ((offset - 8 - len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(count):
            file.write(matrix.view(torch.uint8).numpy().data)


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
            names = file.keys()
            return touch([file.get_tensor(name).to(dtype, copy=True) for name in names])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the file")
    parser.add_argument("--stored", choices=DTYPES, default="fp32")
    parser.add_argument("--wanted", choices=DTYPES, default="bf16")
    parser.add_argument(
        "--offset", type=int, default=0, help="bytes of the numbers behind a multiple of 64"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where to write it, for a while")
    options = parser.parse_args()
    stored, wanted = DTYPES[options.stored], DTYPES[options.wanted]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "weights.safetensors"
        write(path, options.gigabytes, stored, options.offset)
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
                "offset": options.offset,
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
