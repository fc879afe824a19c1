"""What works on this machine: versions, devices, attention backends (their error and speed), ffmpeg, the store.

Everything is found out by trying it, at small sizes; a fault becomes a row, never an exception.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

# absent: something optional that is not there or not for this machine
Status = Literal["ok", "absent", "warn", "fail"]

PACKAGES = (
    "modiff",
    "torch",
    "transformers",
    "safetensors",
    "textual",
    "sqlite-utils",
    "diskcache",
    "imageio-ffmpeg",
    "sageattention",
)

# The backends that work on every machine; the others need hardware or packages.
REQUIRED_ATTENTION = ("plain", "sdpa")

_ABSENT: dict[str, tuple[Status, str]] = {
    "modiff": ("warn", "it runs from its source folder; pip install -e ."),
    "sageattention": ("absent", "optional: pip install 'modiff[sage]' on a CUDA machine"),
}


@dataclass(frozen=True)
class Row:
    """One finding. hint: what to do about it, empty where nothing need be done."""

    name: str
    value: str
    status: Status = "ok"
    hint: str = ""


@dataclass(frozen=True)
class Section:
    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Report:
    sections: tuple[Section, ...]

    @property
    def is_healthy(self) -> bool:
        return all(row.status != "fail" for section in self.sections for row in section.rows)


def examine(store_root: Path) -> Report:
    """Looks at everything; takes a few seconds, most of them the import of torch."""
    return Report(
        (
            Section("versions", tuple(_versions())),
            Section("devices", tuple(_devices())),
            Section("attention", tuple(_attention())),
            Section("ffmpeg", (_ffmpeg(),)),
            Section("store", tuple(_store(store_root))),
        )
    )


def _versions() -> list[Row]:
    rows = [Row("python", platform.python_version()), Row("platform", platform.platform())]
    for package in PACKAGES:
        try:
            rows.append(Row(package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            status, hint = _ABSENT.get(package, ("fail", f"pip install {package}"))
            rows.append(Row(package, "not installed", status, hint))
    return rows


def _devices() -> list[Row]:
    import torch

    from engine.dtypes import torch_device

    rows = [
        Row("cpu", f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    ]
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        memory = facts.total_memory / 2**30
        rows.append(
            Row(f"cuda:{index}", f"{facts.name}, {memory:.0f} GiB, sm_{facts.major}{facts.minor}")
        )
    if torch.backends.mps.is_available():
        rows.append(Row("mps", "available"))
    if len(rows) == 1:
        rows.append(
            Row("gpu", "none", "ok", "the micro model and small experiments run on the CPU")
        )
    rows.append(Row("auto", f"{torch_device('auto')}, where a run names no device"))
    return rows


def _attention() -> list[Row]:
    """Every backend on the best device: its distance to the formula in float64, its time against `plain`."""
    import torch

    from engine.dtypes import torch_device
    from engine.models.attention import BACKENDS, has_kernel

    device = torch_device("auto")
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 4, 512, 64, generator=generator) for _ in range(3))
    exact = (q.double() @ k.double().mT / 8).softmax(-1) @ v.double()
    q, k, v = (x.to(device, dtype) for x in (q, k, v))
    rows = []
    yardstick = float("nan")  # the time of plain, which comes first
    for name, attention in BACKENDS.items():
        if not has_kernel(name, device):
            rows.append(Row(name, f"not for {device.type}", "absent"))
            continue
        try:
            result = attention(q, k, v)
        except (RuntimeError, ImportError, ValueError, AssertionError, TypeError) as fault:
            reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
            status: Status = "fail" if name in REQUIRED_ATTENTION else "absent"
            words = textwrap.shorten(reason, 100, placeholder=" ...")
            rows.append(Row(name, f"does not work here: {words}", status))
            continue
        distance = float((result.cpu().double() - exact).norm() / exact.norm())
        seconds = _seconds(partial(attention, q, k, v), device)
        yardstick = seconds if name == "plain" else yardstick
        ratio = yardstick / seconds
        rows.append(
            Row(
                name,
                f"relative error {distance:.1e}, {ratio:.1f}x the speed of plain ({device}, {dtype})",
            )
        )
    return rows


def _seconds(call: Callable[[], object], device: object) -> float:
    """The least of five timings."""
    import torch

    times = []
    for _ in range(6):
        started = time.perf_counter()
        call()
        if getattr(device, "type", "cpu") == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _ffmpeg() -> Row:
    import imageio_ffmpeg

    from engine.errors import ComponentError
    from engine.output.encoders import writable
    from presets.output.formats import DEFAULT, FORMATS

    try:
        names = writable()
        version = imageio_ffmpeg.get_ffmpeg_version()
    except (ComponentError, OSError, subprocess.SubprocessError) as error:
        mend = "pip install --force-reinstall imageio-ffmpeg"
        return Row("ffmpeg", f"does not run: {error}", "fail", mend)
    lacks = [name for name in FORMATS if name not in names]
    if DEFAULT in lacks:
        return Row("ffmpeg", f"{version}, without libx264", "fail", "unset IMAGEIO_FFMPEG_EXE")
    found = f"{version}, writes {', '.join(names)}"
    return Row("ffmpeg", f"{found}; not {', '.join(lacks)}" if lacks else found)


def _store(root: Path) -> list[Row]:
    from store.database.sqlite import has_wal_reset_bug, sqlite3
    from store.errors import StoreError
    from store.store import open_store

    # one that is not there yet is made, and whether it can be is told by the database
    is_folder = root.is_dir() or not root.exists()
    rows = [Row("folder", str(root), "ok" if is_folder else "fail")]
    library = f"{sqlite3.sqlite_version} ({sqlite3.__name__})"
    if has_wal_reset_bug():
        hint = "it can lose pages when several processes write: pip install pysqlite3"
        rows.append(Row("sqlite", library, "warn", hint))
    else:
        rows.append(Row("sqlite", library))
    try:
        with open_store(root) as store:
            store.check()
            engines = store.engines()
    except (StoreError, OSError) as error:
        return [*rows, Row("database", str(error), "fail", "or set MODIFF_STORE to another folder")]
    running = ", ".join(f"pid {engine.pid}" for engine in engines)
    return [*rows, Row("database", "intact"), Row("engines", running or "none running")]


def main() -> None:
    """`python -m engine.doctor`: the findings as plain lines."""
    from store.paths import store_root

    for section in examine(store_root()).sections:
        for row in section.rows:
            sys.stdout.write(
                f"{section.title}\t{row.name}\t{row.value}\t{row.status}\t{row.hint}\n"
            )


if __name__ == "__main__":
    main()
