"""Finding out what files of weights are, and what bad ones cost: CPU milliseconds, limits of the design in brackets.

Files have the published names and sizes and are sparse, so that only what is read for the answer counts. Peers where
there are some: the gguf package for a vocabulary, the safetensors library for a header, and for a sample the hash of
a whole file, measured on one gigabyte.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import torch
from safetensors import safe_open

from engine.checkpoints.fingerprint import fingerprint
from engine.checkpoints.formats.gguf_file import read_gguf
from engine.checkpoints.formats.safetensors_file import read_safetensors
from engine.checkpoints.formats.weight_file import read_weight_file
from engine.checkpoints.known.recognise import recognise
from engine.checkpoints.library import scan
from engine.checkpoints.names.renaming import find as find_name
from engine.checkpoints.places import ADDED, Place
from engine.checkpoints.source import open_source
from engine.errors import CheckpointError
from tests.benchmark import timing
from tests.weights import model_files
from tests.weights.bad_files import CASES

Figures = dict[str, object]


def milliseconds(
    limit: float, contestants: Mapping[str, Callable[[], object]], rounds: int
) -> tuple[Figures, dict[str, list[float]]]:
    """Medians, the limit of the first of them, and the seconds for ratios."""
    spent = timing.seconds(contestants, rounds=rounds)
    figures: Figures = {
        f"{name} ms": round(1e3 * statistics.median(values), 2) for name, values in spent.items()
    }
    return figures | {"limit ms": limit}, spent


def bad(folder: Path, rounds: int) -> Figures:
    """Refusing each of tests/weights/bad_files.py, best of the rounds: the slowest ones. No peer reads them safely."""
    best: dict[str, float] = {}
    for number, (name, (make, _)) in enumerate(CASES.items()):
        (folder / str(number)).mkdir()
        path = make(folder / str(number))
        spent = timing.seconds({name: lambda path=path: refuse(path)}, rounds=rounds)
        best[name] = round(1e3 * min(spent[name]), 1)
    slowest = sorted(best, key=lambda name: -best[name])[:5]
    return {
        "files": len(best),
        "slowest ms": {name: best[name] for name in slowest},
        "limit ms": 100,
    }


def refuse(path: Path) -> None:
    try:
        read_weight_file(path)
    except CheckpointError:
        return
    raise AssertionError(f"{path} was read")


def vocabulary(folder: Path, rounds: int) -> Figures:
    """The header of a GGUF encoder with UMT5's 256,384 tokens, against the gguf package."""
    path = model_files.write_umt5_vocabulary(folder / "umt5.gguf")
    contestants = {"ours": lambda: read_gguf(path), "gguf": lambda: gguf.GGUFReader(path)}
    figures, spent = milliseconds(150, contestants, min(rounds, 3))  # the peer takes seconds
    return figures | {"ratio": timing.ratio(spent, "ours", "gguf")}


def header(folder: Path, rounds: int) -> Figures:
    """What a 14B file of 1,095 tensors is, and that where none of its names was seen before; and the header of a
    1.3B file alone, against the safetensors library, which cannot map 28 GB on every machine."""
    path = model_files.write_safetensors(folder / "14b.safetensors", model_files.t2v_14b("BF16"))
    small = model_files.write_safetensors(folder / "1.3b.safetensors", model_files.t2v_1_3b())

    def library() -> None:
        with safe_open(small, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                file.get_slice(name).get_shape()

    def unseen() -> None:
        find_name.cache_clear()
        recognise(open_source(path))

    contestants = {
        "recognised": lambda: recognise(open_source(path)),
        "recognised, unseen": unseen,
        "header": lambda: read_safetensors(small),
        "safetensors": library,
    }
    figures, spent = milliseconds(50, contestants, rounds)
    return figures | {
        "header ratio": timing.ratio(spent, "header", "safetensors"),
        "seen / unseen": timing.ratio(spent, "recognised", "recognised, unseen"),
    }


def sample(folder: Path, rounds: int) -> Figures:
    """The fingerprint of 28 GB, against the SHA-256 of all of them."""
    path = model_files.write_safetensors(folder / "28gb.safetensors", model_files.t2v_14b("BF16"))
    gigabyte = folder / "gigabyte"
    with gigabyte.open("wb") as file:
        file.truncate(10**9)

    def whole() -> None:
        with gigabyte.open("rb") as file:
            hashlib.file_digest(file, "sha256")

    contestants = {"sampled": lambda: fingerprint([path]), "one GB hashed": whole}
    figures, spent = milliseconds(1000, contestants, rounds)
    gigabytes = path.stat().st_size / 1e9
    share = timing.ratio(spent, "sampled", "one GB hashed") / gigabytes
    return figures | {"gigabytes": round(gigabytes, 1), "ratio to all hashed": round(share, 5)}


def folder_scan(folder: Path, rounds: int) -> Figures:
    """Looking at a folder of 57 GB in six shards."""
    model_files.write_sharded(folder / "big", model_files.t2v_14b("F32"), num_shards=6)
    place = Place(folder, ADDED, True)
    return milliseconds(500, {"scan": lambda: scan(place)}, rounds)[0]


def commands(folder: Path, rounds: int) -> Figures:
    """`modiff models list` over that folder, process start included; beside it, Python starting alone."""
    model_files.write_sharded(folder / "home/big", model_files.t2v_14b("F32"), num_shards=6)
    home = str(folder / "home")
    environment = {
        **os.environ,
        "MODIFF_MODELS": home,
        "MODIFF_CONFIG_DIR": home,
        "MODIFF_STORE": str(folder / "store"),
        "HF_HUB_CACHE": str(folder / "hub"),
        "HOME": str(folder),
    }
    run = "from tui.cli.main import main; main(['models', 'list'])"
    spent: dict[str, list[float]] = {"models list": [], "python": []}
    for _ in range(rounds):
        for name, code in (("models list", run), ("python", "pass")):
            begun = seconds_of_children()
            subprocess.run(
                [sys.executable, "-c", code], env=environment, check=True, capture_output=True
            )
            spent[name].append(seconds_of_children() - begun)
    return {
        f"{name} ms": round(1e3 * statistics.median(values)) for name, values in spent.items()
    } | {"limit ms": 1000}


def seconds_of_children() -> float:
    """CPU seconds of all processes that were started and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


CASES_OF_THIS = (bad, vocabulary, header, sample, folder_scan, commands)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [case.__name__ for case in CASES_OF_THIS]
    parser.add_argument("--case", choices=[*names, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the files lie, for a while")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Duplicate name")
    result: Figures = dict(timing.settings(torch.get_num_threads()))
    gc.freeze()  # the collector does not walk through what torch keeps while a reader is measured
    for case in CASES_OF_THIS:
        if options.case in (case.__name__, "all"):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                result[case.__name__] = case(Path(folder), options.rounds)
    timing.show(result)


if __name__ == "__main__":
    main()
