"""Options that several commands share, so that they mean and say the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from tui.cli.completion import complete_preset, complete_run
from tui.cli.prompts import prompt_option
from tui.cli.seeds import seed_option

F = TypeVar("F", bound=Callable[..., Any])
Read = TypeVar("Read")


def read_by(read: Callable[[str], Read]) -> Callable[..., Read | None]:
    """The callback of an option whose text `read` understands, or says in a ValueError why not."""

    def callback(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Read | None:
        try:
            return None if text is None else read(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


run_argument = click.argument("run", shell_complete=complete_run)
runs_argument = click.argument(
    "run_prefixes", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_run
)
preset_argument = click.argument("preset", shell_complete=complete_preset)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
result_json_option = click.option(
    "--json", "as_json", is_flag=True, help="End stdout with one JSON object."
)
detach_option = click.option(
    "--detach", is_flag=True, help="Print the run's id and leave it running."
)
notify_option = click.option(
    "--notify",
    is_flag=True,
    help="Call you at the end: the terminal's bell, and a notification of the desktop.",
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress and no narration.")
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace an output that is already there."
)
set_option = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change one setting, for example scheduler.steps=12. Repeatable; "
    "`modiff presets show --keys` lists the keys.",
)


def prompt_options(command: F) -> F:
    """--prompt, --negative-prompt and --seed."""
    for option in (
        click.option(
            "--seed",
            callback=seed_option,
            metavar="N",
            help="Seed of the initial noise, 0 to 2^64 - 1; random draws one and tells it.",
        ),
        click.option(
            "--negative-prompt",
            callback=prompt_option,
            metavar="TEXT",
            help="What to steer away from; @FILE as of --prompt.",
        ),
        click.option(
            "--prompt",
            callback=prompt_option,
            metavar="TEXT",
            help="What to show; @FILE is the text of a file, @@ begins a text with @.",
        ),
    ):
        command = option(command)
    return command


def named_values(**values: object) -> dict[str, object]:
    """The options that were given, by the keys of a run that they set: `__` in a name is a dot."""
    return {
        name.replace("__", "."): value
        for name, value in values.items()
        if value is not None and value is not False
    }
