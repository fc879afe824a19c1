"""A store on a small disk that is full or read-only, and what commands and the app make of it: run by
test_full_disk.py where such a disk is mounted.

Arguments: the folder of the disk, the situation ("full", "full, in the app", "read-only") and whether the last one to
write "ended" or was "killed". Prints what each command of the situation did.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from store.database.database import immediate
from store.store import open_store
from store.upkeep.removal import Policy
from tests.integration.forker import be
from tests.stores import bundles
from tests.stores.made_stores import make_run
from tests.terminals.opened import opened
from tui.app.app import ModiffApp
from tui.app.preferences import Preferences
from tui.app.runs.screen import Runs
from tui.app.top_line import TopLine
from tui.describe.space import remove_by


def fill(disk: Path) -> None:
    with (disk / "filling").open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass


def modiff(disk: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command in a process of its own."""
    request = {
        "program": "tui.cli.main",
        "arguments": arguments,
        "environment": {**os.environ, "MODIFF_STORE": str(disk / "store")},
        "folder": str(disk.parent),
    }
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as err,
    ):
        pid = os.fork()
        if not pid:
            nothing = os.open(os.devnull, os.O_RDONLY)
            be(request, (nothing, out.fileno(), err.fileno()))
        _, status = os.waitpid(pid, 0)
        for file in (out, err):
            file.seek(0)
        return os.waitstatus_to_exitcode(status), out.read(), err.read()


def keep_open(root: Path, run_id: str) -> None:
    """As a killed engine leaves it: the files of the write-ahead log are there."""
    pid = os.fork()
    if not pid:
        store = open_store(root)
        store.pin(run_id)
        store.unpin(run_id)
        os._exit(0)
    os.waitpid(pid, 0)


async def in_app(disk: Path, *, cleans: bool = False) -> dict[str, Any]:
    """What the app shows of its runs and on top; or after a clean-up."""
    app = ModiffApp(disk / "store", preferences=Preferences(screen="runs"))
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        while app.status is None or not isinstance(app.screen, Runs) or not app.screen.runs.rows:
            assert not app.trouble, app.trouble
            await pilot.pause(0.05)
        screen = app.screen
        freed = 0
        if cleans:
            freed = (await app.lab.work.cleaning(remove_by, Policy(budget_bytes=0))).freed_bytes
            (disk / "filling").unlink()
            await app.look_once()
        return {
            "runs": sorted(row.record.id for row in screen.runs.rows),
            "top": str(screen.query_one(TopLine).render()),
            "notices": [notice.message for notice in app._notifications],
            "freed": freed,
            "trouble": app.trouble,
        }


def main() -> None:
    disk, situation, state = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    root = disk / "store"
    with open_store(root) as store:
        exported = bundles.make_run(store)
        runs = [
            make_run(store, name, num_bytes=100_000, age_days=2) for name in ("first", "second")
        ]
        with immediate(store.lineage) as connection:
            connection.execute(
                "UPDATE runs SET status='running', engine='gone', ended_ns=NULL WHERE id=?",
                (runs[0].id,),
            )
    first, second = (run.id for run in runs)
    if state == "killed":
        keep_open(root, second)
    told = SITUATIONS[situation](disk, second, exported)
    told |= {"ids": [first, second], "exported": exported}
    sys.stdout.write(json.dumps(told))


def looks(run_id: str) -> list[tuple[str, ...]]:
    return [
        ("runs",),
        ("show", run_id),
        ("tree",),
        ("plan", "micro"),
        ("store", "info"),
        ("store", "ls"),
        ("store", "verify"),
        ("engine", "status"),
        ("store", "gc", "--dry-run"),
    ]


def full(disk: Path, run_id: str, exported: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    fill(disk)
    for look in looks(run_id):
        told[" ".join(look[:2])] = modiff(disk, *look)
        fill(disk)
    told["app"] = asyncio.run(in_app(disk))
    fill(disk)
    told["run"] = modiff(disk, "run", "micro", "--output", str(disk.parent / "out.mp4"))
    told["engine stop"] = modiff(disk, "engine", "stop")
    fill(disk)
    told["gc"] = modiff(disk, "store", "gc", "--budget", "0")
    (disk / "filling").unlink()
    told["afterwards"] = modiff(disk, "runs", "--json")
    return told


def full_in_the_app(disk: Path, run_id: str, exported: str) -> dict[str, Any]:
    fill(disk)
    shown = asyncio.run(in_app(disk, cleans=True))
    return {"app": shown, "afterwards": modiff(disk, "runs", "--json")}


def read_only(disk: Path, run_id: str, exported: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    bundle = str(disk.parent / "bundle.modiff")
    for look in (*looks(run_id), ("store", "export", exported, "--output", bundle)):
        told[" ".join(look[:2])] = modiff(disk, *look)
    told["app"] = asyncio.run(in_app(disk))
    told["note"] = modiff(disk, "note", run_id, "text")
    return told


SITUATIONS = {"full": full, "full, in the app": full_in_the_app, "read-only": read_only}
