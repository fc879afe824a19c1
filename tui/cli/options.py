"""Options and arguments of many commands, so that they mean and say the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from tui.cli.completion import complete_preset, complete_run

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
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress and no narration.")
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace an output that is already there."
)
stop_at_option = click.option(
    "--stop-at",
    type=click.IntRange(min=1),
    metavar="STEP",
    help="Do only so many steps and show what they point to; `modiff finish` goes on.",
)
