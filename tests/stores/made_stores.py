"""Stores with runs that were never computed: real blobs, links and runs, of any age and status."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field

from store.blobs import blobs
from store.database.database import Lineage, immediate
from store.keys import derive_key
from store.lineage.records import LinkRecord
from store.upkeep.contents import Blob, Contents, LinkRow, RunLinkRow, RunRow

STEP_BYTES = 1000
ENGINE = "engineaaaa"  # of a run that runs; alive where the test has the fixture `engine`
DAY_NS = 86_400 * 10**9


@dataclass
class Made:
    """A run that was made: its id, the keys of its steps, and the digests of what was stored."""

    id: str
    keys: list[str]
    steps: list[str] = field(default_factory=list)
    keyframes: dict[int, str] = field(default_factory=dict)
    text: str = ""
    latents: str = ""
    video: str = ""


def put(store, name, num_bytes=STEP_BYTES, *, age_days=0.0):
    """A blob of its own bytes, written as if so long ago; its digest."""
    data = (f"{name}/".encode() * (num_bytes // len(name) + 1))[:num_bytes]
    digest = blobs.digest_of(data)
    path = blobs.blob_path(store.root, digest)
    if not path.exists():  # not durable: hundreds of these are made
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o400)
    ns = time.time_ns() - int(age_days * DAY_NS)
    os.utime(path, ns=(ns, ns))
    return digest


def make_run(
    store,
    name,
    *,
    num_steps=4,
    parent=None,
    at=0,
    status="done",
    pinned=False,
    paused=False,
    age_days=0.0,
    seconds=1.0,
    keyframes=(),
    thinned=(),
    contents=None,
    num_bytes=STEP_BYTES,
    outputs=True,
):
    """A run that shares its first `at` steps with the run `parent`, and so their links.

    keyframes, thinned: steps with a keyframe, and those without a journal entry. contents: names
    of the steps' bytes, so that different steps may be of equal bytes.
    """
    run_id = store.enqueue(
        b'{"prompt": "a"}', preset=name, output="o", parent=parent.id if parent else ""
    )
    made = Made(run_id, list(parent.keys[:at]) if parent else [])

    def record(kind, key, index, digest="", latents="", state="", size=0, **facts):
        link = LinkRecord(key, kind, digest, latents, state, size, seconds, **facts)
        store.record_link(run_id, link, stage=kind, index=index, source="computed", seconds=seconds)

    made.text = put(store, f"text {name}", 300, age_days=age_days)
    record("text", derive_key("text", name), 0, made.text, size=300)
    for index in range(num_steps):
        if parent and index < at:
            made.steps.append(parent.steps[index])
            known = store.find_links([made.keys[index]])[made.keys[index]]
            store.record_link(
                run_id, known, stage="step", index=index, source="reused", seconds=0.0
            )
            continue
        before = made.keys[-1] if made.keys else "noise"
        key = derive_key("step", [before, name, index])
        content = contents[index] if contents else f"velocity {name} {index}"
        digest = "" if index in thinned else put(store, content, num_bytes, age_days=age_days)
        state = ""
        if index in keyframes:
            state = put(store, f"state {name} {index}", 3 * num_bytes, age_days=age_days)
            made.keyframes[index] = state
        made.keys.append(key)
        made.steps.append(digest)
        size = (num_bytes if digest else 0) + (3 * num_bytes if state else 0)
        latents = blobs.digest_of(f"latents {name} {index}".encode())
        if outputs and index == num_steps - 1:
            latents = made.latents = put(store, f"latents {name}", 500, age_days=age_days)
        record("step", key, index, digest, latents, state, size, facts=facts_after(before, index))
    if outputs:
        made.video = put(store, f"video {name}", 700, age_days=age_days)
        record("video", derive_key("video", name), 0, made.video, size=700)
        store.set_latents(run_id, made.latents)
    used_ns = time.time_ns() - int(age_days * DAY_NS)
    with immediate(store.lineage) as connection:
        connection.execute(
            "UPDATE links SET used_ns=? WHERE key IN (SELECT key FROM run_links WHERE run_id=?)",
            (used_ns, run_id),
        )
        connection.execute(
            "UPDATE runs SET status=?, pinned=?, is_paused=?, created_ns=?, engine=? WHERE id=?",
            (
                "interrupted" if paused else status,
                pinned,
                paused,
                used_ns,
                ENGINE if status == "running" else "",
                run_id,
            ),
        )
    return made


def on_disk(store):
    """The digests of all blobs."""
    return {f"sha256:{path.name}" for path in (store.root / "blobs").rglob("?" * 64)}


def promised(store):
    """The digests whose bytes some link says are stored."""
    rows = store.lineage.db.execute("SELECT digest, state FROM links").fetchall()
    return {digest for row in rows for digest in row if digest}


def large(num_runs: int, num_steps: int) -> Contents:
    """Runs in fours, each branched from the one before it halfway; as rows alone, without a store."""
    links, run_links, runs, found = [], [], [], {}
    for run in range(num_runs):
        parent = "" if run % 4 == 0 else f"run {run - 1}"
        runs.append(RunRow(f"run {run}", "done", False, run % 100 == 0, parent, "", "p", run))
        for index in range(num_steps):
            key = f"k {run if index >= num_steps // 2 or not parent else run // 4 * 4} {index}"
            digest = blobs.digest_of(key.encode())
            if digest not in found:
                links.append(LinkRow(key, "step", digest, "", "", 100, 1.0, run * DAY_NS // 100))
                found[digest] = Blob(100, 0)
            run_links.append(RunLinkRow(f"run {run}", "step", index, key, digest, "", 1.0))
    return Contents(found, links, run_links, runs)


def put_rows(lineage: Lineage, contents: Contents) -> None:
    """The runs and steps of `large` as rows of a store; each link with facts of 900 bytes."""
    with immediate(lineage) as connection:
        connection.executemany(
            "INSERT INTO runs (id, status, preset, spec, output, created_ns) "
            "VALUES (?, 'done', 'p', '{}', 'o', 1)",
            [(run.id,) for run in contents.runs],
        )
        connection.executemany(
            "INSERT INTO links (key, kind, digest, bytes, seconds, created_ns, used_ns, facts) "
            "VALUES (?, 'step', ?, 100, 1, 1, 1, ?)",
            [(link.key, link.digest, '{"x":"%s"}' % ("y" * 900)) for link in contents.links],
        )
        connection.executemany(
            "INSERT INTO run_links (run_id, stage, idx, key, digest, latents, source, seconds) "
            "VALUES (?, 'step', ?, ?, ?, '', 'computed', 1)",
            [(row.run, row.idx, row.key, row.digest) for row in contents.run_links],
        )


def facts_after(before: str, index: int) -> str:
    """What a step's row says of the one before it: as today, and every second one as before a run was a graph."""
    if index % 2:
        return json.dumps({"parent": before})
    return json.dumps({"inputs": {"before": f"state/{before}"}})
