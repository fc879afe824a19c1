"""Seeds as people give them: numbers of 64 bits, and random ones that are drawn and told."""

from __future__ import annotations

import re

import pytest

from presets.encoding import decode_spec
from presets.settings.seeds import random_seed, with_drawn
from tui.cli.main import main
from tui.cli.settings.seeds import drawn_in

TOLD = re.compile(r"^the seed is (\d+)$", re.MULTILINE)


def seeds(store) -> list[int]:
    """Of the queued runs, in their order."""
    runs = sorted(store.runs(limit=100), key=lambda run: run.created_ns)
    return [decode_spec(run.spec_json).seed for run in runs]


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_seeds_have_64_bits(capsys, store, seed):
    assert main(["run", "micro", "--detach", "--seed", str(seed)]) == 0
    assert main(["sweep", "micro", "--detach", "--over", f"seed={seed}..{seed}"]) == 0
    assert seeds(store) == [seed, seed]
    assert not TOLD.search(capsys.readouterr().err)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "micro", "--seed", "random"),
        ("run", "micro", "--seed", "-1"),
        ("run", "micro", "--seed=-1"),
        ("run", "micro", "--set", "seed=random"),
        ("run", "micro", "--set", "seed = -1"),
        ("sweep", "micro", "--over", "seed=random"),
        ("sweep", "micro", "--over", "guidance.scale=2", "--seed", "random"),
    ],
)
def test_a_random_seed_is_drawn_and_told(capsys, store, arguments):
    for _ in range(2):
        assert main([*arguments, "--detach"]) == 0
    told = [int(seed) for seed in TOLD.findall(capsys.readouterr().err)]
    assert seeds(store) == told
    assert len(set(told)) == 2


def test_a_branch_has_a_random_seed_too(capsys, store):
    main(["run", "micro", "--detach"])
    run_id = capsys.readouterr().out.strip()
    assert main(["branch", run_id, "--at", "0", "--seed", "random", "--detach"]) == 0
    (told,) = TOLD.findall(capsys.readouterr().err)
    assert seeds(store) == [0, int(told)]


def test_some_seeds_of_a_sweep_can_be_random(capsys, store):
    assert main(["sweep", "micro", "--over", "seed=7, random,-1", "--detach"]) == 0
    told = [int(seed) for seed in TOLD.findall(capsys.readouterr().err)]
    assert (len(set(told)), sorted(seeds(store))) == (2, sorted([7, *told]))


def test_so_many_random_seeds_are_drawn_and_told(capsys, store):
    assert main(["sweep", "micro", "--over", "seed=3 random, 7", "--detach"]) == 0
    told = [int(seed) for seed in TOLD.findall(capsys.readouterr().err)]
    assert (len(set(told)), sorted(seeds(store))) == (3, sorted([7, *told]))


@pytest.mark.parametrize("values", ["0 random", "99999 random", "x random", "1..3", "random 3", ""])
def test_what_asks_for_no_drawing_stays_as_it_is(values):
    assert with_drawn(values) == (values, [])


def test_quiet_draws_and_says_nothing(capsys, store):
    assert main(["run", "micro", "--seed", "random", "--detach", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert seeds(store)[0] < 2**31


@pytest.mark.parametrize("seed", ["-2", str(2**64), "1.5", "lucky", ""])
def test_what_is_no_seed_is_refused_in_words(capsys, store, seed):
    assert main(["run", "micro", f"--seed={seed}"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "random" in line
    assert "defect" not in line


def test_only_seeds_are_drawn(capsys):
    untouched = ("prompt=random", "scheduler.steps=-1", "seed=1..3", "seed", "prompt=seed=random")
    assert drawn_in(untouched) == untouched
    assert capsys.readouterr().err == ""


def test_a_drawn_seed_can_be_said():
    assert all(0 <= random_seed() < 2**31 for _ in range(100))
