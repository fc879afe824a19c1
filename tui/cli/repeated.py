"""An option that takes one value and is given more than once: refused, where click would take the last one silently."""

from __future__ import annotations

from collections import Counter
from functools import cache

import click


@cache  # a command is looked up more than once, and is one object all the time
def refusing_repeated(command: click.Command) -> click.Command:
    """The command, which from now on refuses such options with a UsageError, as do those of its group."""
    parse_args = command.parse_args

    def parse_checked(ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            _check(command, ctx, args)
        return parse_args(ctx, args)

    command.parse_args = parse_checked  # type: ignore[method-assign]
    for each in command.commands.values() if isinstance(command, click.Group) else ():
        refusing_repeated(each)
    return command


def _check(command: click.Command, ctx: click.Context, args: list[str]) -> None:
    _, _, order = command.make_parser(ctx).parse_args(args=[*args])
    for option, times in Counter(order).items():
        if not isinstance(option, click.Option) or times == 1:
            continue
        if not (option.multiple or option.is_flag or option.count):
            raise click.UsageError(
                f"{max(option.opts, key=len)} is given {times} times; it takes one value", ctx=ctx
            )
