"""A store that was recorded from real runs, for screens that must look the same every day: rows, times and previews as
they were; of blobs only their sizes.

`python -m tests.stores.recorded_store FOLDER` makes the runs with the real engine and writes the data beside the tests.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from store.blobs.blobs import blob_path
from store.database.database import immediate, rows
from store.index.index import open_index
from store.index.previews import decode_preview, encode_preview, get_preview, put_preview
from store.store import Store, open_store
from store.upkeep.contents import scan_blobs

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "recorded_store.json.gz"
TABLES = ("runs", "stages", "events", "tags", "links", "run_links")
OUTPUT_FOLDER = "/videos"
# Of the steps 1, 5, 8, 12 and the last: enough for every picture of a screen.
PREVIEWED = (0, 4, 7, 11, 19)
STAR = "a small yellow star moves up over a dark blue background"


def play(root: Path) -> Store:
    """The recorded store, written to `root` and opened."""
    recorded = json.loads(gzip.decompress(DATA.read_bytes()))
    store = open_store(root)
    with immediate(store.lineage) as connection:
        for table in TABLES:
            for row in recorded["tables"][table]:
                names = ", ".join(row)
                marks = ", ".join("?" * len(row))
                connection.execute(
                    f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values())
                )
    for digest, num_bytes in recorded["blobs"].items():
        path = blob_path(root, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(num_bytes)
        os.utime(path, ns=(recorded["ns"], recorded["ns"]))
    with open_index(root) as index:
        for key, text in recorded["previews"].items():
            preview = decode_preview(base64.b64decode(text))
            assert preview is not None
            put_preview(index, key, preview)
    return store


def recorded_ns() -> int:
    """When the last recorded run ended."""
    ns: int = json.loads(gzip.decompress(DATA.read_bytes()))["ns"]
    return ns


def _make(folder: Path) -> None:
    """The runs: a finished one, a branch of it, a branch of that one's decoding, a failed one, and three that wait."""

    def modiff(*arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "tui.cli", *arguments],
            cwd=folder,
            env={**os.environ, "MODIFF_STORE": str(folder / "store"), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        return json.loads(done.stdout)["run"] if "--json" in arguments else done.stdout.strip()

    star = modiff("run", "micro", "--prompt", STAR, "--seed", "7", "--json")
    strong = modiff("branch", star, "--at", "8", "--set", "guidance.scale=4", "--json")
    modiff("branch", strong, "--at", "14", "--set", "scheduler.name=euler", "--json")
    modiff("branch", star, "--at", "decode", "--set", "fps=8", "--json")
    modiff(
        "run",
        "micro",
        "--prompt",
        "a large red circle stands still over a white background",
        "--json",
    )
    modiff("tag", star, "good", "star")
    modiff("pin", star)
    modiff("note", strong, "too strong, the star loses a point")
    modiff("engine", "stop")
    for seed in (1, 2, 3):
        with open_store(folder / "store") as store:
            from engine.client import submit
            from presets.library.loading import load_preset

            spec = load_preset("micro", [f"seed={seed}"], values={"prompt": STAR})
            submit(store, spec, preset="micro", output=str(folder / f"modiff-{seed}.mp4"))


def _record(folder: Path) -> dict[str, Any]:
    with open_store(folder / "store") as store, open_index(folder / "store") as index:
        tables = {table: _rows(store, table) for table in TABLES}
        blobs, _ = scan_blobs(store.root)
        previews = {
            row["key"]: base64.b64encode(encode_preview(preview)).decode()
            for row in tables["run_links"]
            if row["stage"] == "step" and row["idx"] in PREVIEWED
            if (preview := get_preview(index, row["key"])) is not None
        }
    text = json.dumps(tables).replace(str(folder), OUTPUT_FOLDER).replace(str(ROOT), "/modiff")
    ends = [row["ended_ns"] for row in tables["runs"] if row["ended_ns"]]
    return {
        "ns": max(ends),
        "tables": json.loads(text),
        "blobs": {digest: blob.num_bytes for digest, blob in blobs.items()},
        "previews": previews,
    }


def _rows(store: Store, table: str) -> list[dict[str, Any]]:
    names = [name for _, name, *_ in rows(store.lineage, f"PRAGMA table_info({table})")]
    return [
        dict(zip(names, row, strict=True)) for row in rows(store.lineage, f"SELECT * FROM {table}")
    ]


if __name__ == "__main__":
    scratch = Path(sys.argv[1]).absolute()
    scratch.mkdir(parents=True)
    _make(scratch)
    DATA.write_bytes(gzip.compress(json.dumps(_record(scratch)).encode(), mtime=0))
