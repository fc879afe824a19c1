"""Options that several commands share, so that they mean and say the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

from tui.cli.completion import complete_preset, complete_run, complete_setting
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
expand_option = click.option(
    "--expand",
    is_flag=True,
    help="Have a language model write the prompt out first; components.prompt_expander says which.",
)
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace an output that is already there."
)


class _Signed(click.Option):
    """An option whose values join those of `--set`, in the order typed, with a sign before each."""

    def __init__(self, *args: Any, sign: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sign = sign

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        super().add_to_parser(parser, ctx)
        for name in self.opts:
            option = parser._long_opt[
                name
            ]  # click has no other way to tell options of one list apart
            option.process = partial(self._take, option.process)

    def _take(self, take: Callable[[str, Any], None], value: str, state: Any) -> None:
        take(self.sign + value, state)


def set_option(command: F) -> F:
    """--set, --add and --remove: one list of overrides (`presets.settings.overrides`), in the order typed."""
    for option in (
        click.option(
            "--remove",
            "overrides",
            cls=_Signed,
            sign="-",
            metavar="ITEM",
            multiple=True,
            help="Take an item out of a list, for example 'extensions[0]'. Repeatable.",
        ),
        click.option(
            "--add",
            "overrides",
            cls=_Signed,
            sign="+",
            metavar="LIST=VALUE",
            multiple=True,
            help="Append an item to a list, for example extensions.name=teacache. Repeatable; "
            "--set 'extensions[-1]...' goes on with it.",
        ),
        click.option(
            "--set",
            "overrides",
            metavar="KEY=VALUE",
            multiple=True,
            shell_complete=complete_setting,
            help="Change one setting, for example scheduler.steps=12. Repeatable, applied in order "
            "with --add and --remove; `modiff presets show --keys` lists the keys.",
        ),
    ):
        command = option(command)
    return command


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
