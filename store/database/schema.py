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
    (
        "ALTER TABLE runs ADD COLUMN parent TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE runs ADD COLUMN parent_step INTEGER",
        # JSON: [[stop, text of the spec], ...]
        "ALTER TABLE runs ADD COLUMN segments TEXT NOT NULL DEFAULT '[]'",
        "ALTER TABLE runs ADD COLUMN stop_at INTEGER",
        "ALTER TABLE runs ADD COLUMN pause_requested INTEGER NOT NULL DEFAULT 0",
        # A paused run is 'interrupted' to an engine or viewer of version 1.
        "ALTER TABLE runs ADD COLUMN is_paused INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE runs ADD COLUMN note TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE runs ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE runs ADD COLUMN latents TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE runs ADD COLUMN environment TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE runs ADD COLUMN origin TEXT NOT NULL DEFAULT 'local' "
        "CHECK (origin IN ('local', 'import'))",
        # Place in the queue; NULL: its seq.
        "ALTER TABLE runs ADD COLUMN queue_order INTEGER",
        "CREATE INDEX runs_parent ON runs (parent)",
        """
        CREATE TABLE tags (
            run_id TEXT NOT NULL REFERENCES runs (id),
            tag TEXT NOT NULL,
            PRIMARY KEY (run_id, tag)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE links (
            key TEXT PRIMARY KEY,
            kind TEXT NOT NULL,
            digest TEXT NOT NULL DEFAULT '',
            latents TEXT NOT NULL DEFAULT '',
            state TEXT NOT NULL DEFAULT '',
            bytes INTEGER NOT NULL,
            seconds REAL NOT NULL,
            environment TEXT NOT NULL DEFAULT '',
            facts TEXT NOT NULL DEFAULT '{}',
            created_ns INTEGER NOT NULL,
            used_ns INTEGER NOT NULL
        )
        """,
        "CREATE INDEX links_kind ON links (kind)",
        # No reference to links: what a run saw outlives a link that was thinned or collected.
        """
        CREATE TABLE run_links (
            run_id TEXT NOT NULL REFERENCES runs (id),
            stage TEXT NOT NULL,
            idx INTEGER NOT NULL,
            key TEXT NOT NULL,
            digest TEXT NOT NULL,
            latents TEXT NOT NULL,
            sigma REAL,
            timestep INTEGER,
            source TEXT NOT NULL CHECK (source IN ('computed', 'reused')),
            seconds REAL NOT NULL,
            PRIMARY KEY (run_id, stage, idx)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX run_links_key ON run_links (key)",
        "CREATE INDEX run_links_digest ON run_links (digest)",
    ),
    (
        # How many steps done the rest of an extension's state is computed again from; NULL: none.
        "ALTER TABLE links ADD COLUMN resume_at INTEGER",
        # What a clean-up makes of it (store.upkeep.needs); '': as the name of its kind says.
        "ALTER TABLE links ADD COLUMN keep TEXT NOT NULL DEFAULT ''",
        # Of the code that it runs; '': before there were any.
        "ALTER TABLE engines ADD COLUMN version TEXT NOT NULL DEFAULT ''",
        # Leases no more runs, and leaves with its present one.
        "ALTER TABLE engines ADD COLUMN retiring INTEGER NOT NULL DEFAULT 0",
        # The run that this one computes again to compare; such a row is no run of the user's.
        "ALTER TABLE runs ADD COLUMN verifies TEXT NOT NULL DEFAULT ''",
        # The SHA-256 that a name of weights stands for: a sample, or one with the digits of another
        # SHA-256 behind it (store.lineage.weights).
        """
        CREATE TABLE weights (
            sample TEXT PRIMARY KEY,
            sha256 TEXT NOT NULL
        ) WITHOUT ROWID
        """,
    ),
    (
        # Which links speak of a blob, asked once for each that is lost.
        "CREATE INDEX links_digest ON links (digest) WHERE digest<>''",
        "CREATE INDEX links_state ON links (state) WHERE state<>''",
    ),
    (
        # How well people like what it made, in stars; 0: nobody has said.
        "ALTER TABLE runs ADD COLUMN rating INTEGER NOT NULL DEFAULT 0 "
        "CHECK (rating BETWEEN 0 AND 5)",
    ),
    (
        # JSON: the names of the models that it has in memory (engine.components.memory.held), as of its last run.
        "ALTER TABLE engines ADD COLUMN held TEXT NOT NULL DEFAULT '[]'",
    ),
    (
        # JSON: the same models for people, [[kind, name, device, bytes], ...].
        "ALTER TABLE engines ADD COLUMN models TEXT NOT NULL DEFAULT '[]'",
        # Somebody wants the idle ones gone; what went then, as above.
        "ALTER TABLE engines ADD COLUMN release_requested INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE engines ADD COLUMN released TEXT NOT NULL DEFAULT '[]'",
    ),
)

SCHEMA_VERSION = len(MIGRATIONS)
