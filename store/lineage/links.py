"""Links: what was made for a key, and which run saw it.

One key stands for one result: whoever records it first is right, and a later run that got other
bytes is told so in its log; until the result is found unfaithful on this machine (it does not
replay here), and what was computed here takes its place. A row may speak of blobs that were lost;
whoever reads them finds out (every read is verified), and `forget_blob` makes a miss of it.
"""

from __future__ import annotations

import json
import time
from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any

from store.blobs.blobs import blob_path
from store.database.database import Lineage, immediate, rows
from store.lineage import history
from store.lineage.damage import sound
from store.lineage.events import LinkStored, Message
from store.lineage.records import SOURCES, LinkRecord, RunLink
from store.lineage.runs import OF_PEOPLE, status_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from store.lineage.events import Event

_COLUMNS = (
    "key, kind, digest, latents, state, bytes, seconds, environment, facts, created_ns, used_ns, "
    "resume_at, keep"
)
_SEEN_COLUMNS = "run_id, stage, idx, key, digest, latents, sigma, timestep, source, seconds"
_SHORT_DIGEST = len("sha256:") + 12


def find(lineage: Lineage, keys: Sequence[str]) -> dict[str, LinkRecord]:
    """The links of these keys, by key; a key without one, or whose row is damaged, is left out."""
    found = rows(
        lineage,
        f"SELECT {_COLUMNS} FROM links WHERE key IN (SELECT value FROM json_each(?))",
        (json.dumps(list(keys)),),
    )
    return {link.key: link for link in sound(lineage, "links", _COLUMNS, found, _link)}


def record(
    lineage: Lineage,
    run_id: str,
    link: LinkRecord,
    *,
    stage: str,
    index: int,
    source: str,
    seconds: float,
    sigma: float | None = None,
    timestep: float | None = None,
    replaces: bool = False,
) -> LinkRecord:
    """Record that a run computed or reused a link, with its event; returns what the key now has.

    The blobs must be stored already. A key that is known keeps its first result, whatever `link`
    says; the run's own row has what it saw, and its log a warning when the two differ. A known
    link that was thinned or lost its blob takes what it lacks from `link`.

    replaces: what the key has was found unfaithful on this machine. If `link` differs from it, it
    takes its place, keyframe included, as made now, and the run's log says so. Runs that saw the
    one before keep its digest, and with that its blob.

    seconds is what this run spent on it. A link that is recorded again for one run replaces the
    run's row: a resumed run has "reused" what it computed before.
    """
    if source not in SOURCES:
        raise ValueError(f"source {source!r}; expected one of {SOURCES}")
    now = time.time_ns()
    events: list[Event] = [
        LinkStored(stage, index, link.key, link.digest, link.latents, source),
    ]
    with immediate(lineage) as connection:
        status_of(lineage, connection, run_id)
        known = find(lineage, [link.key]).get(link.key)
        if known is None:
            kept = replace(link, created_ns=now, used_ns=now)
        else:
            if replaces and _differ(known, link):
                kept = replace(link, created_ns=now, used_ns=now)
                events.append(_replacement(known, link, stage, index))
            else:
                kept = replace(_merged(known, link), used_ns=now)
                events += _difference(known, link, stage, index)
        values = astuple(kept)
        connection.execute(
            f"INSERT OR REPLACE INTO links ({_COLUMNS}) VALUES ({', '.join('?' * len(values))})",
            values,
        )
        connection.execute(
            "INSERT OR REPLACE INTO run_links (run_id, stage, idx, key, digest, latents, sigma, "
            "timestep, source, seconds) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run_id,
                stage,
                index,
                link.key,
                link.digest,
                link.latents,
                sigma,
                timestep,
                source,
                seconds,
            ),
        )
        history.insert(connection, run_id, events)
    return kept


def of_run(lineage: Lineage, run_id: str) -> list[RunLink]:
    """The links of a run by stage and index, but those whose rows are damaged."""
    found = rows(
        lineage,
        f"SELECT {_SEEN_COLUMNS} FROM run_links WHERE run_id=? ORDER BY stage, idx",
        (run_id,),
    )
    return sound(lineage, "run_links", _SEEN_COLUMNS, found, lambda row: RunLink(*row))


def runs_of(lineage: Lineage, digest: str) -> list[str]:
    """The runs of people that have seen a result of these bytes or ended with these latents, the oldest first."""
    found = rows(
        lineage,
        f"SELECT id FROM runs WHERE {OF_PEOPLE} AND (latents=?1 OR id IN "
        "(SELECT run_id FROM run_links WHERE digest=?1)) ORDER BY seq",
        (digest,),
    )
    return [str(run_id) for (run_id,) in found]


def forget_blob(lineage: Lineage, digest: str) -> int:
    """Make a miss of a blob that is gone or damaged; returns how many links spoke of it.

    Runs keep what they saw, and links the digest of their latents: a result that is computed again can still be
    checked against it.
    """
    return forget_blobs(lineage, [digest])[digest]


def forget_blobs(lineage: Lineage, digests: Sequence[str]) -> dict[str, int]:
    """As `forget_blob` for each of them, in one transaction."""
    for digest in digests:
        blob_path(lineage.root, digest)  # refuses what is no digest
    with immediate(lineage) as connection:
        return {
            digest: connection.execute(
                "UPDATE links SET digest=iif(digest=?1, '', digest), "
                "state=iif(state=?1, '', state), "
                "bytes=iif(digest IN ('', ?1) AND state IN ('', ?1), 0, bytes) "
                # each half as its index has it
                "WHERE (digest=?1 AND digest<>'') OR (state=?1 AND state<>'')",
                (digest,),
            ).rowcount
            for digest in digests
        }


def steps_done(lineage: Lineage, run_ids: Sequence[str]) -> dict[str, int]:
    """How many steps of each of these runs are on record, computed or reused; a run without any is left out."""
    return dict(
        rows(
            lineage,
            "SELECT run_id, count(*) FROM run_links WHERE stage='step' "
            "AND run_id IN (SELECT value FROM json_each(?)) GROUP BY run_id",
            (json.dumps(list(run_ids)),),
        )
    )


def _link(row: tuple[Any, ...]) -> LinkRecord:
    return LinkRecord(*row)


def _merged(known: LinkRecord, link: LinkRecord) -> LinkRecord:
    """The known link with what it lacks; taken whole from `link` where nothing of it is stored."""
    if not (known.digest or known.state):
        latents = link.latents or known.latents
        return replace(link, latents=latents, created_ns=known.created_ns)
    if _differ(known, link):
        return known
    digest, state = known.digest or link.digest, known.state or link.state
    if (digest, state) == (known.digest, known.state):
        num_bytes = known.num_bytes
    elif (digest, state) == (link.digest, link.state):
        num_bytes = link.num_bytes
    else:
        num_bytes = known.num_bytes + link.num_bytes
    return replace(
        known,
        digest=digest,
        latents=known.latents or link.latents,
        state=state,
        num_bytes=num_bytes,
        resume_at=link.resume_at if known.resume_at is None else known.resume_at,
        keep=known.keep or link.keep,
    )


def _differ(known: LinkRecord, link: LinkRecord) -> bool:
    pairs = ((known.digest, link.digest), (known.latents, link.latents))
    return any(old and new and old != new for old, new in pairs)


def _difference(known: LinkRecord, link: LinkRecord, stage: str, index: int) -> list[Event]:
    """The warning that a key gave other bytes than before, if it did."""
    if not _differ(known, link):
        return []
    what, old, new = _what_differs(known, link)
    text = (
        f"{stage} {index}: the same key {link.key} gave another {what} than before: "
        f"{old} is on record, this run got {new}"
    )
    return [Message("warning", text)]


def _replacement(known: LinkRecord, link: LinkRecord, stage: str, index: int) -> Message:
    what, old, new = _what_differs(known, link)
    text = (
        f"{stage} {index}: the {what} on record for {link.key} does not replay here; "
        f"{new[:_SHORT_DIGEST]} takes the place of {old[:_SHORT_DIGEST]}"
    )
    return Message("info", text)


def _what_differs(known: LinkRecord, link: LinkRecord) -> tuple[str, str, str]:
    """(what, known digest, other digest) of two links that differ."""
    if known.digest and link.digest and known.digest != link.digest:
        return "result", known.digest, link.digest
    return "latents", known.latents, link.latents
