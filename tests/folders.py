"""Folders of tests. pytest's own are numbered by looking at all that are there, which for thousands of tests takes
longer than most of them.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

_numbers = itertools.count()


def new_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    folder = factory.getbasetemp() / f"{next(_numbers)}-{name}"
    folder.mkdir(mode=0o700)
    return folder


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
