"""What a shell is offered, and the lines by which it asks."""

from __future__ import annotations

import subprocess

import click
import pytest

from tui.cli.commands.runs.run import run
from tui.cli.completion import complete_setting
from tui.cli.main import main


def offered(incomplete: str) -> list[str]:
    return [item.value for item in complete_setting(None, None, incomplete)]


def test_settings_are_completed_and_what_they_can_be():
    assert offered("scheduler.s") == ["scheduler.steps=", "scheduler.shift=", "scheduler.sigmas="]
    assert offered("scheduler.name=e") == ["scheduler.name=euler"]
    assert offered("output.overwrite=") == ["output.overwrite=true", "output.overwrite=false"]
    assert offered("seed=") == offered("nothing=") == offered("nothing") == []


@pytest.mark.parametrize("option", ["--image", "--last-image", "--video"])
def test_files_are_left_to_the_shell(option):
    (found,) = [each for each in run.params if option in each.opts]
    (item,) = found.shell_complete(click.Context(run), "cl")
    assert (item.value, item.type) == ("cl", "file")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_ask(capsys, shell):
    assert main(["completion", shell]) == 0
    told = capsys.readouterr().out
    assert f"_MODIFF_COMPLETE={shell}_complete" in told
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=told.encode(), check=True)


def test_a_reader_that_has_read_enough_is_no_failure(monkeypatch):
    def gone(_text):
        raise BrokenPipeError

    monkeypatch.setattr("tui.cli.main.close_output", lambda: None)
    monkeypatch.setattr("tui.cli.commands.completion.click.echo", gone)
    assert main(["completion", "zsh"]) == 0


def test_keys_inside_lists_are_offered():
    assert offered("extensions[0].") == [
        "extensions[0].name=",
        "extensions[0].enabled=",
        "extensions[0].options=",
    ]
    assert offered("extensions[0].enabled=t") == ["extensions[0].enabled=true"]
