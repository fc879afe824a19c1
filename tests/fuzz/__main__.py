"""`python -m tests.fuzz requests --minutes 10 --seed 1`; exit code 1 where a fault was found.

A case is made by its seed and number alone: `--case N` repeats it.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import secrets
import sys
import tempfile
from pathlib import Path

import torch

from tests.fuzz import bundles, pictures, presets, requests, responses, weights
from tests.fuzz.running import fuzz

KINDS = {
    "weights": weights.make,
    "presets": presets.make,
    "bundles": bundles.make,
    "requests": requests.make,
    "responses": responses.make,
    "pictures": pictures.make,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--case", type=int, default=None)
    options = parser.parse_args()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    seconds = 0.0 if options.case is not None else 60 * options.minutes
    first = options.case or 0
    faulthandler.enable()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        keep_away(folder)
        done = fuzz(
            KINDS[options.kind], folder, seed=seed, seconds=seconds, cases=range(first, first + 1)
        )
    told = [
        f"{options.kind}: seed {seed}, {done.num_cases:,} cases, {done.num_taken:,} taken, {len(done.faults)} faults"
    ]
    for what, (number, trace) in done.faults.items():
        told.append(
            f"\n{what}\n  python -m tests.fuzz {options.kind} --seed {seed} --case {number}\n{trace}"
        )
    sys.stdout.write("\n".join(told) + "\n")
    return bool(done.faults)


def keep_away(folder: Path) -> None:
    """Have the user's own models, presets and store out of reach."""
    for name in ("HF_HOME", "HUGGINGFACE_HUB_CACHE", "COMFYUI_PATH", "MODELSCOPE_CACHE"):
        os.environ.pop(name, None)
    for variable, place in (
        ("HOME", "home"), ("HF_HUB_CACHE", "home/hub"), ("MODIFF_STORE", "home/store"),
        ("MODIFF_CONFIG_DIR", "scratch/config"), ("MODIFF_MODELS", "home/models"), ("TMPDIR", "home/tmp"),
    ):  # fmt: skip
        os.environ[variable] = str(folder / place)
    (folder / "home" / "tmp").mkdir(parents=True)
    tempfile.tempdir = None


if __name__ == "__main__":
    sys.exit(main())
