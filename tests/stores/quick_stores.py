"""A new store is a copy of one that was made the usual way: its tables are made once for all stores of a process."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from store.database import database
from store.database.schema import MIGRATIONS

if TYPE_CHECKING:
    import pytest

_create = database._create_private


def copy_new_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    _made()  # before a test watches where files are written
    monkeypatch.setattr(database, "_create_private", _copied)


def _copied(path: Path) -> None:
    if path.exists() or database.MIGRATIONS is not MIGRATIONS:
        _create(path)
        return
    draft = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    try:
        draft.touch(mode=0o600)
        draft.write_bytes(_made())
        os.link(draft, path)  # as a whole, and only where there is none
    except OSError:
        _create(path)
        return
    finally:
        draft.unlink(missing_ok=True)
    (path.parent / "locks" / "migrate").touch(mode=0o600)
    database._mark_in_use(path.parent)


@cache
def _made() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        create, database._create_private = database._create_private, _create
        try:
            database.open_lineage(root, busy_seconds=60.0).close()
        finally:
            database._create_private = create
        return (root / "lineage.db").read_bytes()
