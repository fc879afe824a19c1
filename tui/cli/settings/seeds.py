"""Seeds as people give them: a number, or `random` for one that is drawn and told; -1 means the same elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from presets.settings.seeds import RANDOM, random_seed, with_drawn

if TYPE_CHECKING:
    from collections.abc import Iterable


def seed_option(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | str | None:
    """The text of `--seed`, which `drawn_seed` makes a number of. Raises click.BadParameter."""
    if text is None:
        return None
    if text.strip() in RANDOM:
        return "random"
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor random") from None


def drawn_seed(seed: int | str | None, *, quiet: bool = False) -> int | None:
    """The seed that `--seed` means."""
    return _drawn(quiet=quiet) if isinstance(seed, str) else seed


def drawn_in(settings: Iterable[str], *, quiet: bool = False) -> tuple[str, ...]:
    """`KEY=VALUE` and `KEY=VALUES` with each seed drawn that is to be."""
    return tuple(_drawn_in(setting, quiet=quiet) for setting in settings)


def _drawn_in(setting: str, *, quiet: bool) -> str:
    key, _, values = setting.partition("=")
    if key.strip() != "seed":
        return setting
    values, drawn = with_drawn(values)
    for seed in drawn if not quiet else ():
        click.echo(f"the seed is {seed}", err=True)
    return f"seed={values}" if drawn else setting


def _drawn(*, quiet: bool) -> int:
    seed = random_seed()
    if not quiet:
        click.echo(f"the seed is {seed}", err=True)
    return seed
