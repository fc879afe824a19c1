"""A store on a disk without a free byte, or on a read-only one: what only looks works, and what gives space back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Runs where a small disk of its own is mounted at `disk`; prints what each command of each situation did.
IN_THERE = """
import asyncio, json, os, shutil, subprocess, sys, time
from pathlib import Path
from store.database.database import immediate
from store.store import open_store
from tests import bundles
from store.upkeep.removal import Policy
from tests.made_stores import make_run
from tests.opened import opened
from tui.app.app import ModiffApp
from tui.describe.space import remove_by
from tui.app.top_line import TopLine
from tui.app.preferences import Preferences
from tui.app.runs.screen import Runs

disk = Path(sys.argv[1])
root = disk / "store"
environment = {**os.environ, "MODIFF_STORE": str(root)}


def fill():
    with open(disk / "filling", "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass


def modiff(*arguments):
    command = [sys.executable, "-m", "tui.cli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return [done.returncode, done.stdout, done.stderr]


def keep_open():
    # as a killed engine leaves it: the files of the write-ahead log are there
    code = "import os, sys; from store.store import open_store; s = open_store(sys.argv[1]); s.pin(sys.argv[2]); " \\
        "s.unpin(sys.argv[2]); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, str(root), runs[1].id], check=True)


async def in_app(*, cleans=False):
    "What the app shows of its runs and on top; or after a clean-up."
    app = ModiffApp(root, preferences=Preferences(screen="runs"))
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot)
        while app.status is None or not app.screen.runs.rows:
            assert not app.trouble, app.trouble
            await pilot.pause(0.05)
        freed = 0
        if cleans:
            freed = (await app.lab.work.cleaning(remove_by, Policy(budget_bytes=0))).freed_bytes
            (disk / "filling").unlink()
            await app.look_once()
        return {
            "runs": sorted(row.record.id for row in app.screen.runs.rows),
            "top": str(app.screen.query_one(TopLine).render()),
            "notices": [notice.message for notice in app._notifications],
            "freed": freed,
            "trouble": app.trouble,
        }


with open_store(root) as store:
    exported = bundles.make_run(store)
    runs = [make_run(store, name, num_bytes=100_000, age_days=2) for name in ("first", "second")]
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE runs SET status='running', engine='gone', ended_ns=NULL WHERE id=?", (runs[0].id,))
looks = [["runs"], ["show", runs[1].id], ["tree"], ["plan", "micro"], ["store", "info"], ["store", "ls"],
         ["store", "verify"], ["engine", "status"], ["store", "gc", "--dry-run"]]
told = {}
if sys.argv[2] == "full":
    if sys.argv[3] == "killed":
        keep_open()
    fill()
    for look in looks:
        told[" ".join(look[:2])] = modiff(*look)
        fill()
    told["app"] = asyncio.run(in_app())
    fill()
    told["run"] = modiff("run", "micro", "--output", str(disk.parent / "out.mp4"))
    told["engine stop"] = modiff("engine", "stop")
    fill()
    told["gc"] = modiff("store", "gc", "--budget", "0")
    (disk / "filling").unlink()
    told["afterwards"] = modiff("runs", "--json")
elif sys.argv[2] == "full, in the app":
    if sys.argv[3] == "killed":
        keep_open()
    fill()
    told["app"] = asyncio.run(in_app(cleans=True))
    told["afterwards"] = modiff("runs", "--json")
else:
    looks.append(["store", "export", exported, "--output", str(disk.parent / "bundle.modiff")])
    if sys.argv[3] == "killed":
        keep_open()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for look in looks:
        told[" ".join(look[:2])] = modiff(*look)
    told["app"] = asyncio.run(in_app())
    told["note"] = modiff("note", runs[1].id, "text")
told["ids"] = [run.id for run in runs]
told["exported"] = exported
print(json.dumps(told))
"""


def told(tmp_path: Path, situation: str, state: str) -> dict:
    """What IN_THERE prints; the test is skipped where it cannot mount a disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=6m tmpfs {disk}"
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("this machine lets a test mount no disk")
    command = ["unshare", "-Urm", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c"]
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [*command, IN_THERE, str(disk), situation, state],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


LOOKS = (
    "runs",
    "show",
    "tree",
    "plan micro",
    "store info",
    "store ls",
    "store verify",
    "engine status",
)


def check_looks(found: dict, *more: str) -> None:
    """All that only looks has worked; more: other commands."""
    for look in (*LOOKS, *more):
        code, out, error = found[look if look in found else f"{look} {found['ids'][1]}"]
        assert code == 0, f"{look}: {out} {error}"


@pytest.mark.parametrize("state", ["ended", "killed"])
def test_without_a_free_byte_all_can_be_seen_and_space_be_given_back(tmp_path, state):
    found = told(tmp_path, "full", state)
    first, second = found["ids"]
    check_looks(found, "store gc")
    assert first in found["runs"][1]
    assert "runs of engines that are gone are told as running: no space left" in found["runs"][2]
    assert found["app"]["runs"] == sorted([first, second, found["exported"]])
    assert "✖ disk full  ○ no engine" in found["app"]["top"]
    assert any("the store's disk is full" in notice for notice in found["app"]["notices"])
    assert found["engine stop"][0] == 0
    code, _, error = found["run"]
    assert code == 1
    assert "the disk is full" in error
    assert "modiff store gc" in error
    code, out, error = found["gc"]
    assert code == 0, error
    assert "freed" in out  # also of the run whose engine is gone
    after = json.loads(found["afterwards"][1])
    assert {run["run"]: run["status"] for run in after} == {
        first: "interrupted",
        second: "done",
        found["exported"]: "done",
    }


@pytest.mark.parametrize("state", ["ended", "killed"])
def test_the_app_gives_space_back_where_there_is_none(tmp_path, state):
    found = told(tmp_path, "full, in the app", state)
    first, _ = found["ids"]
    assert found["app"]["trouble"] == ""
    assert "full" not in found["app"]["top"]
    assert found["app"]["freed"] > 500_000
    after = json.loads(found["afterwards"][1])
    assert {run["run"]: run["status"] for run in after}[first] == "interrupted"


@pytest.mark.parametrize("state", ["ended", "killed"])
def test_a_read_only_store_can_be_looked_at(tmp_path, state):
    found = told(tmp_path, "read-only", state)
    check_looks(found, "store export")
    assert (tmp_path / "bundle.modiff").stat().st_size > 4_000
    assert found["app"]["runs"] == sorted([*found["ids"], found["exported"]])
    assert "▲ read-only  ○ no engine" in found["app"]["top"]
    assert any("and no more: cannot write" in notice for notice in found["app"]["notices"])
    code, _, error = found["note"]
    assert code == 1
    assert "cannot write" in error
    assert len(error.splitlines()) == 1
