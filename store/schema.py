"""The tables of lineage.db, as numbered migrations; `user_version` counts those applied.

A migration that was released is never edited: a change of the schema is a new entry, and only
adds (tables, columns with defaults, indexes), so that an engine started before it goes on.
Order is by `seq` and `id`, never by time: clocks jump.
"""

from __future__ import annotations

APPLICATION_ID = 0x6D6F6466  # "modf": tells our database from any other SQLite file

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        f"PRAGMA application_id={APPLICATION_ID}",
        """
        CREATE TABLE runs (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            status TEXT NOT NULL CHECK (status IN
                ('queued', 'running', 'done', 'failed', 'cancelled', 'interrupted')),
            preset TEXT NOT NULL,
            spec TEXT NOT NULL,
            output TEXT NOT NULL,
            engine TEXT NOT NULL DEFAULT '',
            error TEXT NOT NULL DEFAULT '',
            cancel_requested INTEGER NOT NULL DEFAULT 0,
            created_ns INTEGER NOT NULL,
            started_ns INTEGER,
            ended_ns INTEGER
        )
        """,
        "CREATE INDEX runs_status ON runs (status, seq)",
        """
        CREATE TABLE stages (
            id INTEGER PRIMARY KEY,
            run_id TEXT NOT NULL REFERENCES runs (id),
            name TEXT NOT NULL,
            seconds REAL NOT NULL,
            cached INTEGER NOT NULL,
            UNIQUE (run_id, name)
        )
        """,
        """
        CREATE TABLE events (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            run_id TEXT NOT NULL REFERENCES runs (id),
            ns INTEGER NOT NULL,
            json TEXT NOT NULL
        )
        """,
        "CREATE INDEX events_run ON events (run_id, id)",
        """
        CREATE TABLE engines (
            id TEXT PRIMARY KEY,
            pid INTEGER NOT NULL,
            host TEXT NOT NULL,
            started_ns INTEGER NOT NULL,
            heartbeat_ns INTEGER NOT NULL
        )
        """,
    ),
)

SCHEMA_VERSION = len(MIGRATIONS)
