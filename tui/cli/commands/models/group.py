"""`modiff models`: the weights on this machine, wherever they lie. Looked at, never copied or changed.

Data goes to stdout. Exit code 1 when something is absent, broken or changed, 2 when nothing can be read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tui.cli.commands.models.convert import convert
from tui.cli.commands.models.get import get
from tui.cli.commands.models.verify import verify
from tui.cli.options import json_option
from tui.cli.output import print_json, print_lines
from tui.describe.models.files import block, of_wan, row
from tui.errors import BAD_INPUT, FAILED
from tui.text import columns, printable

if TYPE_CHECKING:
    from engine.checkpoints.library import Found
    from engine.components.needed import Needed

MAX_BROKEN = 20  # lines; a folder of another program may hold hundreds of files that are not for us


@click.group()
def models() -> None:
    """Find, download, inspect and check the models on this machine."""


models.add_command(verify)
models.add_command(convert)
models.add_command(get)


@models.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
@click.pass_context
def inspect(ctx: click.Context, path: Path, as_json: bool) -> None:
    """Say what weights are, from their headers alone.

    PATH is a weight file, the index of a sharded one, a folder, of which everything is told, or builtin:micro.
    Exit code 1 when some of it cannot be read, 2 when nothing can.
    """
    from engine.checkpoints.library import look, whole
    from engine.checkpoints.locate import BUILTIN, builtin_files
    from engine.checkpoints.source import sources_in
    from engine.errors import CheckpointError

    if str(path).startswith(BUILTIN):
        paths = builtin_files(str(path))
    else:
        paths = sources_in(path) if os.path.isdir(path) else [path]
    if not paths:
        raise CheckpointError(f"{path}: holds no weight file (safetensors, .pth or GGUF)")
    found = [whole(look(path)) for path in paths]
    if as_json:
        print_json({"models": [row(each) for each in found]})
    for number, each in enumerate(found):
        if each.error:
            click.echo(printable(each.error), err=True)
        elif not as_json:
            click.echo("\n".join(([""] if number else []) + block(each)))
    num_broken = sum(bool(each.error) for each in found)
    if num_broken:
        ctx.exit(BAD_INPUT if num_broken == len(found) else FAILED)


@models.command("list")
@json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List all models in all places.

    Files that are no part of Wan are only counted; --json has them too. Exit code 1 when some cannot be read.
    """
    from engine.checkpoints.library import scan_places

    found = scan_places()
    if as_json:
        print_json({"models": [row(each) for each in found]})
    else:
        _print_list(found)
    if any(each.error for each in found):
        ctx.exit(FAILED)


def _print_list(found: Sequence[Found]) -> None:
    known = of_wan(found)
    _print_table(known)
    broken = [each for each in found if each.error]
    if broken:
        click.echo("\ncannot be used:" if known else "cannot be used:")
    for each in broken[:MAX_BROKEN]:
        click.echo(f"  {printable(each.error)}")
    if len(broken) > MAX_BROKEN:
        click.echo(
            f"  and {len(broken) - MAX_BROKEN} more; `modiff models list --json` has them all"
        )
    click.echo("builtin:micro comes with modiff", err=True)
    if num_others := len(found) - len(known) - len(broken):
        click.echo(f"and {num_others} weight files that are no part of Wan", err=True)
    if not known:
        _say_where_it_looked()


@models.command()
@click.argument("name", required=False)
@click.option("--preset", is_flag=True, help="NAME is a preset: where all its components are.")
@json_option
@click.pass_context
def where(ctx: click.Context, name: str | None, preset: bool, as_json: bool) -> None:
    """Say where models are looked for, or where one is.

    NAME is a model such as wan2.1-t2v-14b, or a preset: then every model that it uses is told. The first file
    is the one that is used. Exit code 1 when one is absent, with what to get and where to put it.
    """
    if name is None:
        if preset:
            raise click.UsageError("--preset needs the name of a preset")
        _print_places(as_json=as_json)
        return
    from engine.checkpoints.known.catalogue import MODELS
    from engine.checkpoints.library import scan_places
    from engine.components.needed import named
    from tui.describe.models import missing

    among = scan_places()
    models = [] if preset else [model for model in MODELS if model.name == name]
    if models:
        answers = [named(model.kind, model.name, among) for model in models]
    else:
        answers = _of_preset(name, among, is_named_so=preset)
    if as_json:
        parts = [
            {
                "component": each.kind,
                "name": each.name,
                "found": [row(f) for f in each.found],
                "absence": each.absence,
                "missing": told,
            }
            for each, told in zip(answers, missing.as_json(answers), strict=True)
        ]
        print_json({"components": parts})
    for each in answers:
        if each.found and not as_json:
            click.echo(f"{printable(each.name)} ({missing.title_of(each)})")
            _print_table(each.found, indent="  ")
    lacks = missing.absent(answers)
    for line in (
        [each.absence for each in lacks]
        if models
        else missing.lines(answers, name)
        if lacks
        else ()
    ):
        # of a model that is absent: that, what there is of it to get, and where it may be
        click.echo("\n  ".join(printable(line).split("; ")), err=True)
    if lacks:
        ctx.exit(FAILED)


@models.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def add(path: Path, as_json: bool) -> None:
    """Make a folder of models known, or one file.

    It is remembered and looked through from now on, never copied: what is put into it later is found too.
    """
    from engine.checkpoints.library import scan
    from engine.checkpoints.places import add as remember

    place, is_new = remember(path)
    if as_json:
        models = [row(each) for each in scan(place)]
        print_json(
            {"path": str(place.path), "origin": place.origin, "new": is_new, "models": models}
        )
        return
    if not is_new:
        click.echo(f"known already: {printable(str(place.path))} ({place.origin})")
        return
    click.echo(printable(str(place.path)))
    found = scan(place)
    usable = of_wan(found)
    _print_table(usable, indent="  ")
    for each in found:
        if each.error:
            click.echo(printable(each.error), err=True)
    if not usable:
        click.echo("no model of Wan is in it yet; what is put there later will be found", err=True)


@models.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def remove(path: Path, as_json: bool) -> None:
    """Forget a folder or file that was added. Its files stay as they are."""
    from engine.checkpoints.places import remove as forget

    forgotten = str(forget(path))
    if as_json:
        print_json({"path": forgotten})
    else:
        click.echo(f"forgot {printable(forgotten)}; its files are untouched")


def _of_preset(name: str, among: Sequence[Found], *, is_named_so: bool) -> list[Needed]:
    """Where each component of a preset is; raises for a name that means nothing."""
    from engine.checkpoints.library import wanted
    from engine.components.needed import needed
    from presets.library.listing import list_presets
    from presets.library.loading import load_preset

    is_preset = name.endswith(".toml") or any(info.name == name for info in list_presets())
    if not is_named_so and not is_preset:
        wanted("", name)
    return needed(load_preset(name), among)


def _print_table(found: Sequence[Found], indent: str = "") -> None:
    from tui.describe.models.files import table

    for line in columns(table(found)):
        click.echo(indent + line)


def _print_places(*, as_json: bool) -> None:
    from engine.checkpoints.places import places

    known = places()
    if as_json:
        told = [{"path": str(p.path), "origin": p.origin, "exists": p.exists} for p in known]
        print_json({"places": told})
        return
    rows = [(p.origin, "" if p.exists else "not there", printable(str(p.path))) for p in known]
    print_lines(columns(rows))


def _say_where_it_looked() -> None:
    from engine.checkpoints.places import places

    there = [str(place.path) for place in places() if place.exists]
    click.echo(
        f"no model of Wan in {printable(', '.join(there)) or 'any known place'}; `modiff models add FOLDER` makes "
        "a folder known, `modiff models where wan2.1-t2v-1.3b` says what to download",
        err=True,
    )
