"""Folders of tests. pytest's own are numbered by looking at all that are there, which for thousands of tests takes
longer than most of them; and they are on a disk, where each that is made and removed is looked for in its tables.
"""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import pytest

MEMORY = Path("/dev/shm")
NAME = "modiff-tests-"
ROOM = 6 << 30  # bytes; what is left there by the suite is a tenth of it
_numbers = itertools.count()


def in_memory() -> Path | None:
    """A folder in memory for all that tests write, named after this process; None where there is not the room."""
    try:
        _remove_of_ended()
        if min(psutil.virtual_memory().available, shutil.disk_usage(MEMORY).free) < ROOM:
            return None
        folder = MEMORY / f"{NAME}{os.getpid()}"
        folder.mkdir(mode=0o700)
    except OSError:
        return None
    return folder


def _remove_of_ended() -> None:
    for folder in MEMORY.glob(f"{NAME}*"):
        if not psutil.pid_exists(int(folder.name.removeprefix(NAME))):
            shutil.rmtree(folder, ignore_errors=True)


def new_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    folder = factory.getbasetemp() / f"{next(_numbers)}-{name}"
    folder.mkdir(mode=0o700)
    return folder


def is_empty(folder: Path) -> bool:
    try:
        return not any(folder.iterdir())
    except OSError:  # a test has taken it away, or the right to look
        return False


def live_in(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Nothing of the user's is found: not the store, presets, models or home."""
    monkeypatch.setenv("HOME", str(home))  # where ComfyUI's folders are looked for
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    for name in ("HF_HOME", "HUGGINGFACE_HUB_CACHE", "COMFYUI_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODIFF_STORE", str(home / "store"))
    monkeypatch.setenv("MODIFF_CONFIG_DIR", str(home / "config"))
    monkeypatch.setenv("MODIFF_MODELS", str(home / "models"))
    monkeypatch.delenv("NO_COLOR", raising=False)
