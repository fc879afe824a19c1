"""A store on a disk without a free byte, or on a read-only one: what only looks works, and what gives space back."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.forker import ROOT, forker


def told(tmp_path: Path, situation: str, state: str) -> dict:
    """What small_disk.py prints; the test is skipped where it cannot mount a disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=6m tmpfs {disk}"
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("this machine lets a test mount no disk")
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    process = forker().start(
        "tests.integration.small_disk",
        *(str(disk), situation, state),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        environment=environment,
        faults=[{"fault": "elsewhere", "commands": [mount]}],
    )
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out)


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
    after = json.loads(found["afterwards"][1])["runs"]
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
    after = json.loads(found["afterwards"][1])["runs"]
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
