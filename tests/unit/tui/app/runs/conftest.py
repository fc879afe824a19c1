"""A store in the folder that runs write to, and an engine that is only wanted."""

from __future__ import annotations

import pytest

from store.store import open_store
from tui.app.app import ModiffApp


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store() as opened:
        yield opened


@pytest.fixture(autouse=True)
def started(monkeypatch) -> list[str]:
    """Instead of an engine: a word for each time that one was wanted."""
    wanted: list[str] = []
    monkeypatch.setattr(ModiffApp, "ensure_engine", lambda _app: wanted.append("engine"))
    return wanted
