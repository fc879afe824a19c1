"""A few seconds of each fuzzer with the same cases each time; `python -m tests.fuzz KIND --minutes 10` for more."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from engine.remote import client, wire
from tests.fuzz import bundles, pictures, presets, requests, responses, running, weights
from tests.fuzz.running import fuzz

KINDS = {
    "weights": (weights.make, 30),
    "presets": (presets.make, 60),
    "bundles": (bundles.make, 60),
    "requests": (requests.make, 100),
    "responses": (responses.make, 100),
    "pictures": (pictures.make, 150),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_in_a_file_it_is_taken_or_refused_in_one_line(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    # what the fuzzers of requests and responses put in the place of the network, taken back afterwards
    for holder, name in (
        (wire, "_memory"),
        (client, "_clients"),
        (logging.root.manager, "disable"),
    ):
        monkeypatch.setattr(holder, name, getattr(holder, name))
    make, num_cases = KINDS[kind]
    done = fuzz(make, tmp_path, seed=0, cases=range(num_cases))
    assert not done.faults, "\n".join(trace for _, trace in done.faults.values())
    assert done.num_taken >= num_cases // 100  # or nothing beyond the first look would be tried
    assert len(done.reasons) >= 10


# That the fuzzers see what they look for


def faults(tmp_path: Path, act: Callable[[Path], str], num_cases: int = 1) -> list[str]:
    def make(folder: Path) -> Callable[[Random, Path], str]:
        return lambda random, place: act(place)

    return list(fuzz(make, tmp_path / "work", seed=0, cases=range(num_cases)).faults)


def test_another_error_is_a_fault(tmp_path: Path) -> None:
    def act(place: Path) -> str:
        raise KeyError(place)

    [told] = faults(tmp_path, act)
    assert told.startswith("KeyError in ")


@pytest.mark.parametrize("reason", ["two\nlines", "\x1b[2J", "x" * 2000])
def test_a_reason_that_is_not_one_line_is_a_fault(tmp_path: Path, reason: str) -> None:
    assert "not one line" in faults(tmp_path, lambda place: reason)[0]


def test_what_takes_long_or_much_memory_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "MAX_SECONDS", -1.0)
    assert faults(tmp_path, lambda place: "")[0].startswith("took ")
    monkeypatch.setattr(running, "MAX_SECONDS", 100.0)
    monkeypatch.setattr(running, "MAX_PEAK_BYTES", -1)
    assert "bytes at once" in faults(tmp_path, lambda place: "")[0]
    monkeypatch.undo()
    monkeypatch.setattr(running, "WARM_CASES", 1)
    monkeypatch.setattr(running, "MAX_GROWTH_BYTES", -(1 << 40))
    assert faults(tmp_path, lambda place: "", num_cases=2) == ["growth"]


def test_what_is_written_elsewhere_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    outside: list[Callable[[Path], object]] = [
        lambda place: (tmp_path / "new").write_text("x"),
        lambda place: (tmp_path / "mine").unlink(),
        lambda place: (tmp_path / "folder").mkdir(),
        lambda place: os.rename(tmp_path / "mine", place / "mine"),
        lambda place: shutil.rmtree(tmp_path / "work" / "prepared" / ".." / ".." / "x"),
        lambda place: (place / ".." / "beside").write_text("x"),
        lambda place: os.symlink("/etc", tmp_path / "link"),
        lambda place: subprocess.run(["true"]),
    ]
    for act in outside:
        assert faults(tmp_path, lambda place, act=act: str(act(place) and "")), act
    assert [path.name for path in tmp_path.iterdir()] in (["mine", "work"], ["work", "mine"])
    assert faults(tmp_path, lambda place: str((place / "x").write_text("x") and "")) == []


def test_the_same_seed_and_number_make_the_same_case(tmp_path: Path) -> None:
    seen: list[float] = []

    def make(folder: Path) -> Callable[[Random, Path], str]:
        return lambda random, place: str(seen.append(random.random()) or "")

    fuzz(make, tmp_path, seed=7, cases=range(3))
    fuzz(make, tmp_path, seed=7, cases=range(1, 3))
    fuzz(make, tmp_path, seed=8, cases=range(1))
    assert seen[3:5] == seen[1:3]
    assert len(set(seen)) == 4
