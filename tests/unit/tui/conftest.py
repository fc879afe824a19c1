"""What tests of commands share; a module's own fixture of a name goes before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The user's store, with no engine for what is queued in it; the test's own folder is the current one."""
    monkeypatch.chdir(tmp_path)
    for place in ("engine.process.launch.ensure_engine", "engine.runs.following.ensure_engine"):
        monkeypatch.setattr(place, lambda store: None)
    with open_store() as opened:
        yield opened
