"""Runs and links on their way between the database and a manifest."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from store.bundle.manifest import (
    LinkRow,
    Manifest,
    RunRow,
    SeenRow,
    SegmentRow,
    StageRow,
    parents_first,
)
from store.bundle.portable import (
    portable_json,
    portable_preset,
    portable_spec,
    portable_text,
)
from store.lineage import history, links, runs
from store.lineage.events import LatentsStored, Message, RunFinished, StageFinished
from store.lineage.records import PAUSED
from store.lineage.runs import ID_LENGTH
from store.upkeep.needs import keep_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.database.database import Lineage
    from store.database.sqlite import sqlite3
    from store.lineage.events import Event
    from store.lineage.records import RunRecord


@dataclass(frozen=True, slots=True)
class ImportedRun:
    """A run of a bundle. id: what it has here; bundled_id: what it has there. is_new: was not here."""

    id: str
    bundled_id: str
    is_new: bool


def described(lineage: Lineage, record: RunRecord) -> RunRow:
    """A run as a bundle tells of it: the same on every machine that has it."""
    return RunRow(
        id=record.id,
        status=record.status,
        preset=portable_preset(record.preset),
        spec=portable_spec(record.spec_json.decode()),
        segments=tuple(
            SegmentRow(stop=segment.stop, spec=portable_spec(segment.spec_json.decode()))
            for segment in record.segments
        ),
        stop_at=record.stop_at,
        parent=record.parent,
        parent_step=record.parent_step,
        note=portable_text(record.note),
        tags=runs.tags_of(lineage, [record.id])[record.id],
        latents=record.latents,
        environment=record.environment and portable_json(record.environment),
        created_ns=record.created_ns,
        started_ns=record.started_ns,
        ended_ns=record.ended_ns,
        stages=tuple(
            StageRow(name=stage.name, seconds=stage.seconds, cached=stage.cached)
            for stage in history.stages(lineage, record.id)
        ),
        seen=tuple(
            SeenRow(
                stage=link.stage,
                index=link.index,
                key=link.key,
                digest=link.digest,
                latents=link.latents,
                sigma=link.sigma,
                timestep=link.timestep,
                source=link.source,
                seconds=link.seconds,
            )
            for link in links.of_run(lineage, record.id)
        ),
        rating=record.rating,
    )


def links_of(lineage: Lineage, run_rows: Sequence[RunRow]) -> tuple[LinkRow, ...]:
    """The links that these runs saw and that the store still has, with all the digests it has."""
    found = links.find(lineage, [seen.key for run in run_rows for seen in run.seen])
    return tuple(
        LinkRow(
            key=link.key,
            kind=link.kind,
            digest=link.digest,
            latents=link.latents,
            state=link.state,
            seconds=link.seconds,
            environment=link.environment and portable_json(link.environment),
            facts=portable_json(link.facts),
            resume_at=link.resume_at,
            # what its kind says of it already would only keep an older modiff from reading it
            keep="" if link.keep == keep_of(link.kind) else link.keep,
        )
        for _, link in sorted(found.items())
    )


def insert_runs(
    lineage: Lineage, connection: sqlite3.Connection, manifest: Manifest
) -> list[ImportedRun]:
    """Add the runs that are not here, inside the caller's transaction.

    A run whose id another run has here gets one that follows from what it is, so that importing
    it again finds it. Labels do not tell runs apart: a run that is here keeps its own.
    """
    ids: dict[str, str] = {}
    imported = []
    stored = {blob.digest for blob in manifest.blobs}
    for bundled in parents_first(manifest.runs):
        run = msgspec.structs.replace(bundled, parent=ids.get(bundled.parent, bundled.parent))
        for attempt in itertools.count():
            run_id = _candidate(bundled, attempt)
            known = runs.select(lineage, "WHERE id=?", (run_id,))
            if not known or _is_same(described(lineage, known[0]), run):
                break
        if not known:
            made_by = manifest.made_by or "an unknown program"
            _insert_run(connection, msgspec.structs.replace(run, id=run_id), made_by, stored)
        ids[bundled.id] = run_id
        imported.append(ImportedRun(run_id, bundled.id, is_new=not known))
    return imported


def insert_links(connection: sqlite3.Connection, manifest: Manifest) -> tuple[int, int]:
    """Add the links, inside the caller's transaction; (how many were added, how many differ).

    What the store has for a key stays, as everywhere: a link that differs is not taken.
    """
    sizes = {blob.digest: blob.size for blob in manifest.blobs}
    num_added = num_different = 0
    now = time.time_ns()
    for link in manifest.links:
        known = connection.execute(
            "SELECT digest, latents, state FROM links WHERE key=?", (link.key,)
        ).fetchone()
        if known is not None and (known[0] or known[2] or not (link.digest or link.state)):
            given = (link.digest, link.latents, link.state)
            num_different += any(a and b and a != b for a, b in zip(known, given, strict=True))
            continue
        num_bytes = sum(sizes[digest] for digest in {link.digest, link.state} - {""})
        connection.execute(
            "INSERT OR REPLACE INTO links (key, kind, digest, latents, state, bytes, seconds, "
            "environment, facts, created_ns, used_ns, resume_at, keep) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                link.key,
                link.kind,
                link.digest,
                link.latents,
                link.state,
                num_bytes,
                link.seconds,
                link.environment,
                link.facts,
                now,
                now,
                link.resume_at,
                link.keep,
            ),
        )
        num_added += 1
    return num_added, num_different


def _insert_run(
    connection: sqlite3.Connection, run: RunRow, made_by: str, stored: set[str]
) -> None:
    is_paused = run.status == PAUSED
    connection.execute(
        "INSERT INTO runs (id, status, is_paused, preset, spec, output, created_ns, started_ns, "
        "ended_ns, parent, parent_step, segments, stop_at, note, latents, environment, rating, "
        "origin) VALUES (?, ?, ?, ?, ?, '', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'import')",
        (
            run.id,
            "interrupted" if is_paused else run.status,
            is_paused,
            run.preset,
            run.spec,
            run.created_ns,
            run.started_ns,
            run.ended_ns,
            run.parent,
            run.parent_step,
            json.dumps([[segment.stop, segment.spec] for segment in run.segments]),
            run.stop_at,
            run.note,
            run.latents,
            run.environment,
            run.rating,
        ),
    )
    connection.executemany(
        "INSERT INTO tags (run_id, tag) VALUES (?, ?)", [(run.id, tag) for tag in run.tags]
    )
    connection.executemany(
        "INSERT INTO run_links (run_id, stage, idx, key, digest, latents, sigma, timestep, source, "
        "seconds) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                run.id,
                seen.stage,
                seen.index,
                seen.key,
                seen.digest,
                seen.latents,
                seen.sigma,
                seen.timestep,
                seen.source,
                seen.seconds,
            )
            for seen in run.seen
        ],
    )
    told: list[Event] = [
        Message("info", f"the run came in a bundle that {made_by} made"),
        *(StageFinished(stage.name, stage.seconds, stage.cached) for stage in run.stages),
        *([LatentsStored(run.latents)] if run.latents in stored else []),
        RunFinished(run.status),
    ]
    history.insert(connection, run.id, told)


def _candidate(run: RunRow, attempt: int) -> str:
    """The id that a run has in the bundle; from the second attempt on one of what it is."""
    if attempt == 0:
        return run.id
    content = msgspec.json.encode([run, attempt], order="sorted")
    return base64.b32encode(hashlib.sha256(content).digest()).decode().lower()[:ID_LENGTH]


def _is_same(known: RunRow, run: RunRow) -> bool:
    return known == msgspec.structs.replace(
        run, id=known.id, note=known.note, tags=known.tags, rating=known.rating
    )
