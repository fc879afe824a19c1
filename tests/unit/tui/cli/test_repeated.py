"""An option with one value that is given twice: which of the two is meant nobody knows."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from tui.cli.main import COMMANDS, cli, main


def single_valued() -> Iterator[tuple[tuple[str, ...], str]]:
    """(words of a command, an option of it that takes one value)."""
    waiting = [((name,), cli.get_command(click.Context(cli), name)) for name in COMMANDS]
    while waiting:
        words, command = waiting.pop(0)
        if isinstance(command, click.Group):
            waiting += [((*words, name), each) for name, each in command.commands.items()]
        for option in command.params:
            if isinstance(option, click.Option) and not (option.multiple or option.is_flag):
                yield words, option.opts[0]


@pytest.mark.parametrize(("words", "option"), list(single_valued()), ids=str)
def test_an_option_with_one_value_is_given_once(capsys, words, option):
    assert main([*words, option, "1", option, "1"]) == 2
    assert f"Error: {option} is given 2 times; it takes one value" in capsys.readouterr().err


def test_what_may_be_given_more_than_once_is_taken(capsys):
    assert (
        main(["presets", "show", "micro", "--set", "seed=1", "--set", "seed=2", "--json", "--json"])
        == 0
    )
    assert '"seed": 2' in capsys.readouterr().out
