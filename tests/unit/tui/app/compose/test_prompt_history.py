"""The prompts of before: of the app and of every run."""

from __future__ import annotations

from tui.app.compose.prompt_history import in_order


def test_prompts_of_runs_that_were_started_elsewhere_are_there_once_and_newest_last():
    remembered = ["a star", "never ran", "a circle"]
    ran = ["a circle", "by the command line", " ", "a star", "a star"]
    assert in_order(remembered, ran) == ["never ran", "a circle", "by the command line", "a star"]
    assert in_order([], []) == []
