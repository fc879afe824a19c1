"""Every test runs on folders of its own: never on the user's store, presets, models or home."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Where CI runs us under `nohup` or in the background, signals are ignored, and what the tests start would
    inherit that. A signal with a handler is its default again in a new program."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds this test's `store`, `config` and `models`, and is its home."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))  # where ComfyUI's folders are looked for
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    for name in ("HF_HOME", "HUGGINGFACE_HUB_CACHE", "COMFYUI_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODIFF_STORE", str(home / "store"))
    monkeypatch.setenv("MODIFF_CONFIG_DIR", str(home / "config"))
    monkeypatch.setenv("MODIFF_MODELS", str(home / "models"))
    monkeypatch.delenv("NO_COLOR", raising=False)
    return home
