"""`modiff completion`: the lines by which a shell completes commands, presets, runs and settings."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")

_EPILOG = """\b
Examples:
  modiff completion bash > ~/.local/share/bash-completion/completions/modiff
  modiff completion fish > ~/.config/fish/completions/modiff.fish
  eval "$(modiff completion zsh)"        # in ~/.zshrc
"""


@click.command(epilog=_EPILOG)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes a shell complete modiff.

    Commands, options, presets, the ids of runs, and the settings behind --set.
    """
    from click.shell_completion import get_completion_class

    from tui.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None  # click has each of them
    click.echo(kind(cli, {}, "modiff", "_MODIFF_COMPLETE").source())
