"""All that is wrong with a preset is told at once."""

from __future__ import annotations

import pytest

from presets.library.problems import MAX_PROBLEMS, preset_problems

FOUR = """\
extends = "micro"
prmpt = "a"
seed = -3
frames = 18

[guidance]
scalee = 3

[scheduler]
name = "ddim"
sigmas = [0.5, 0.6]

[[extensions]]
nam = "teacache"
"""


def keys(path, text):
    return [error.key for error in preset_problems(path, text=text)]


def test_each_wrong_key_is_found_once(tmp_path):
    assert keys(tmp_path / "a.toml", FOUR) == [
        *("prmpt", "seed", "scheduler.name", "guidance.scalee"),
        *("extensions[0].nam", "extensions[0].name"),
        *("frames", "scheduler.sigmas"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('extends = "micro"', []),
        ("seed = ", [""]),
        ('extends = "nobody"\nseed = -1', ["seed", "extends"]),
        # of a list with several wrong items the first is told, and what follows from it is not
        ("[scheduler]\nsigmas = [7, 8]\nsteps = 0", ["scheduler.steps", "scheduler.sigmas[0]"]),
        ("guidance = 3\nseed = -1", ["guidance", "seed"]),
    ],
)
def test_what_follows_from_another_problem_is_not_told(tmp_path, text, expected):
    assert sorted(keys(tmp_path / "a.toml", text)) == sorted(expected)


def test_a_parent_is_told_with_its_first_problem(user_presets):
    old, new = user_presets / "old.toml", user_presets / "new.toml"
    old.write_text("seed = -1\nwidth = 1")
    new.write_text('extends = "old"\nframes = 2')
    own, of_parent = preset_problems("new")
    assert (own.key, own.source) == ("frames", str(new))
    assert of_parent.source == str(old)


def test_there_is_an_end(tmp_path):
    text = "\n".join(f"wrong{number} = 1" for number in range(2 * MAX_PROBLEMS))
    assert len(keys(tmp_path / "a.toml", text)) == MAX_PROBLEMS
