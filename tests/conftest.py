"""Every test runs on folders of its own: never on the user's store, presets or models."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds this test's `store`, `config` and `models`."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MODIFF_STORE", str(home / "store"))
    monkeypatch.setenv("MODIFF_CONFIG_DIR", str(home / "config"))
    monkeypatch.setenv("MODIFF_MODELS", str(home / "models"))
    monkeypatch.delenv("NO_COLOR", raising=False)
    return home
