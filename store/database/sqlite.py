"""The one place where SQLite is imported, through sqlite-utils.

sqlite-utils prefers pysqlite3 (a current SQLite) over the system's library. Exceptions must be
caught from this module: the two libraries' classes are unrelated. One file is never opened
through both libraries in one process, because closing one would drop the other's locks.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any


def _without_numpy(module: str) -> Any:
    """Import a module while numpy and pandas look as if they were not installed.

    sqlite-utils imports both, when present, only to know their scalar types: a tenth of a second
    and 20 MB in a viewer that never stores one.
    """
    hidden = [name for name in ("numpy", "pandas") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not importable
    try:
        return importlib.import_module(module)
    finally:
        for name in hidden:
            del sys.modules[name]


if TYPE_CHECKING:
    import sqlite3

    from sqlite_utils import Database
else:
    Database = _without_numpy("sqlite_utils").Database
    sqlite3 = importlib.import_module("sqlite_utils.utils").sqlite3

__all__ = ["Database", "has_wal_reset_bug", "sqlite3"]


def has_wal_reset_bug(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Whether this SQLite may lose pages when a checkpoint races with a commit (sqlite.org)."""
    fixed = (3, 44, 6) <= version < (3, 45) or (3, 50, 7) <= version < (3, 51)
    return (3, 7, 0) <= version < (3, 51, 3) and not fixed
